"""Claims in Azure Storage Queue, on a real Azurite: what is counted, receipts that change, answers that are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from tests.adapters.storage_queue_bench import LIMIT, Side, side, texts
from tests.servers.azurite import Account
from tidemill.adapters.storage_queue.queue import StorageQueue
from tidemill.errors import Unavailable
from tidemill.model import Dead, Done, Later, Lost, Message, Outcome, Settled, Verdict


@pytest.fixture
async def plain(azurite: Account) -> AsyncIterator[Side]:
    """The default form, with claims that end after a second."""
    async with side(azurite, "&poll=1", claim=1.0) as made:
        yield made


def message(body: bytes = b"{}", **said: Any) -> Message:
    return Message("jobs", "m-1", body, **said)


# --- counts -----------------------------------------------------------------------------------------------------


async def test_deliveries_without_a_verdict_are_counted(plain: Side) -> None:
    await plain.queue.send([message()])
    assert [(await plain.take_one()).deliveries for _ in range(2)] == [1, 2], "its claim ended after a second"
    third = await plain.take_one()
    assert await plain.settle(third, Done(), started=False) == Settled()
    fourth = await plain.take_one()
    assert (third.deliveries, fourth.deliveries) == (3, 3), "not started does not count and forgets nothing"
    await plain.settle(fourth, Later(0.0, "x", attempt=False))
    fifth = await plain.take_one()
    assert (fifth.attempt, fifth.deliveries, fifth.reason) == (0, 1, "x"), "a verdict ends the count"


async def test_a_lapsed_claim_that_somebody_else_has_is_lost(azurite: Account, plain: Side) -> None:
    await plain.queue.send([message()])
    stale = await plain.take_one()
    async with side(azurite, "&poll=1") as other:
        held = await other.take_one()
        for verdict in (Dead("x"), Done(), Later(0.0)):
            assert await plain.settle(stale, verdict) == Lost()
        assert list(await plain.queue.extend([stale])) == [Lost()]
        assert await plain.database.dead_letters().count("") == {}, "nothing was copied for a claim that is lost"
        assert await other.settle(held, Done()) == Settled()


async def test_a_lapsed_claim_that_nobody_has_yet_still_settles(azurite: Account) -> None:
    """Late by our clock, but the service has handed the message to nobody: no work is done twice for it."""
    async with side(azurite, claim=1.0) as ours:
        await ours.queue.send([message()])
        delivery = await ours.take_one()
        async with asyncio.timeout(LIMIT):
            while not await ours.theirs.peek_messages(1):
                await asyncio.sleep(0.05)
        assert await ours.settle(delivery, Done()) == Settled()


# --- receipts ---------------------------------------------------------------------------------------------------


async def test_receipts_are_renewed_while_the_claim_stays(plain: Side) -> None:
    await plain.queue.send([message(), message()])
    held = await plain.take(2)
    before = [delivery.deadline for delivery in held]
    for _ in range(3):
        deadlines = await plain.queue.extend(held)
        assert all(isinstance(new, float) and new >= old for new, old in zip(deadlines, before, strict=True))
    replies = await plain.queue.settle([Outcome(held[0], Done()), Outcome(held[1], Later(0.0))])
    assert list(replies) == [Settled(), Settled()]
    assert len(await plain.take()) == 1


async def test_an_extension_in_the_middle_of_a_settle_loses_no_claim(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.queue.send([message() for _ in range(20)])
        held = await ours.take(20)
        replies, _, _ = await asyncio.gather(
            ours.queue.settle([Outcome(delivery, Dead("x")) for delivery in held]),
            ours.queue.extend(held),
            ours.queue.extend(held),
        )
        assert list(replies) == [Settled()] * 20
        assert await ours.database.dead_letters().count("") == {"queue/jobs": 20}


class Mute:
    """A queue whose answer to the next request of one kind is lost on the way."""

    def __init__(self, queue: Any) -> None:
        self._queue = queue
        self.lose = ""

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._queue, name)

        async def call(*words: Any) -> Any:
            reply = await found(*words)
            if name == self.lose:
                self.lose = ""
                raise Unavailable("no answer")
            return reply

        return call


def muted(queue: StorageQueue) -> Mute:
    mute = Mute(queue._there)
    queue._there = cast(Any, mute)
    return mute


@pytest.mark.parametrize(
    ("verdict", "request_"), [(Done(), "delete"), (Later(0.0, "x"), "update"), (Dead("x"), "delete")]
)
async def test_a_settle_whose_answer_was_lost_is_settled_when_repeated(
    azurite: Account, verdict: Verdict, request_: str
) -> None:
    async with side(azurite) as ours:
        await ours.queue.send([message()])
        delivery = await ours.take_one()
        muted(ours.queue).lose = request_
        with pytest.raises(Unavailable):
            await ours.settle(delivery, verdict)
        assert await ours.settle(delivery, verdict) == Settled()
        assert len(await texts(ours.theirs)) == isinstance(verdict, Later)
        if isinstance(verdict, Dead):
            assert await ours.database.dead_letters().count("") == {"queue/jobs": 1}, "copied once"


async def test_another_outcome_after_one_without_an_answer_is_lost(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.queue.send([message()])
        delivery = await ours.take_one()
        muted(ours.queue).lose = "delete"
        with pytest.raises(Unavailable):
            await ours.settle(delivery, Done())
        assert await ours.settle(delivery, Later(0.0)) == Lost()


async def test_an_extension_whose_answer_was_lost_makes_the_claim_doubtful(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.queue.send([message()])
        delivery = await ours.take_one()
        muted(ours.queue).lose = "update"
        with pytest.raises(Unavailable):
            await ours.queue.extend([delivery])
        assert await ours.settle(delivery, Done()) == Lost(), "the receipt is an old one, and the message comes again"


async def test_claims_are_forgotten_some_time_after_their_end(azurite: Account) -> None:
    async with side(azurite, claim=1.0) as ours:
        await ours.queue.send([message()])
        for n in range(1, 4):
            assert (await ours.take_one()).deliveries == n
        assert len(ours.queue._claims._held) <= 2
