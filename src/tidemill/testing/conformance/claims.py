"""Conformance of `tidemill.ports.Queue`: claims, verdicts, what each of them counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tidemill.model import Dead, Delivery, Done, Later, Lost, Outcome, Settled, Verdict
from tidemill.ports import Database, Queue
from tidemill.testing.conformance.bench import QUEUE, Bench, need
from tidemill.testing.conformance.suite import (
    Advance,
    Suite,
    message,
    need_claims_of_members,
    settle_one,
    take,
    take_one,
)


def counts(delivery: Delivery) -> tuple[int, int, str]:
    return delivery.attempt, delivery.deliveries, delivery.reason


class ClaimConformance(Suite):
    """The part of `QueueConformance` that begins when a message was received."""

    # --- verdicts -------------------------------------------------------------------------------------------

    async def test_done_removes_the_message(self, queue: Queue) -> None:
        await queue.send([message("a")])
        assert await settle_one(queue, await take_one(queue), Done()) == Settled()
        assert await take(queue) == []
        depth = await queue.depth()
        assert (depth.ready, depth.delayed, depth.claimed) == (0, 0, 0)

    async def test_later_counts_an_attempt_if_it_says_so(self, queue: Queue) -> None:
        await queue.send([message("a", body=b"1", key="k")])
        first = await take_one(queue)
        await settle_one(queue, first, Later(0.0, "it rained"))
        second = await take_one(queue)
        assert counts(second) == (1, 1, "it rained")
        await settle_one(queue, second, Later(0.0, "not yet", attempt=False))
        third = await take_one(queue)
        assert counts(third) == (1, 1, "not yet")
        await settle_one(queue, third, Later(0.0, "again"))
        assert counts(await take_one(queue)) == (2, 1, "again")
        assert (third.body, third.key, third.sent_at) == (b"1", "k", first.sent_at)

    async def test_later_comes_after_the_delay(
        self, queue: Queue, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "delay")
        await queue.send([message("a")])
        await settle_one(queue, await take_one(queue), Later(10 * tick))
        await advance(2 * tick)
        assert await take(queue) == []
        await advance(9 * tick)
        assert [delivery.id for delivery in await take(queue)] == ["a"]

    async def test_what_was_not_started_returns_as_it_was(self, queue: Queue) -> None:
        await queue.send([message("a")])
        await settle_one(queue, await take_one(queue), Later(0.0, "why"))
        for _ in range(3):
            delivery = await take_one(queue)
            assert counts(delivery) == (1, 1, "why")
            assert await settle_one(queue, delivery, Later(3600.0, "unused"), started=False) == Settled()

    async def test_what_was_not_started_keeps_its_place(
        self, queue: Queue, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "order")
        await queue.send([message("old")])
        await advance(tick)
        await queue.send([message("new")])
        await settle_one(queue, await take_one(queue), Done(), started=False)
        assert [delivery.id for delivery in await take(queue)] == ["old", "new"]

    async def test_dead_moves_the_message_to_the_dead_letters(self, queue: Queue, database: Database) -> None:
        need(database, "dead_letters")
        sent = replace(message("a", body=b"\0body", key="k"), headers={"h": "\u00e9"})
        await queue.send([sent, message("b")])
        for delivery in await take(queue):
            await settle_one(queue, delivery, Later(0.0, "first"))
        for delivery in await take(queue):
            assert await settle_one(queue, delivery, Dead(f"{delivery.id} is hopeless")) == Settled()
        assert await take(queue) == []
        a, b = sorted(await database.dead_letters().page("queue/jobs", -1, 10), key=lambda letter: letter.id)
        assert (a.source, a.id, a.body, a.key, dict(a.headers)) == ("queue/jobs", "a", b"\0body", "k", {"h": "\u00e9"})
        assert (a.reason, a.error, b.reason, b.key) == ("a is hopeless", "the error", "b is hopeless", None)
        assert a.attempts == 2, "the failure that ended it is counted"
        assert a.order != b.order
        assert a.at > 0

    async def test_each_outcome_of_a_batch_is_by_itself(self, queue: Queue) -> None:
        await queue.send([message(id) for id in ("done", "later", "dead", "back", "lost")])
        held = {delivery.id: delivery for delivery in await take(queue)}
        await settle_one(queue, held["lost"], Done())
        replies = await queue.settle(
            [
                Outcome(held["done"], Done()),
                Outcome(held["lost"], Later(0.0)),
                Outcome(held["later"], Later(0.0, "x")),
                Outcome(held["dead"], Dead("y")),
                Outcome(held["back"], Done(), started=False),
            ]
        )
        assert list(replies) == [Settled(), Lost(), Settled(), Settled(), Settled()]
        assert {delivery.id: counts(delivery) for delivery in await take(queue)} == {
            "later": (1, 1, "x"),
            "back": (0, 1, ""),
        }

    # --- repeated, late, wrong ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("verdict", "started"),
        [(Done(), True), (Later(0.0, "x"), True), (Dead("x"), True), (Done(), False)],
        ids=["done", "later", "dead", "not-started"],
    )
    async def test_a_repeated_settle_is_settled_and_does_nothing(
        self, queue: Queue, database: Database, verdict: Verdict, started: bool
    ) -> None:
        await queue.send([message("a")])
        outcome = Outcome(await take_one(queue), verdict, started)
        assert list(await queue.settle([outcome])) == [Settled()]
        assert list(await queue.settle([outcome])) == [Settled()]
        again = await take(queue, "b")
        expected = {True: (1, 1, "x"), False: (0, 1, "")}
        assert [counts(delivery) for delivery in again] == ([expected[started]] if comes_back(outcome) else [])
        assert list(await queue.settle([outcome])) == [Settled()], "even when somebody else has it by now"
        assert all(isinstance(reply, float) for reply in await queue.extend(again))
        if isinstance(verdict, Dead) and "dead_letters" in database.features:
            assert len(await database.dead_letters().page("queue/jobs", -1, 10)) == 1

    async def test_an_outcome_twice_in_one_call_has_effect_once(self, queue: Queue) -> None:
        await queue.send([message("a")])
        outcome = Outcome(await take_one(queue), Later(0.0, "x"))
        assert list(await queue.settle([outcome, outcome])) == [Settled(), Settled()]
        assert [counts(delivery) for delivery in await take(queue)] == [(1, 1, "x")]

    async def test_another_outcome_for_a_settled_claim_is_lost(self, queue: Queue, database: Database) -> None:
        await queue.send([message("a"), message("b")])
        held = {delivery.id: delivery for delivery in await take(queue)}
        await settle_one(queue, held["a"], Done())
        await settle_one(queue, held["b"], Later(3600.0))
        for delivery in held.values():
            assert await settle_one(queue, delivery, Dead("too late")) == Lost()
        if "dead_letters" in database.features:
            assert list(await database.dead_letters().page("queue/jobs", -1, 10)) == []

    async def test_a_claim_that_never_was_is_lost(self, queue: Queue) -> None:
        await queue.send([message("a")])
        held = await take_one(queue)
        unknown = [held._replace(claim="no-such-claim"), held._replace(id="nobody", claim="1.2")]
        for delivery in unknown:
            assert await settle_one(queue, delivery, Done()) == Lost()
        assert list(await queue.extend(unknown)) == [Lost(), Lost()]
        assert await settle_one(queue, held, Done()) == Settled()

    async def test_a_stale_claim_is_lost_and_disturbs_nobody(self, queue: Queue, database: Database) -> None:
        await queue.send([message("a")])
        stale = await take_one(queue, "old")
        need_claims_of_members(stale)
        await queue.free(["old"])
        held = await take_one(queue, "new")
        assert held.claim != stale.claim
        for verdict in (Done(), Later(0.0), Dead("x")):
            assert await settle_one(queue, stale, verdict) == Lost()
        assert await settle_one(queue, stale, Done(), started=False) == Lost()
        assert list(await queue.extend([stale, held])) == [Lost(), float("inf")]
        assert await take(queue) == []
        assert await settle_one(queue, held, Done()) == Settled()
        if "dead_letters" in database.features:
            assert list(await database.dead_letters().page("queue/jobs", -1, 10)) == []

    async def test_extend_keeps_a_claim(self, queue: Queue) -> None:
        await queue.send([message("a"), message("b"), message("c")])
        held = {delivery.id: delivery for delivery in await take(queue)}
        await settle_one(queue, held["b"], Done())
        await settle_one(queue, held["c"], Later(0.0))
        (a, b, c) = await queue.extend([held["a"], held["b"], held["c"]])
        assert isinstance(a, float)
        assert a >= held["a"].deadline
        assert (b, c) == (Lost(), Lost())

    async def test_settle_of_nothing(self, queue: Queue) -> None:
        assert list(await queue.settle([])) == []
        assert list(await queue.extend([])) == []

    # --- owners ---------------------------------------------------------------------------------------------

    async def test_free_ends_all_claims_of_an_owner(self, queue: Queue) -> None:
        await queue.send([message(str(n)) for n in range(4)])
        mine = await queue.receive("dead", 2, 0.0)
        need_claims_of_members(mine[0])
        await queue.receive("alive", 1, 0.0)
        assert list(await queue.free(["dead", "unknown"])) == ["alive"]
        again = await take(queue, "next")
        assert sorted(delivery.deliveries for delivery in again) == [1, 2, 2]
        assert {delivery.id for delivery in mine} <= {delivery.id for delivery in again}
        assert all(delivery.attempt == 0 for delivery in again)
        assert list(await queue.extend(mine)) == [Lost(), Lost()]

    async def test_free_names_all_who_still_hold_claims(self, queue: Queue) -> None:
        assert list(await queue.free([])) == []
        await queue.send([message(str(n)) for n in range(6)])
        for owner in ("a", "b", "c"):
            delivery = (await queue.receive(owner, 2, 0.0))[0]
            need_claims_of_members(delivery)
        assert sorted(await queue.free([])) == ["a", "b", "c"]
        assert await take(queue) == []
        assert sorted(await queue.free(["b"])) == ["a", "c"]
        assert sorted(await queue.free(["b", "a", "c"])) == []
        assert len(await take(queue)) == 6

    async def test_who_has_settled_holds_nothing(self, queue: Queue) -> None:
        await queue.send([message(id) for id in "abc"])
        for verdict in (Done(), Later(3600.0), Dead("x")):
            delivery = await take_one(queue, "a")
            need_claims_of_members(delivery)
            await settle_one(queue, delivery, verdict)
        assert list(await queue.free([])) == []

    async def test_deliveries_without_a_verdict_are_counted(self, queue: Queue) -> None:
        await queue.send([message("a")])
        for n in (1, 2, 3):
            delivery = await take_one(queue, f"owner-{n}")
            need_claims_of_members(delivery)
            assert counts(delivery) == (0, n, "")
            await queue.free([f"owner-{n}"])
        fourth = await take_one(queue)
        await settle_one(queue, fourth, Done(), started=False)
        fifth = await take_one(queue)
        assert (fourth.deliveries, fifth.deliveries) == (4, 4), "not started does not count and forgets nothing"
        await settle_one(queue, fifth, Later(0.0, "x", attempt=False))
        assert counts(await take_one(queue)) == (0, 1, "x"), "a verdict ends the count"

    async def test_what_is_freed_is_due_at_once_and_wakes(
        self, bench: Bench, queue: Queue, peer: Database, advance: Advance, tick: float
    ) -> None:
        await queue.send([message("a")])
        need_claims_of_members(await take_one(queue, "dead"))
        waiting = asyncio.create_task(queue.receive("alive", 10, 1.0))
        await advance(tick)
        await peer.queue(QUEUE).free(["dead"])
        (delivery,) = await bench.soon(waiting)
        assert counts(delivery) == (0, 2, "")


def comes_back(outcome: Outcome) -> bool:
    return not outcome.started or isinstance(outcome.verdict, Later)
