"""The Service Bus backend on the double: what is sent, dead letters, mistakes and outages."""

from __future__ import annotations

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from tests.adapters.service_bus_client import JOBS, client, message, one, until
from tests.adapters.service_bus_client import bus as bus
from tests.adapters.service_bus_client import database as database
from tests.adapters.service_bus_client import jobs as jobs
from tests.doubles.service_bus.server import Fault, Server
from tests.doubles.service_bus.state import Entity
from tests.servers.service_bus import LOCK
from tidemill.adapters.service_bus import ServiceBus
from tidemill.errors import BackendFull, ConfigurationError, TooLarge, Unavailable
from tidemill.model import Dead, DeadLetter, Later, Outcome, QueueSpec
from tidemill.testing.conformance.suite import settle_one, take

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
    sent = ServiceBusMessage("plain", message_id="m", application_properties={"n": 7, "s": "\u00e9"}, subject="s")
    foreign = ServiceBusClient.from_connection_string(bus.connection_string)
    async with foreign, foreign.get_queue_sender("jobs") as sender:
        await sender.send_messages(sent)
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
    with pytest.raises(Unavailable, match=r"refuses this key.*InvalidSignature"):
        await one(database)
    bus.namespace.key = kept
    await database.queue(JOBS).send([message("a")])
    assert (await one(database)).id == "a"


async def test_a_missing_queue_is_told_with_the_line_that_makes_it(bus: Server) -> None:
    with pytest.raises(ConfigurationError, match=r"az servicebus queue create .* --name jobs"):
        async with client():
            pass


async def test_sessions_where_there_should_be_none_and_none_where_there_should_be(bus: Server) -> None:
    bus.namespace.create("jobs", sessions=True)
    with pytest.raises(ConfigurationError, match="requires sessions: declare it with key="):
        async with client():
            pass
    bus.namespace.create("jobs")
    with pytest.raises(ConfigurationError, match=r"has no sessions.*--enable-session true"):
        async with client(QueueSpec("jobs", key="customer")):
            pass


async def test_what_is_declared_and_not_kept_here_is_told_at_open(bus: Server, jobs: Entity) -> None:
    for spec, told in (
        (QueueSpec("jobs", limit=501), "limit=501: no more than 500"),
        (QueueSpec("jobs", limit=5, key="k"), "limit=5: nobody can count"),
        (QueueSpec("jobs", dedup_window=900.0), r"dedup_window=900 s is longer than the queue's \(dedup=600\)"),
    ):
        with pytest.raises(ConfigurationError, match=told):
            async with client(spec, dedup=600):
                pass
