"""`tidemill run` on Service Bus (its double): a handler blocks its loop for longer than a lock, replicas are killed."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.acceptance.processes import Fleet, until
from tests.doubles.process import started
from tests.servers.service_bus import VARIABLE
from tidemill.adapters.service_bus import ServiceBus
from tidemill.engine.clock import SystemClock
from tidemill.model import Message, QueueSpec

APP = "tests.acceptance.service_bus_apps.working:app"
JOBS = QueueSpec("jobs")
ORDERS = QueueSpec("orders", key="customer")
BLOCKED = 90.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def double(lock: float) -> AbstractContextManager[str]:
    """The double as a process of its own; its connection string."""
    return started("service_bus", "--lock", str(lock), "--queue", "jobs", "--queue", "orders:sessions")


def job(id: str, **more: float) -> Message:
    return Message("jobs", id, json.dumps({"id": id, **more}).encode())


def order(customer: str, n: int) -> Message:
    return Message("orders", f"{customer}-{n}", json.dumps({"customer": customer, "n": n}).encode(), key=customer)


async def send(lock: int, messages: list[Message], pause: float = 0.0) -> None:
    """From one client, some at a time."""
    database = ServiceBus.from_url(f"azure-service-bus:?lock={lock}", SystemClock())
    await database.open([], [JOBS, ORDERS])
    for start in range(0, len(messages), 20):
        some = messages[start : start + 20]
        for spec in (JOBS, ORDERS):
            await database.queue(spec).send([message for message in some if message.queue == spec.name])
        await asyncio.sleep(pause)
    await database.close()


async def left(lock: int) -> tuple[int, int, int]:
    """What is in the queue without sessions, by a client that claims nothing; and its dead letters."""
    database = ServiceBus.from_url(f"azure-service-bus:?lock={lock}", SystemClock())
    await database.open([], [JOBS])
    depth, dead = await database.queue(JOBS).depth(), await database.dead_letters().count("queue/")
    await database.close()
    return depth.ready, depth.delayed, sum(dead.values())


async def test_a_loop_that_stands_still_keeps_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For nine times the lock's duration; the message is worked once, settled, and the worker ends well."""
    with double(10.0) as connection, Fleet(tmp_path, APP, **{VARIABLE: connection}) as fleet:
        monkeypatch.setenv(VARIABLE, connection)
        fleet.database = "azure-service-bus:?lock=10"
        one, two = fleet.start("one"), fleet.start("two")
        await one.ready()
        await two.ready()
        await send(10, [job("long", blocks=BLOCKED)])
        await until(lambda: bool(fleet.journal.lines("began", "long")), 30, one.tail)
        await until(lambda: bool(fleet.journal.lines("ended", "long")), BLOCKED + 15, one.tail)
        await asyncio.sleep(12)  # a lock that was lost would have brought it again by now
        assert len(fleet.journal.lines("began", "long")) == 1
        assert await left(10) == (0, 0, 0)
        assert [await replica.stop() for replica in (one, two)] == [0, 0]


async def test_kill_9_under_load_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it put the messages of a key out of order: a later one never ends before an earlier one has ended."""
    with double(5.0) as connection, Fleet(tmp_path, APP, **{VARIABLE: connection}) as fleet:
        monkeypatch.setenv(VARIABLE, connection)
        fleet.database = "azure-service-bus:?lock=5"
        for n in range(3):
            await fleet.start(f"r{n}").ready()
        ids = [f"j{n}" for n in range(400)]
        customers = [f"c{n}" for n in range(12)]
        load = [order(customer, n) for n in range(15) for customer in customers]
        mixed = [message for n in range(20) for message in (*map(job, ids[n::20]), *load[n * 9 : n * 9 + 9])]
        sending = asyncio.create_task(send(5, mixed, pause=0.7))
        for n in range(2):
            done = len(fleet.journal.lines("ended"))
            await until(lambda done=done: len(fleet.journal.lines("ended")) > done + 20, 60, fleet.replicas[n].tail)
            fleet.replicas[n].kill()
            await fleet.start(f"s{n}").ready()
        await sending

        def missing() -> set[str]:
            found = {line.words[1] for line in fleet.journal.lines("ended")}
            billed = {f"{line.words[1]}-{line.words[2]}" for line in fleet.journal.lines("billed")}
            return {*ids, *(message.id for message in load)} - found - billed

        await until(lambda: not missing(), 120, lambda: f"{sorted(missing())[:9]}\n{fleet.replicas[2].tail()}")
        first: dict[str, list[int]] = defaultdict(list)
        for line in fleet.journal.lines("billed"):
            customer, n = line.words[1], int(line.words[2])
            if n not in first[customer]:
                first[customer].append(n)
        assert dict(first) == {customer: list(range(15)) for customer in customers}
        assert await left(5) == (0, 0, 0)
        ended = [await replica.stop() for replica in fleet.replicas if replica.process.poll() is None]
        assert ended == [0] * 3
