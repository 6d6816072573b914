"""Queues with sessions on the double: order per key, one at a time, hand-overs."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from tests.doubles.service_bus.server import Fault, Server
from tests.doubles.service_bus.state import Entity
from tests.servers.service_bus import LOCK, url_of
from tests.servers.service_bus import bus as bus
from tidemill.adapters.service_bus import ServiceBus
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError, Unavailable
from tidemill.model import Dead, Delivery, Done, Later, Lost, Message, Outcome, QueueSpec, Settled, Verdict
from tidemill.ports import Queue
from tidemill.testing.conformance.suite import settle_one

ORDERS = QueueSpec("orders", key="customer")


@pytest.fixture
async def orders(bus: Server) -> Entity:
    return bus.namespace.create("orders", lock=LOCK, deliveries=100, sessions=True)


@asynccontextmanager
async def clients(count: int) -> AsyncIterator[list[Queue]]:
    """Replicas: the queue of a database of its own each."""
    databases = [ServiceBus.from_url(url_of(), SystemClock()) for _ in range(count)]
    try:
        await asyncio.gather(*(database.open([], [ORDERS]) for database in databases))
        yield [database.queue(ORDERS) for database in databases]
    finally:
        await asyncio.gather(*(database.close() for database in databases))


@asynccontextmanager
async def client() -> AsyncIterator[Queue]:
    async with clients(1) as (queue,):
        yield queue


def message(id: str, key: str, **more: float) -> Message:
    return Message("orders", id, id.encode(), key=key, **more)  # type: ignore[arg-type]


async def some(queue: Queue, limit: int = 10, within: float = 8.0) -> list[Delivery]:
    """What the engine gets: it asks again and again."""
    clock = SystemClock()
    until = clock.monotonic() + within
    while clock.monotonic() < until:
        if found := list(await queue.receive("me", limit, 0.5)):
            return found
    return []


async def collect(
    queue: Queue, count: int, verdict: Callable[[Delivery], Verdict] = lambda _: Done()
) -> list[Delivery]:
    """Take and settle until so many have come."""
    seen: list[Delivery] = []
    while len(seen) < count:
        found = await some(queue)
        assert found, f"no more than {len(seen)} of {count} came"
        seen += found
        replies = await queue.settle([Outcome(delivery, verdict(delivery)) for delivery in found])
        assert list(replies) == [Settled()] * len(found)
    return seen


async def test_order_per_key_and_one_at_a_time(orders: Entity) -> None:
    async with client() as queue:
        await queue.send([message(f"{key}{n}", key) for n in range(4) for key in "abc"])
        out: set[str | None] = set()
        order: dict[str | None, list[str]] = defaultdict(list)
        while sum(map(len, order.values())) < 12:
            for delivery in await some(queue):
                assert delivery.key not in out, "the one before it was not settled"
                out.add(delivery.key)
                order[delivery.key].append(delivery.id)
                assert (delivery.attempt, delivery.deliveries) == (0, 1)
                assert await settle_one(queue, delivery, Done()) == Settled()
                out.discard(delivery.key)
        assert dict(order) == {key: [f"{key}{n}" for n in range(4)] for key in "abc"}
        assert list(await queue.receive("me", 10, 0.0)) == []


async def test_nothing_of_a_session_comes_while_its_message_is_out(orders: Entity) -> None:
    async with clients(2) as (queue, peer):
        await queue.send([message(f"a{n}", "a") for n in range(3)])
        (first,) = await some(queue)
        assert list(await queue.receive("me", 10, 0.3)) == []
        assert list(await peer.receive("it", 10, 0.3)) == []
        await settle_one(queue, first, Done())
        (second,) = await some(queue)
        assert (first.id, second.id) == ("a0", "a1")


async def test_two_replicas_share_the_sessions_and_keep_the_order(orders: Entity) -> None:
    keys = [f"k{n}" for n in range(8)]
    order: dict[str | None, list[str]] = defaultdict(list)
    out: set[str | None] = set()
    by: set[int] = set()

    async def work(queue: Queue, which: int) -> None:
        while sum(map(len, order.values())) < 40:
            for delivery in await queue.receive(str(which), 2, 0.3):
                assert delivery.key not in out, "two have a message of one key"
                out.add(delivery.key)
                await asyncio.sleep(0.005)
                order[delivery.key].append(delivery.id)
                by.add(which)
                out.discard(delivery.key)
                assert await settle_one(queue, delivery, Done()) == Settled()

    async with clients(2) as (one, two):
        await one.send([message(f"{key}/{n}", key) for n in range(5) for key in keys])
        await asyncio.wait_for(asyncio.gather(work(one, 1), work(two, 2)), 60)
    assert dict(order) == {key: [f"{key}/{n}" for n in range(5)] for key in keys}
    assert by == {1, 2}
    assert not orders.entries


async def test_later_keeps_the_order_and_the_delay(orders: Entity) -> None:
    async with client() as queue:
        await queue.send([message("a0", "a"), message("a1", "a"), message("b0", "b")])
        tries: list[tuple[str, int, str]] = []

        def judge(delivery: Delivery) -> Verdict:
            tries.append((delivery.id, delivery.attempt, delivery.reason))
            return Later(0.4, f"try {delivery.attempt}") if delivery.id == "a0" and delivery.attempt < 2 else Done()

        clock = SystemClock()
        began = clock.monotonic()
        await collect(queue, 5, judge)
        assert clock.monotonic() - began >= 0.8
        assert [seen for seen in tries if seen[0] != "b0"] == [
            ("a0", 0, ""), ("a0", 1, "try 0"), ("a0", 2, "try 1"), ("a1", 0, ""),
        ]  # fmt: skip
        assert orders.sessions["a"].state is None, "nothing stays behind"


async def test_a_waiting_message_outlasts_the_lock_because_receive_renews_it(orders: Entity) -> None:
    async with clients(2) as (queue, peer):
        await queue.send([message("a0", "a"), message("a1", "a")])
        (first,) = await some(queue)
        await settle_one(queue, first, Later(LOCK * 2, "wait"))
        for _ in range(int(LOCK * 2 / 0.5)):
            assert list(await peer.receive("it", 10, 0.2)) == []
            if found := list(await queue.receive("me", 10, 0.2)):
                break
        (again,) = found or await some(queue)
        assert (again.id, again.attempt, again.deliveries, again.reason) == ("a0", 1, 1, "wait")


async def test_attempts_and_time_survive_a_hand_over(orders: Entity) -> None:
    clock = SystemClock()
    async with client() as first:
        await first.send([message("a0", "a"), message("a1", "a")])
        (delivery,) = await some(first)
        asked = clock.monotonic()
        await settle_one(first, delivery, Later(3.0, "the first"))
    async with client() as second:  # the first has closed its sessions, which counts as no hand-out
        (again,) = await some(second)
        assert clock.monotonic() - asked >= 2.9
        assert (again.id, again.attempt, again.deliveries, again.reason) == ("a0", 1, 1, "the first")
        await settle_one(second, again, Done())
        (other,) = await some(second)
        assert (other.id, other.attempt, other.reason) == ("a1", 0, ""), "what was noted is of one message"


async def test_a_lost_session_loses_all_its_deliveries_and_counts_the_hand_out(bus: Server, orders: Entity) -> None:
    async with client() as queue:
        await queue.send([message("a0", "a")])
        (first,) = await some(queue)
        bus.namespace.clock.offset += LOCK + 1
        while orders.sessions["a"].holder is not None:
            await asyncio.sleep(0.01)
        assert list(await queue.extend([first])) == [Lost()]
        assert await settle_one(queue, first, Done()) == Lost()
        (second,) = await some(queue)
        assert (second.id, second.attempt, second.deliveries) == ("a0", 0, 2)
        await settle_one(queue, second, Later(0.0, "x"))
        (third,) = await some(queue)
        assert (third.attempt, third.deliveries) == (1, 1), "a verdict ends the count"


async def test_extend_keeps_the_session(orders: Entity) -> None:
    async with clients(2) as (queue, peer):
        await queue.send([message("a0", "a")])
        (held,) = await some(queue)
        for _ in range(5):
            await asyncio.sleep(LOCK / 3)
            (deadline,) = await queue.extend([held])
            assert isinstance(deadline, float)
        assert list(await peer.receive("it", 10, 0.2)) == []
        assert await settle_one(queue, held, Done()) == Settled()


async def test_not_started_comes_again_as_it_was(orders: Entity) -> None:
    async with client() as queue:
        await queue.send([message("a0", "a"), message("a1", "a")])
        for _ in range(3):
            (delivery,) = await some(queue)
            assert (delivery.id, delivery.attempt, delivery.deliveries) == ("a0", 0, 1)
            assert await settle_one(queue, delivery, Done(), started=False) == Settled()
            assert await settle_one(queue, delivery, Done(), started=False) == Settled(), "again"
            assert await settle_one(queue, delivery, Dead("x")) == Lost()


async def test_dead_ones_make_room_for_the_next(bus: Server, orders: Entity) -> None:
    database = ServiceBus.from_url(url_of(), SystemClock())
    await database.open([], [ORDERS])
    try:
        queue, letters = database.queue(ORDERS), database.dead_letters()
        await queue.send([message("a0", "a"), message("a1", "a")])
        (first,) = await some(queue)
        await settle_one(queue, first, Later(0.0, "once"))
        (first,) = await some(queue)
        await settle_one(queue, first, Dead("no use"))
        (second,) = await some(queue)
        assert second.id == "a1"
        (letter,) = await letters.page("queue/orders", -1, 10)
        assert (letter.id, letter.key, letter.reason, letter.attempts, letter.error) == (
            "a0",
            "a",
            "no use",
            2,
            "the error",
        )
        await settle_one(queue, second, Done())
        assert await letters.release("queue/orders", ["a0"]) == 1
        (back,) = await some(queue)
        assert (back.id, back.key, back.attempt) == ("a0", "a", 0)
    finally:
        await database.close()


async def test_an_idle_session_is_closed_so_that_others_may_have_it(bus: Server, orders: Entity) -> None:
    async with clients(2) as (queue, peer):
        await queue.send([message("a0", "a")])
        await collect(queue, 1)
        for _ in range(30):
            await queue.receive("me", 10, 0.2)
            if orders.sessions["a"].holder is None:
                break
        assert orders.sessions["a"].holder is None
        await queue.send([message("a1", "a")])
        (delivery,) = await some(peer)
        assert delivery.id == "a1"


async def test_a_dropped_connection_loses_what_was_out_and_nothing_else(bus: Server, orders: Entity) -> None:
    async with client() as queue:
        await queue.send([message(f"{key}{n}", key) for n in range(2) for key in "ab"])
        held = await some(queue)
        bus.drop()
        assert set(await queue.settle([Outcome(delivery, Done()) for delivery in held])) <= {Lost()}
        seen: list[str] = []
        for _ in range(60):
            try:
                for delivery in await queue.receive("me", 10, 0.3):
                    seen.append(delivery.id)
                    await settle_one(queue, delivery, Done())
            except Unavailable:
                continue
            if len(seen) == 4:
                break
        assert [id for id in seen if id[0] == "a"] == ["a0", "a1"]
        assert [id for id in seen if id[0] == "b"] == ["b0", "b1"]
        assert not orders.entries


async def test_a_state_that_was_not_written_is_unknown_and_written_again(bus: Server, orders: Entity) -> None:
    async with client() as queue:
        await queue.send([message("a0", "a")])
        (first,) = await some(queue)
        bus.faults.append(Fault("set-session-state", "busy"))
        with pytest.raises(Unavailable, match="busy"):
            await queue.settle([Outcome(first, Later(0.0, "x"))])
        assert list(await queue.settle([Outcome(first, Later(0.0, "x"))])) == [Settled()]
        (again,) = await some(queue)
        assert (again.attempt, again.reason) == (1, "x")


async def test_a_scheduled_message_of_a_session_comes_when_it_is_due(bus: Server, orders: Entity) -> None:
    async with client() as queue:
        await queue.send([message("a0", "a", delay=600.0), message("a1", "a")])
        (first,) = await some(queue)
        assert first.id == "a1"
        await settle_one(queue, first, Done())
        bus.namespace.clock.offset = 605.0
        (second,) = await some(queue)
        assert second.id == "a0"


async def test_long_and_missing_keys_have_sessions_of_their_own(orders: Entity) -> None:
    async with client() as queue:
        keys: list[str | None] = ["x" * 300, "x" * 301, None, ""]
        await queue.send([Message("orders", str(n), b"", key=key) for n, key in enumerate(keys)])
        seen = await collect(queue, 4)
        assert {delivery.id: delivery.key for delivery in seen}.items() >= {
            ("0", "x" * 300),
            ("1", "x" * 301),
            ("3", ""),
        }
        assert len(orders.sessions) == 4


async def test_what_sessions_cannot_do_is_said(orders: Entity) -> None:
    async with client() as queue:
        with pytest.raises(ConfigurationError, match="orders"):
            await queue.peek("", 10)
        with pytest.raises(ConfigurationError, match="orders"):
            await queue.purge()
        await queue.send([message("a0", "a")])
        (held,) = await some(queue)
        assert (await queue.depth()).claimed == 1
        await settle_one(queue, held, Later(60.0))
        assert (await queue.depth()).delayed == 1
