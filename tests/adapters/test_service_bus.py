"""The Service Bus backend on the double: locks, verdicts, copies. Sessions have a file of their own."""

from __future__ import annotations

import asyncio

import pytest

from tests.adapters.service_bus_client import JOBS, client, message, one, persist, until
from tests.adapters.service_bus_client import bus as bus
from tests.adapters.service_bus_client import database as database
from tests.adapters.service_bus_client import jobs as jobs
from tests.doubles.service_bus.server import Fault, Server
from tests.doubles.service_bus.state import Entity
from tests.servers.service_bus import LOCK
from tidemill.adapters.service_bus import ServiceBus
from tidemill.engine.clock import SystemClock
from tidemill.errors import Unavailable
from tidemill.model import Dead, Done, Later, Lost, Outcome, Settled
from tidemill.testing.conformance.suite import settle_one, take

# --- locks ------------------------------------------------------------------------------------------------------


async def test_a_deadline_runs_from_before_the_receive_and_no_longer_than_the_lock(database: ServiceBus) -> None:
    await database.queue(JOBS).send([message("a")])
    asked = SystemClock().monotonic()
    delivery = await one(database)
    assert asked < delivery.deadline <= asked + LOCK + 0.1


async def test_a_lock_shorter_than_said_is_seen(bus: Server) -> None:
    bus.namespace.create("jobs", lock=5.0)
    async with client(lock=60) as database:
        await database.queue(JOBS).send([message("a")])
        asked = SystemClock().monotonic()
        assert (await one(database)).deadline <= asked + 6.0


async def test_the_wall_clock_of_the_service_is_compared_with_nothing(bus: Server, jobs: Entity) -> None:
    """It is ahead; a deadline by its `locked_until` would be half an hour late. (Behind, the client gives up.)"""
    bus.namespace.clock.offset = 1800.0
    async with client() as database:
        await database.queue(JOBS).send([message("a")])
        asked = SystemClock().monotonic()
        delivery = await one(database)
        assert delivery.deadline <= asked + LOCK + 0.1
        assert await settle_one(database.queue(JOBS), delivery, Done()) == Settled()


async def test_what_credit_brought_long_ago_is_renewed_before_it_is_handed_out(
    bus: Server, jobs: Entity, database: ServiceBus
) -> None:
    queue = database.queue(JOBS)
    assert list(await queue.receive("me", 10, 0.1)) == []  # leaves credit for ten
    async with client() as other:
        await other.queue(JOBS).send([message("a")])
    await until(lambda: bool(jobs.locked))  # it is locked for a receive that nobody makes
    await asyncio.sleep(LOCK * 0.55 + 1.2)
    asked = SystemClock().monotonic()
    for delivery in await queue.receive("me", 10, 1.0):
        assert delivery.deadline > asked
        assert await settle_one(queue, delivery, Done()) == Settled()
    assert len(jobs.entries) <= 1


async def test_extend_lasts_beyond_the_lock_and_survives_a_lost_connection(
    bus: Server, jobs: Entity, database: ServiceBus
) -> None:
    queue = database.queue(JOBS)
    await queue.send([message("a")])
    delivery = await one(database)
    for _ in range(4):
        await asyncio.sleep(LOCK / 3)
        (deadline,) = await queue.extend([delivery])
        assert isinstance(deadline, float)
    bus.drop()
    with pytest.raises(Unavailable):
        await queue.extend([delivery])
    (deadline,) = await queue.extend([delivery])
    assert isinstance(deadline, float)
    assert await settle_one(queue, delivery, Done()) == Settled(), "by the management link, for the old one is gone"
    assert not jobs.entries


async def test_a_lock_that_was_lost_is_lost(bus: Server, jobs: Entity, database: ServiceBus) -> None:
    queue = database.queue(JOBS)
    await queue.send([message("a")])
    for fault, verdict in (("settle", Done()), ("renew-lock", Done()), ("settle", Dead("x"))):
        delivery = await one(database)
        bus.faults.append(Fault(fault, "lost"))
        reply = (
            (await queue.extend([delivery]))[0] if fault == "renew-lock" else await settle_one(queue, delivery, verdict)
        )
        assert reply == Lost()
        bus.namespace.clock.offset += LOCK + 1
        await until(lambda: not jobs.locked)
    assert (await one(database)).deliveries == 4


