"""The Service Bus backend on the double: locks, copies, dead letters, faults. Sessions have a file of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from tests.doubles.service_bus.server import Fault, Server
from tests.doubles.service_bus.state import Entity
from tests.servers.service_bus import LOCK, url_of
from tests.servers.service_bus import bus as bus
from tidemill.adapters.service_bus import ServiceBus
from tidemill.engine.clock import SystemClock
from tidemill.errors import BackendFull, ConfigurationError, TooLarge, Unavailable
from tidemill.model import Dead, Delivery, Done, Later, Lost, Message, Outcome, QueueSpec, Settled
from tidemill.testing.conformance.suite import settle_one, take

JOBS = QueueSpec("jobs")


@asynccontextmanager
async def client(spec: QueueSpec = JOBS, **options: object) -> AsyncIterator[ServiceBus]:
    """The backend, opened with this queue."""
    database = ServiceBus.from_url(url_of(**options), SystemClock())
    try:
        await database.open([], [spec])
        yield database
    finally:
        await database.close()


@pytest.fixture
async def jobs(bus: Server) -> Entity:
    return bus.namespace.create("jobs", lock=LOCK, deliveries=100)


@pytest.fixture
async def database(jobs: Entity) -> AsyncIterator[ServiceBus]:
    async with client() as database:
        yield database


def message(id: str, body: bytes = b"{}", **more: object) -> Message:
    return replace(Message("jobs", id, body), **more)  # type: ignore[arg-type]


async def one(database: ServiceBus, wait: float = 1.0) -> Delivery:
    """The one message that must be there."""
    (delivery,) = await database.queue(JOBS).receive("me", 1, wait)
    return delivery


async def until(condition: Callable[[], bool]) -> None:
    """Poll, for ten seconds at most."""
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it never came to be")


async def persist(database: ServiceBus, outcome: Outcome) -> Settled | Lost:
    """Settle as the engine does: an answer that is unknown is asked for again."""
    for _ in range(20):
        try:
            (reply,) = await database.queue(JOBS).settle([outcome])
            return reply
        except Unavailable:
            await asyncio.sleep(0.05)
    raise AssertionError("no answer in twenty tries")


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
    """It is an hour ahead; a deadline by its `locked_until` would be an hour late. (Behind, the client itself gives up.)"""
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
    monkeypatch.setattr("azure.servicebus._pyamqp.link.DEFAULT_LINK_CREDIT", 40)
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


# --- sending ----------------------------------------------------------------------------------------------------


async def test_large_batches_are_split_by_size(bus: Server, database: ServiceBus) -> None:
    queue = database.queue(JOBS)
    bodies = {str(n): bytes([n]) * 90_000 for n in range(7)}
    bus.counts.clear()
    await queue.send([message(id, body) for id, body in bodies.items()])
    assert 3 <= bus.counts["send"] <= 4
    assert {delivery.id: delivery.body for delivery in await take(queue)} == bodies


async def test_too_large_is_told_in_one_line(bus: Server, database: ServiceBus) -> None:
    queue = database.queue(JOBS)
    with pytest.raises(TooLarge, match=r"queue 'jobs'.*\(size=256, in KiB\)"):
        await queue.send([message("a", b"x" * 256 * 1024)])
    with pytest.raises(TooLarge, match=r"with its headers"):
        await queue.send([message("a", b"x" * 250_000, headers={"h": "y" * 20_000})])
    assert await take(queue) == []


async def test_a_busy_service_is_unavailable_and_a_full_queue_says_so(bus: Server, database: ServiceBus) -> None:
    bus.faults.append(Fault("send", "busy", times=5))
    with pytest.raises(Unavailable, match="busy"):
        await database.queue(JOBS).send([message("a")])
    bus.faults[:] = [Fault("send", "full")]
    with pytest.raises(BackendFull):
        await database.queue(JOBS).send([message("a")])


async def test_a_send_over_a_link_that_was_closed_goes_through(bus: Server, jobs: Entity, database: ServiceBus) -> None:
    """The service closes links that are idle; the client opens another and sends."""
    queue = database.queue(JOBS)
    await queue.send([message("a")])
    bus.drop()
    await queue.send([message("b")])
    assert len(jobs.entries) == 2


async def test_what_others_sent_is_understood(bus: Server, jobs: Entity, database: ServiceBus) -> None:
    async with ServiceBusClient.from_connection_string(bus.connection_string) as foreign:
        async with foreign.get_queue_sender("jobs") as sender:
            await sender.send_messages(
                ServiceBusMessage("plain", message_id="m", application_properties={"n": 7, "s": "\u00e9"}, subject="s")
            )
    delivery = await one(database)
    assert (delivery.id, delivery.body, dict(delivery.headers)) == ("m", b"plain", {"n": "7", "s": "\u00e9"})
    assert delivery.sent_at > 0
    await settle_one(database.queue(JOBS), delivery, Later(0.0, "x"))
    again = await one(database)
    assert (again.id, again.body, again.attempt, again.sent_at) == ("m", b"plain", 1, delivery.sent_at)


# --- dead letters -----------------------------------------------------------------------------------------------


async def test_dead_letters_tell_reason_error_attempts(jobs: Entity, database: ServiceBus) -> None:
    queue, letters = database.queue(JOBS), database.dead_letters()
    await queue.send([message("a", b"1", key="k"), message("b", b"2"), message("c", b"3", key="k")])
    for delivery in await take(queue):
        await queue.settle([Outcome(delivery, Dead("no " * 3000), True, "Traceback\n  line")])
    page = await letters.page("queue/jobs", -1, 10)
    assert sorted(letter.id for letter in page) == ["a", "b", "c"]
    assert {(letter.error, letter.attempts, len(letter.reason)) for letter in page} == {("Traceback\n  line", 1, 4000)}
    assert [letter.order for letter in page] == sorted(letter.order for letter in page)
    assert [letter.id for letter in await letters.page("queue/jobs", -1, 2)] == [letter.id for letter in page[:2]]
    assert list(await letters.page("queue/jobs", page[1].order, 9)) == page[2:]
    assert {letter.id for letter in await letters.page("queue/jobs", -1, 9, "k")} == {"a", "c"}
    assert await letters.count("queue/") == {"queue/jobs": 3}
    assert await letters.drop("queue/jobs", ["a", "none", "a"]) == 1
    assert await letters.drop("queue/none", ["a"]) == 0
    assert await letters.count("queue/") == {"queue/jobs": 2}
    assert await letters.count("feed/") == {}
    with pytest.raises(ConfigurationError):
        await letters.release("feed/bill/0", ["b"])
    assert await letters.release("queue/jobs", ["b"]) == 1
    assert [delivery.id for delivery in await take(queue)] == ["b"]


async def test_what_the_service_buried_is_shown_with_its_words(bus: Server) -> None:
    bus.namespace.create("jobs", lock=LOCK, deliveries=2, ttl=300.0)
    async with client() as database:
        queue, jobs = database.queue(JOBS), bus.namespace.queues["jobs"]
        await queue.send([message("often")])
        for _ in range(2):
            await one(database)
            bus.namespace.clock.offset += LOCK + 1
            await until(lambda: not jobs.locked)
        await queue.send([message("old")])
        bus.namespace.clock.offset += 400
        await until(lambda: not jobs.entries)
        page = {letter.id: letter for letter in await database.dead_letters().page("queue/jobs", -1, 10)}
        assert page["often"].reason == "MaxDeliveryCountExceeded"
        assert "2 delivery attempts" in page["often"].error
        assert page["old"].reason == "TTLExpiredException"
        assert await database.dead_letters().release("queue/jobs", ["old", "often"]) == 2


async def test_feeds_have_no_dead_letters_here(database: ServiceBus) -> None:
    await database.dead_letters().put([])
    from tidemill.model import DeadLetter

    with pytest.raises(ConfigurationError, match="another database"):
        await database.dead_letters().put([DeadLetter("feed/a/0", "1", None, 1, b"", 1, "", "", 0.0)])


# --- mistakes ---------------------------------------------------------------------------------------------------


async def test_a_wrong_key_is_told_at_open_without_the_key(
    bus: Server, jobs: Entity, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = bus.connection_string.replace(bus.namespace.key, "d3Jvbmctc2VjcmV0LWtleQ==")
    monkeypatch.setenv("AZURE_SERVICEBUS_CONNECTION_STRING", wrong)
    with pytest.raises(ConfigurationError, match="refuses this key") as told:
        async with client():
            pass
    assert "d3Jvbmc" not in str(told.value)
    assert "\n" not in str(told.value)


async def test_an_expired_token_is_told_at_open(bus: Server, jobs: Entity) -> None:
    bus.namespace.clock.offset = 7200.0
    with pytest.raises(ConfigurationError, match="clock of this machine"):
        async with client():
            pass


async def test_a_token_refused_later_is_an_outage(bus: Server, jobs: Entity, database: ServiceBus) -> None:
    bus.namespace.key, kept = "rotated", bus.namespace.key
    bus.drop()
    with pytest.raises(Unavailable):
        await one(database)
    with pytest.raises(Unavailable, match="refuses this key.*InvalidSignature"):
        await one(database)
    bus.namespace.key = kept
    await database.queue(JOBS).send([message("a")])
    assert (await one(database)).id == "a"


async def test_a_missing_queue_is_told_with_the_line_that_makes_it(bus: Server) -> None:
    with pytest.raises(ConfigurationError, match="az servicebus queue create .* --name jobs"):
        async with client():
            pass


async def test_sessions_where_there_should_be_none_and_none_where_there_should_be(bus: Server) -> None:
    bus.namespace.create("jobs", sessions=True)
    with pytest.raises(ConfigurationError, match="requires sessions: declare it with key="):
        async with client():
            pass
    bus.namespace.create("jobs")
    with pytest.raises(ConfigurationError, match="has no sessions.*--enable-session true"):
        async with client(QueueSpec("jobs", key="customer")):
            pass
