"""Azure Storage Queue on a real Azurite: the wire beside Functions, claims and receipts, limits, polling, outages."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from typing import Any

import pytest
from azure.storage.queue import TextBase64DecodePolicy, TextBase64EncodePolicy

from tests.adapters.storage_queue_bench import LIMIT, Side, side, texts
from tests.servers.azurite import Account
from tidemill.adapters.storage_queue.pace import Pace
from tidemill.errors import ConfigurationError, TooLarge, Unavailable
from tidemill.model import CollectionSpec, Dead, Done, Later, Lost, Message, Settled
from tidemill.testing.clock import FakeClock


@pytest.fixture
async def plain(azurite: Account) -> AsyncIterator[Side]:
    """The default form, with claims that end after a second."""
    async with side(azurite, "&poll=1", claim=1.0) as made:
        yield made


def message(body: bytes = b"{}", **said: Any) -> Message:
    return Message("jobs", "m-1", body, **said)


# --- the wire ---------------------------------------------------------------------------------------------------


async def test_what_functions_writes_is_read(azurite: Account) -> None:
    async with side(azurite) as ours:
        ours.theirs._message_encode_policy = TextBase64EncodePolicy()
        sent = await ours.theirs.send_message('{"number": "1", "who": "Zoë"}')
        delivery = await ours.take_one()
        assert (delivery.id, delivery.body) == (sent.id, '{"number": "1", "who": "Zoë"}'.encode())
        assert (delivery.key, delivery.headers, delivery.attempt, delivery.deliveries) == (None, {}, 0, 1)
        assert sent.inserted_on is not None
        assert delivery.sent_at == sent.inserted_on.timestamp()
        assert await ours.settle(delivery, Done()) == Settled()
        assert await texts(ours.theirs) == []


async def test_what_we_write_is_read_by_functions(azurite: Account) -> None:
    body = '{"number": "1",  "who": "Zoë"}'
    async with side(azurite) as ours:
        (id,) = await ours.queue.send([message(body.encode(), key="k", headers={"h": "v"})])
        assert await texts(ours.theirs) == [base64.b64encode(body.encode()).decode()]
        ours.theirs._message_decode_policy = TextBase64DecodePolicy()
        (read,) = await ours.theirs.peek_messages(1)
        assert (read.content, read.id) == (body, id), "the body alone, and the id that the service gave"


async def test_without_encoding_the_text_is_the_body(azurite: Account) -> None:
    async with side(azurite, "&encoding=none") as ours:
        await ours.queue.send([message('{"who": "Zoë <&>"}'.encode())])
        assert await texts(ours.theirs) == ['{"who": "Zoë <&>"}']
        await ours.theirs.send_message("1234")
        assert {one.body for one in await ours.take(2)} == {'{"who": "Zoë <&>"}'.encode(), b"1234"}


@pytest.mark.parametrize("body", [b"\0\xff", b"a\r\nb", b'{"tidemill": 1}\n{}', b"", "\ufffe".encode("utf-8")])
@pytest.mark.parametrize("encoding", ["base64", "none"])
async def test_a_body_of_any_kind_comes_as_it_was(azurite: Account, encoding: str, body: bytes) -> None:
    """One that XML does not hold, or that looks like an envelope, goes in an envelope."""
    async with side(azurite, f"&encoding={encoding}") as ours:
        await ours.queue.send([message(body)])
        delivery = await ours.take_one()
        assert delivery.body == body
        await ours.settle(delivery, Later(0.0, "once more"))
        again = await ours.take_one()
        assert (again.body, again.attempt) == (body, 1)


async def test_text_where_base64_is_expected_is_read_as_it_stands(plain: Side) -> None:
    await plain.theirs.send_message('{"n": 1}')
    assert (await plain.take_one()).body == b'{"n": 1}'


async def test_what_is_recorded_makes_an_envelope_of_a_plain_message(plain: Side) -> None:
    await plain.queue.send([message(b'{"n": 1}')])
    delivery = await plain.take_one()
    await plain.settle(delivery, Later(0.0, "it rained"))
    (text,) = await texts(plain.theirs)
    line, _, body = base64.b64decode(text).partition(b"\n")
    due = json.loads(line).pop("due")
    assert body == b'{"n": 1}'
    assert json.loads(line) == {"tidemill": 1, "attempt": 1, "uncounted": 1, "reason": "it rained", "due": due}
    again = await plain.take_one()
    assert (again.id, again.body, again.attempt, again.reason) == (delivery.id, b'{"n": 1}', 1, "it rained")
    assert again.sent_at == delivery.sent_at


async def test_an_envelope_is_read_where_plain_is_written(azurite: Account) -> None:
    async with side(azurite, "&envelope=yes") as theirs, side(azurite) as ours:
        await theirs.queue.send([message(b"1", key="k", headers={"h": "v"}, dedup="d")])
        delivery = await ours.take_one()
        assert (delivery.id, delivery.body, delivery.key, delivery.headers) == ("m-1", b"1", "k", {"h": "v"})


@pytest.mark.parametrize(
    "line",
    [
        '{"tidemill": 1, "id": 7, "key": [], "headers": {"h": 1}, "attempt": 1e999, "uncounted": "x", "sent_at": NaN}',
        '{"tidemill": 1, "attempt": 1' + "0" * 400 + ', "until": -1e308, "id": "\\ud800"}',
        '{"tidemill": 1, "deep": ' + "[" * 20_000,
        '{"tidemill": 2}',
        '{"tidemill": 1, "coding": "base64"}',
        '{"tidemill": 1, "theirs": "' + "x" * 49_000 + '"}',
    ],
    ids=["kinds", "numbers", "deep", "newer", "coding", "full"],
)
async def test_whatever_stands_in_a_message_it_is_worked_and_holds_up_nobody(plain: Side, line: str) -> None:
    text = base64.b64encode(f"{line}\n!".encode()).decode()
    await plain.theirs.send_message(text)
    await plain.queue.send([message(b"good")])
    held = {delivery.body == b"good": delivery for delivery in await plain.take(2)}
    bad = held[False]
    assert (bad.attempt, bad.deliveries) == (0, 1)
    assert bad.body.endswith(b"!")
    assert await plain.settle(bad, Later(0.0, "x")) == Settled()
    again = await plain.take_one()
    assert (again.body, again.attempt) == (bad.body, 1)
    assert await plain.settle(again, Dead("x")) == Settled()
    (letter,) = await plain.database.dead_letters().page("queue/jobs", -1, 10)
    assert letter.body == bad.body


# --- limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["", "&envelope=yes", "&encoding=none"])
async def test_the_largest_body_can_be_recorded_and_dies_whole(azurite: Account, options: str) -> None:
    async with side(azurite, options) as ours:
        body = b"x" * ours.database.limits.body
        await ours.queue.send([message(body)])
        assert await ours.settle(await ours.take_one(), Later(0.0, "why " * 2_000)) == Settled()
        again = await ours.take_one()
        assert (again.body, again.attempt) == (body, 1)
        assert again.reason.startswith("why why"), "as much of it as there is room for"
        assert await ours.settle(again, Dead("hopeless"), error="trace " * 20_000) == Settled()
        (letter,) = await ours.database.dead_letters().page("queue/jobs", -1, 10)
        assert (letter.body, letter.reason, letter.attempts) == (body, "hopeless", 2)
        assert letter.error.startswith("trace trace")


@pytest.mark.parametrize(("options", "most"), [("", 47_104), ("&encoding=none", 63_488)])
async def test_a_body_that_is_too_large_is_told_with_its_sizes(azurite: Account, options: str, most: int) -> None:
    async with side(azurite, options) as ours:
        assert ours.database.limits.body == most
        with pytest.raises(TooLarge, match=f"its body {most + 1:,} before it is encoded; the service takes 65,536"):
            await ours.queue.send([message(b"x" * (most + 1))])
        assert await texts(ours.theirs) == []


async def test_headers_that_are_too_large_are_told(azurite: Account) -> None:
    async with side(azurite, "&envelope=yes") as ours:
        with pytest.raises(TooLarge, match="or send fewer headers"):
            await ours.queue.send([message(b"x" * 40_000, headers={"h": "v" * 9_500})])


async def test_a_full_message_of_another_program_is_settled_though_nothing_fits(azurite: Account) -> None:
    async with side(azurite) as ours:
        text = base64.b64encode(b"y" * 49_152).decode()
        await ours.theirs.send_message(text)
        assert await ours.settle(await ours.take_one(), Later(0.0, "why")) == Settled()
        again = await ours.take_one()
        assert (again.body, again.attempt, again.deliveries) == (b"y" * 49_152, 0, 2), "so it still comes to an end"
        assert await ours.settle(again, Dead("why")) == Settled()
        assert await texts(ours.poison) == [text]


@pytest.mark.parametrize("options", ["", "&envelope=yes"])
async def test_a_delay_beyond_what_the_service_hides_is_made_of_several(azurite: Account, options: str) -> None:
    """A week there; here a second."""
    async with side(azurite, f"{options}&poll=1", longest=1.0) as ours:
        assert ours.database.limits.delay == float("inf")
        clock, began = time.monotonic, time.monotonic()
        await ours.queue.send([message(b"1", delay=2.5)])
        first = await ours.take_one()
        assert clock() - began >= 2.5
        began = clock()
        await ours.settle(first, Later(2.5, "x"))
        second = await ours.take_one()
        assert clock() - began >= 2.5
        assert [(one.body, one.attempt, one.deliveries) for one in (first, second)] == [(b"1", 0, 1), (b"1", 1, 1)]


# --- polling ----------------------------------------------------------------------------------------------------


async def test_pauses_grow_to_the_longest_and_begin_anew() -> None:
    clock = FakeClock()
    pace = Pace(clock, 10.0)
    asked: list[float] = []
    for _ in range(1_500):
        if pace.due():
            asked.append(clock.monotonic())
            pace.asked(0)
        await clock.advance(0.0625)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[0] < 0.2
    assert pauses == sorted(pauses)
    assert 10.0 <= pauses[-1] < 10.1
    assert not pace.due()
    pace.ring()
    assert pace.due()


async def test_a_send_of_the_same_process_ends_the_pause(azurite: Account) -> None:
    async with side(azurite, "&poll=300") as ours:
        for _ in range(30):
            assert list(await ours.queue.receive("me", 10, 0.0)) == []
        assert ours.queue._pace._pause == 300.0
        waiting = asyncio.create_task(ours.queue.receive("me", 10, LIMIT))
        await asyncio.sleep(0)
        await ours.queue.send([message()])
        async with asyncio.timeout(LIMIT / 2):
            assert len(await waiting) == 1


async def test_more_than_a_page_is_received_at_once(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.queue.send([message() for _ in range(80)])
        taken = await ours.queue.receive("me", 70, 0.0)
        assert len({delivery.id for delivery in taken}) == 70
        depth = await ours.queue.depth()
        assert (depth.ready, depth.delayed, depth.claimed) == (10, 0, 70)


async def test_the_depth_tells_what_others_hold_as_delayed(azurite: Account) -> None:
    async with side(azurite) as ours, side(azurite) as other:
        await ours.queue.send([message() for _ in range(40)])
        await other.take(3)
        depth = await ours.queue.depth()
        assert (depth.ready, depth.delayed, depth.claimed) == (40, 0, 0), "beyond a page nobody can tell"
        await ours.take(10)
        depth = await ours.queue.depth()
        assert (depth.ready, depth.delayed, depth.claimed) == (27, 3, 10)


# --- outages ----------------------------------------------------------------------------------------------------


async def test_a_queue_that_is_removed_under_us_is_made_again(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.queue.send([message()])
        delivery = await ours.take_one()
        await ours.theirs.delete_queue()
        assert list(await ours.queue.extend([delivery])) == [Lost()]
        assert list(await ours.queue.receive("me", 10, 0.0)) == []
        await ours.queue.send([message()])
        assert len(await ours.take()) == 1


async def test_without_create_it_is_told(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.poison.create_queue()
        async with side(azurite, "&create=no") as careful:
            await ours.theirs.delete_queue()
            with pytest.raises(Unavailable, match=r"a queue is not there .404 QueueNotFound.: it was removed"):
                await careful.queue.receive("me", 10, 0.0)
            with pytest.raises(Unavailable):
                await careful.queue.send([message()])
            depth = await careful.queue.depth()
            assert (depth.ready, depth.delayed) == (0, 0)


async def test_without_create_both_queues_must_be_there(azurite: Account) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no queue 't\d+-jobs'; create it .az storage queue create"):
        async with side(azurite, "&create=no"):
            pass
    async with side(azurite):
        with pytest.raises(ConfigurationError, match="-jobs-poison'; create it"):
            async with side(azurite, "&create=no"):
                pass


async def test_a_closed_backend_is_unavailable(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.database.close()
        await ours.database.close()
        with pytest.raises(Unavailable, match="not connected"):
            await ours.queue.receive("me", 1, 0.0)


async def test_what_is_not_offered_is_refused_with_a_reason(azurite: Account) -> None:
    async with side(azurite) as ours:
        for ask in (ours.queue.peek("", 10), ours.queue.purge()):
            with pytest.raises(ConfigurationError, match="queue 'jobs': "):
                await ask
        with pytest.raises(ConfigurationError, match="has queues only: set another URL for things"):
            await ours.database.open([CollectionSpec("things")], [])