async def test_many_renewals_outlive_the_credit_of_a_management_link(
    bus: Server, database: ServiceBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client grants 10,000 answers and never more; with fewer, a link would stand still after that many."""
    monkeypatch.setattr("azure.servicebus._pyamqp.aio._link_async.DEFAULT_LINK_CREDIT", 40)
    monkeypatch.setattr("tidemill.adapters.service_bus.links.ANSWERS", 20)
    queue = database.queue(JOBS)
    await queue.send([message("a")])
    delivery = await one(database)
    for _ in range(100):
        assert isinstance((await asyncio.wait_for(queue.extend([delivery]), 5))[0], float)


# --- verdicts ---------------------------------------------------------------------------------------------------


async def test_the_copy_has_another_id_and_keeps_the_first(jobs: Entity, database: ServiceBus) -> None:
    queue = database.queue(JOBS)
    await queue.send([message("a", key="k", headers={"traceparent": "00-1"})])
    await settle_one(queue, await one(database), Later(0.0, "rain"))
    (copy,) = jobs.entries.values()
    assert copy.id == "a~1"
    again = await one(database)
    assert (again.id, again.key, dict(again.headers)) == ("a", "k", {"traceparent": "00-1"})
    assert (again.attempt, again.deliveries, again.reason) == (1, 1, "rain")


async def test_a_queue_that_detects_duplicates_keeps_the_copies(bus: Server) -> None:
    """With the id of the original, the copy would be swallowed and the completion would lose the message."""
    jobs = bus.namespace.create("jobs", lock=LOCK, window=600.0)
    async with client(dedup=600) as database:
        queue = database.queue(JOBS)
        assert list(await queue.send([message("a"), message("a")])) == ["a", "a"]
        for n in range(4):
            delivery = await one(database)
            assert (delivery.id, delivery.attempt) == ("a", n)
            await settle_one(queue, delivery, Later(0.0), started=True)
        await settle_one(queue, await one(database), Done(), started=False)
        assert [entry.id for entry in jobs.entries.values()] == ["a~5"]
        await settle_one(queue, await one(database), Dead("no"))
        assert await database.dead_letters().release("queue/jobs", ["a"]) == 1
        assert (await one(database)).attempt == 0


async def test_a_copy_that_may_stand_already_is_merged_where_duplicates_are_detected(bus: Server) -> None:
    jobs = bus.namespace.create("jobs", lock=LOCK, window=600.0)
    async with client(dedup=600) as database:
        await database.queue(JOBS).send([message("a")])
        delivery = await one(database)
        bus.faults.append(Fault("send", "drop-after"))
        assert await persist(database, Outcome(delivery, Later(0.0, "x"))) == Settled()
        assert [entry.id for entry in jobs.entries.values()] == ["a~1"]


async def test_dedup_gives_the_first_id_for_all(bus: Server) -> None:
    bus.namespace.create("jobs", lock=LOCK, window=600.0)
    async with client(dedup=600) as database:
        assert "dedup" in database.features
        queue = database.queue(JOBS)
        first = await queue.send([message("a", dedup="k"), message("b", dedup="k"), message("c", dedup="other")])
        assert first[0] == first[1] != first[2]
        assert list(await queue.send([message("d", dedup="k")])) == [first[0]]
        assert sorted(delivery.id for delivery in await take(queue)) == sorted({*first})


async def test_hand_outs_without_a_verdict_are_counted_over_copies(
    jobs: Entity, database: ServiceBus, bus: Server
) -> None:
    queue = database.queue(JOBS)
    await queue.send([message("a")])
    for expected in (1, 2, 3):
        assert (await one(database)).deliveries == expected
        bus.namespace.clock.offset += LOCK + 1
        await until(lambda: not jobs.locked)
    fourth = await one(database)
    await settle_one(queue, fourth, Done(), started=False)
    fifth = await one(database)
    assert (fourth.deliveries, fifth.deliveries) == (4, 4), "not started does not count and forgets nothing"
    await settle_one(queue, fifth, Later(0.0, "x", attempt=False))
    last = await one(database)
    assert (last.attempt, last.deliveries) == (0, 1)


async def test_a_delayed_copy_is_scheduled_by_the_service(bus: Server, jobs: Entity, database: ServiceBus) -> None:
    queue = database.queue(JOBS)
    await queue.send([message("a"), message("b", delay=7200.0)])
    await settle_one(queue, await one(database), Later(3600.0, "later"))
    depth = await queue.depth()
    assert (depth.ready, depth.delayed, depth.claimed) == (0, 2, 0)
    bus.namespace.clock.offset = 3605.0
    assert (await one(database)).reason == "later"


async def test_the_same_outcome_again_sends_no_second_copy(bus: Server, jobs: Entity, database: ServiceBus) -> None:
    """The completion of the original is not answered; the copy stands."""
    await database.queue(JOBS).send([message("a")])
    for what in ("drop-before", "drop-after"):
        delivery = await one(database)
        bus.faults.append(Fault("settle", what))
        assert await persist(database, Outcome(delivery, Later(0.0, what))) == Settled()
        await until(lambda: not jobs.locked)
        assert len(jobs.entries) == 1


@pytest.mark.parametrize("what", ["drop-before", "drop-after"])
@pytest.mark.parametrize("verdict", [Done(), Dead("hopeless")])
async def test_a_settle_whose_answer_was_lost_has_effect_once(
    bus: Server, jobs: Entity, database: ServiceBus, what: str, verdict: Done | Dead
) -> None:
    await database.queue(JOBS).send([message("a")])
    delivery = await one(database)
    bus.faults.append(Fault("settle", what))
    with pytest.raises(Unavailable):
        await database.queue(JOBS).settle([Outcome(delivery, verdict)])
    assert await persist(database, Outcome(delivery, verdict)) == Settled()
    assert not jobs.entries
    assert len(await database.dead_letters().page("queue/jobs", -1, 10)) == isinstance(verdict, Dead)
