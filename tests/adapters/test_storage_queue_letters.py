"""Dead letters in the poison queue beside each queue, on a real Azurite."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest

from tests.adapters.storage_queue_bench import Side, side, texts
from tests.servers.azurite import Account
from tidemill.adapters.storage_queue import StorageQueues, letters
from tidemill.adapters.storage_queue.letter import order
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.model import Dead, DeadLetter, Later, Message, Outcome, QueueSpec

SOURCE = "queue/jobs"


@pytest.fixture
async def ours(azurite: Account) -> AsyncIterator[Side]:
    async with side(azurite, "&envelope=yes") as made:
        yield made


async def bury(ours: Side, count: int, key: str | None = None) -> list[str]:
    """So many dead messages; their ids."""
    ids = [f"m-{n}" for n in range(count)]
    await ours.queue.send([Message("jobs", id, id.encode(), key=key) for id in ids])
    held = await ours.take(count)
    await ours.queue.settle([Outcome(delivery, Dead("hopeless"), error="the error") for delivery in held])
    return ids


async def found(ours: Side) -> list[DeadLetter]:
    return list(await ours.database.dead_letters().page(SOURCE, -1, 1_000))


async def test_the_poison_queue_has_the_body_and_why(ours: Side) -> None:
    await ours.queue.send([Message("jobs", "m-1", b'{"n": 1}', key="k", headers={"h": "v"})])
    await ours.settle(await ours.take_one(), Later(0.0, "first"))
    await ours.settle(await ours.take_one(), Dead("hopeless"), error="Traceback …")
    (text,) = await texts(ours.poison)
    line, _, body = base64.b64decode(text).partition(b"\n")
    said = json.loads(line)
    assert body == b'{"n": 1}'
    assert {name: said[name] for name in ("tidemill", "id", "key", "headers", "attempts", "reason", "error")} == {
        "tidemill": 1,
        "id": "m-1",
        "key": "k",
        "headers": {"h": "v"},
        "attempts": 2,
        "reason": "hopeless",
        "error": "Traceback …",
    }
    assert {"attempt", "uncounted", "due"}.isdisjoint(said)
    (letter,) = await found(ours)
    assert (letter.order, letter.at) == (said["order"], said["at"])


async def test_what_functions_has_put_there_is_shown_and_released(azurite: Account) -> None:
    async with side(azurite) as ours:
        await ours.poison.create_queue()
        sent = await ours.poison.send_message(base64.b64encode(b'{"n": 1}').decode())
        (letter,) = await found(ours)
        assert (letter.id, letter.body, letter.reason) == (sent.id, b'{"n": 1}', "put here by another program")
        assert sent.inserted_on is not None
        assert letter.at == sent.inserted_on.timestamp()
        assert await ours.database.dead_letters().release(SOURCE, [sent.id]) == 1
        back = await ours.take_one()
        assert (back.id, back.body, back.attempt, back.deliveries) == (sent.id, b'{"n": 1}', 0, 1)


async def test_pages_counts_keys_and_drops(ours: Side) -> None:
    home = ours.database.dead_letters()
    assert (await home.count(""), await home.page(SOURCE, -1, 10)) == ({}, [])
    await bury(ours, 6, "k")
    whole = await found(ours)
    assert [one.order for one in whole] == sorted({one.order for one in whole})
    first = await home.page(SOURCE, -1, 4)
    rest = await home.page(SOURCE, first[-1].order, 4)
    assert [*first, *rest] == whole
    assert len(await home.page(SOURCE, -1, 10, "k")) == 6
    assert list(await home.page(SOURCE, -1, 10, "other")) == []
    assert await home.count("queue/") == {SOURCE: 6}
    assert await home.count("queue/other") == await home.count("feed/") == {}
    assert await home.drop(SOURCE, ["m-0", "none", "m-3", "m-0"]) == 2
    assert sorted(one.id for one in await found(ours)) == ["m-1", "m-2", "m-4", "m-5"]
    assert await home.drop(SOURCE, ["m-0"]) == 0


async def test_more_than_the_service_shows_is_shown_to_several_at_once(azurite: Account, ours: Side) -> None:
    ids = sorted(await bury(ours, 70))
    async with side(azurite, "&envelope=yes") as other:
        for one, two in [await asyncio.gather(found(ours), found(other)) for _ in range(3)]:
            assert sorted(letter.id for letter in one) == sorted(letter.id for letter in two) == ids
        released, dropped = await asyncio.gather(
            ours.database.dead_letters().release(SOURCE, ids[:40]), other.database.dead_letters().drop(SOURCE, ids[40:])
        )
        assert (released, dropped) == (40, 30)
        assert sorted(delivery.id for delivery in await ours.take(40)) == ids[:40]
        assert await found(ours) == []


async def test_two_copies_of_one_are_shown_as_one_and_removed_together(ours: Side) -> None:
    """As a crash between copy and removal leaves them."""
    await bury(ours, 2)
    (text, _) = await texts(ours.poison)
    await ours.poison.send_message(text)
    assert len(await found(ours)) == 2
    assert await ours.database.dead_letters().count("") == {SOURCE: 3}, "the service counts messages"
    assert await ours.database.dead_letters().release(SOURCE, ["m-0", "m-1"]) == 2
    assert sorted(delivery.id for delivery in await ours.take(2)) == ["m-0", "m-1"]
    assert list(await ours.queue.receive("me", 10, 0.0)) == []
    assert await found(ours) == []


async def test_a_walk_that_ended_in_the_middle_hides_nothing_for_good(
    azurite: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with side(azurite, "&envelope=yes") as ours:
        ids = await bury(ours, 40)
        hidden = [one async for one in ours.poison.receive_messages(visibility_timeout=1, messages_per_page=32)]
        assert len(hidden) == 40
        monkeypatch.setattr(letters, "PAUSES", (0.0, 0.5, 0.5, 0.5))
        assert len(await found(ours)) == len(ids)


async def test_put_keeps_what_belongs_here_and_refuses_the_rest(ours: Side) -> None:
    home = ours.database.dead_letters()
    letter = DeadLetter(SOURCE, "a", "k", 7, b"\0body", 3, "why", "error", 1.25, {"h": "v"}, {"sent_at": 1.0})
    await home.put([letter, letter])
    await home.put([letter])
    assert await found(ours) == [letter]
    elsewhere = DeadLetter("feed/bill/0", "a", "k", 7, b"", 3, "why", "error", 1.25)
    for call in (home.put([elsewhere]), home.page("feed/bill/0", -1, 10), home.release("queue/other", ["a"])):
        with pytest.raises(ConfigurationError, match=r"keeps the dead letters of its own queues: queue/jobs"):
            await call


async def test_letters_of_a_queue_with_a_long_name(azurite: Account) -> None:
    names = [f"{'a' * 40}-{'b' * 10}{n}" for n in range(2)]
    database = StorageQueues.from_url(azurite.url("&envelope=yes"), SystemClock())
    specs = [QueueSpec(name) for name in names]
    try:
        await database.open([], specs)
        for spec in specs:
            await database.queue(spec).send([Message(spec.name, spec.name, b"1")])
            (delivery,) = await database.queue(spec).receive("me", 1, 0.0)
            await database.queue(spec).settle([Outcome(delivery, Dead("x"))])
        assert await database.dead_letters().count("") == {f"queue/{name}": 1 for name in names}
    finally:
        await database.close()


def test_orders_go_by_time_and_stay_whole_in_json() -> None:
    at = 1_900_000_000.5
    assert order(at, "a") < order(at + 0.001, "a") < 2**53
    assert len({order(at, f"m-{n}") for n in range(10)}) == 10
