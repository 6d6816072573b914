"""What the tests of Service Bus share: a client, the queue `jobs` on the double, and short words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.doubles.service_bus.server import Server
from tests.doubles.service_bus.state import Entity
from tests.servers.service_bus import LOCK, url_of
from tests.servers.service_bus import bus as bus
from tidemill.adapters.service_bus import ServiceBus
from tidemill.engine.clock import SystemClock
from tidemill.errors import Unavailable
from tidemill.model import Delivery, Lost, Message, Outcome, QueueSpec, Settled

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
