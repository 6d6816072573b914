"""The queues of one account as a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from tidemill.adapters.storage_queue.address import Address, address, misnamed, poison
from tidemill.adapters.storage_queue.envelope import RESERVE, room
from tidemill.adapters.storage_queue.letters import StorageDeadLetters
from tidemill.adapters.storage_queue.queue import StorageQueue
from tidemill.adapters.storage_queue.service import Service
from tidemill.errors import ConfigurationError
from tidemill.model import Commit, CommitResult, Limits, QueueSpec, Source
from tidemill.ports import Clock, DeadLetters, Documents, Feed, Presence, Queue, Store

BATCH = 100


class StorageQueues:
    """Implements `tidemill.ports.Database`: queues and their dead letters."""

    def __init__(self, where: Address, clock: Clock) -> None:
        self._address = where
        self._clock = clock
        self._service = Service(where)
        self._queues: dict[str, StorageQueue] = {}
        self._letters = StorageDeadLetters(self._queues, clock, where.base64)

    @classmethod
    def from_url(cls, url: str, clock: Clock) -> StorageQueues:
        """Raises `ConfigurationError` for a URL that does not fit."""
        return cls(address(url), clock)

    @property
    def features(self) -> frozenset[str]:
        return frozenset(["queue", "dead_letters", "delay"])

    @property
    def limits(self) -> Limits:
        return Limits(batch=BATCH, body=room(self._address.base64) - RESERVE)

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        if sources:
            apart = ", ".join(sorted(source.name for source in sources))
            raise ConfigurationError(
                f"{self._address.shown}: Azure Storage Queue has queues only: set another URL for {apart}"
                " (collections.NAME.url, or TIDEMILL_COLLECTIONS__NAME__URL)"
            )
        names = {queue.name: self._address.prefix + queue.name for queue in queues}
        wrong = [f"{self._address.shown}: {told}" for queue, name in names.items() if (told := misnamed(queue, name))]
        if wrong:
            raise ConfigurationError(*wrong)
        await self._service.open()
        for declared, name in names.items():
            there, dead = self._service.queue(name), self._service.queue(poison(name))
            await there.make()
            if not self._address.create:
                await dead.make()  # else it would be found missing when a message dies
            self._queues.setdefault(declared, StorageQueue(declared, there, dead, self._address, self._clock))

    async def close(self) -> None:
        await self._service.close()

    def queue(self, queue: QueueSpec) -> Queue:
        if queue.name not in self._queues:
            raise ConfigurationError(f"{self._address.shown}: queue {queue.name!r} was not opened")
        return self._queues[queue.name]

    def dead_letters(self) -> DeadLetters:
        return self._letters

    def presence(self) -> Presence | None:
        return None

    def store(self) -> Store:
        self._refuse("keeps no records; give timers and feeds a store (TIDEMILL_STORE)")

    def feed(self, source: Source) -> Feed:
        self._refuse(f"has no feeds ({source.name!r})")

    def documents(self, source: Source) -> Documents:
        self._refuse(f"has no documents ({source.name!r})")

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        self._refuse("commits nothing together with a message")

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigurationError(f"{self._address.shown}: Azure Storage Queue {what}")
