"""What every conformance test gets: an opened database, its parts, and time that can be waited for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest

from tidemill.model import CollectionSpec, QueueSpec
from tidemill.ports import Clock, Database, DeadLetters, Documents, Feed, Queue, Store
from tidemill.testing.clock import FakeClock

T = TypeVar("T")

COLLECTION = CollectionSpec("things", partitions=4, fields=("n", "label"), before=True)
QUEUE = QueueSpec("jobs", dedup_window=0.6)

SOON = 0.8
"""Below the waits of a second by which the tests see that something was woken, in seconds of a fake clock."""


@dataclass(frozen=True, slots=True)
class Bench:
    """An empty backend with `COLLECTION` and `QUEUE`, and the clock that it goes by.

    `peer` is a second client of the same data where there can be one, else the same. `tick` is a time in seconds
    that the backend's own clock can tell apart; delays in the tests are a few of them, at most ten.
    """

    database: Database
    clock: Clock
    peer: Database
    tick: float = 0.05

    def needs(self, *features: str) -> None:
        """Skip the test where the backend does not declare these."""
        need(self.database, *features)

    @property
    def store(self) -> Store:
        self.needs("store")
        return self.database.store()

    @property
    def queue(self) -> Queue:
        self.needs("queue")
        return self.database.queue(QUEUE)

    @property
    def documents(self) -> Documents:
        self.needs("documents")
        return self.database.documents(COLLECTION)

    @property
    def feed(self) -> Feed:
        self.needs("feed", "documents")
        return self.database.feed(COLLECTION)

    @property
    def letters(self) -> DeadLetters:
        self.needs("dead_letters")
        return self.database.dead_letters()

    async def advance(self, seconds: float) -> None:
        """Let at least this much time go by, and all run that falls due in it."""
        if isinstance(self.clock, FakeClock):
            await self.clock.advance(seconds)
        else:
            await asyncio.sleep(seconds)

    async def soon(self, waiting: asyncio.Future[T]) -> T:
        """The result of a call that should end before its `wait` of a second is over."""
        if isinstance(self.clock, FakeClock):
            assert await self.clock.run_until(waiting.done, SOON), "it should have ended by now"
        return await asyncio.wait_for(waiting, 60)


def need(database: Database, *features: str) -> None:
    """Skip the test unless the backend declares all of these."""
    missing = [feature for feature in features if feature not in database.features]
    if missing:
        pytest.skip(f"this backend declares no {' and no '.join(missing)}")


@asynccontextmanager
async def opened(
    database: Database, clock: Clock, *, peer: Database | None = None, tick: float = 0.05
) -> AsyncIterator[Bench]:
    """The database, opened with the collection and the queue of the suites as far as it has them; closed at the end."""
    sources = [COLLECTION] if "documents" in database.features else []
    queues = [QUEUE] if "queue" in database.features else []
    clients = [database] if peer is None else [database, peer]
    try:
        for client in clients:
            await client.open(sources, queues)
        yield Bench(database, clock, clients[-1], tick)
    finally:
        for client in reversed(clients):
            await client.close()
