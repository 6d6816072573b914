"""A `Database` of queues and dead letters only, for the tests of these parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from tidemill.adapters.postgres.address import parse
from tidemill.adapters.postgres.letters import DeadLetters
from tidemill.adapters.postgres.queue import Queue
from tidemill.adapters.postgres.session import Session
from tidemill.engine.clock import SystemClock
from tidemill.model import Limits, QueueSpec, Source


class Queues:
    def __init__(self, url: str) -> None:
        self.session = Session(parse(url), SystemClock(), None)
        self._queues: dict[str, Queue] = {}

    @property
    def features(self) -> frozenset[str]:
        return frozenset(["queue", "dead_letters", "delay", "dedup", "priority", "order", "peek", "purge"])

    @property
    def limits(self) -> Limits:
        return self.session.limits

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        await self.session.open(list(sources), list(queues))

    async def close(self) -> None:
        await self.session.close()

    def queue(self, queue: QueueSpec) -> Queue:
        return self._queues.setdefault(queue.name, Queue(self.session, queue))

    def dead_letters(self) -> DeadLetters:
        return DeadLetters(self.session)

    def presence(self) -> None:
        return None

    def store(self) -> NoReturn:
        raise NotImplementedError

    def feed(self, source: Source) -> NoReturn:
        raise NotImplementedError

    def documents(self, source: Source) -> NoReturn:
        raise NotImplementedError

    async def commit(self, commits: Any) -> NoReturn:
        raise NotImplementedError
