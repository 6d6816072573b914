"""The database: one PostgreSQL server, used by any number of processes on any number of hosts."""

from __future__ import annotations

import asyncio
import random as chance
from collections.abc import Sequence
from typing import Self

from tidemill.adapters.postgres import manage, rights, script
from tidemill.adapters.postgres.address import Address, parse
from tidemill.adapters.postgres.commit import check, commit_one, wakes
from tidemill.adapters.postgres.documents import Documents
from tidemill.adapters.postgres.feed import Feed
from tidemill.adapters.postgres.letters import DeadLetters
from tidemill.adapters.postgres.queue import Queue
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.statements import statements
from tidemill.adapters.postgres.store import Store
from tidemill.adapters.postgres.stream import StreamQueue
from tidemill.errors import ConfigurationError
from tidemill.model import (
    CollectionSpec,
    Commit,
    CommitResult,
    Contents,
    Limits,
    Piece,
    QueueSpec,
    Source,
    Statement,
)
from tidemill.ports import Clock

PARTS = ("store", "feed", "queue", "documents", "dead_letters", "commit")
ABILITIES = (
    "delay",
    "dedup",
    "unique",
    "priority",
    "order",
    "key_order",
    "peek",
    "purge",
    "deletes",
    "before",
    "versions",
    "trim",
)


class Postgres:
    """`ports.Database` on a PostgreSQL server. `warnings` has one line for each thing the start should log."""

    def __init__(self, address: Address, clock: Clock, *, random: chance.Random | None = None) -> None:
        self._session = Session(address, clock, random)
        self._at_once = max(address.pool // 2, 1)  # the other half is for who reads and settles
        self._queues: dict[str, Queue | StreamQueue] = {}
        self._feeds: dict[str, Feed] = {}
        self.warnings: tuple[str, ...] = ()

    @classmethod
    def from_url(cls, url: str, clock: Clock) -> Self:
        """Raises `ConfigurationError` for a URL that does not fit."""
        return cls(parse(url), clock)

    @property
    def features(self) -> frozenset[str]:
        return frozenset(PARTS + ABILITIES)

    @property
    def limits(self) -> Limits:
        return self._session.limits

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        await self._session.open(list(sources), list(queues))

    async def close(self) -> None:
        for feed in self._feeds.values():
            await feed.close()
        await self._session.close()

    def store(self) -> Store:
        return Store(self._session)

    def feed(self, source: Source) -> Feed:
        if source.name not in self._feeds:
            self._feeds[source.name] = Feed(self._session, source)
        return self._feeds[source.name]

    def queue(self, queue: QueueSpec) -> Queue | StreamQueue:
        if queue.name not in self._queues:
            self._queues[queue.name] = (Queue if queue.key is None else StreamQueue)(self._session, queue)
        return self._queues[queue.name]

    def documents(self, source: Source) -> Documents:
        if not isinstance(source, CollectionSpec):
            raise ConfigurationError(f"{source.name}: an existing table has no documents; read it yourself")
        return Documents(self._session, source)

    def dead_letters(self) -> DeadLetters:
        return DeadLetters(self._session)

    def presence(self) -> None:
        """A server cannot tell that a process on another host has ended."""
        return

    def statements(self, commit: Commit) -> Sequence[Statement]:
        """The commit for a connection of the user's own to this database, as values; see `Statement`."""
        return statements(self._session, commit)

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        for commit in commits:
            check(self._session, commit)
        results: list[CommitResult] = []
        for start in range(0, len(commits), self._at_once):
            several = commits[start : start + self._at_once]
            results += await asyncio.gather(*(commit_one(self._session, commit) for commit in several))
        if wakes(commits):
            self._session.watch.poke()
        return results

    # --- `tidemill schema` (operations.schemas.Schemed): the database need not be open

    def schema_sql(self, sources: Sequence[Source], queues: Sequence[QueueSpec], role: str | None = None) -> str:
        return script.script(self._session.names, sources, queues, rights.checked(role or rights.ROLE))

    async def schema_apply(
        self, sources: Sequence[Source], queues: Sequence[QueueSpec], role: str | None = None
    ) -> Sequence[Piece]:
        return await manage.apply(self._session.address, sources, queues, role)

    async def schema_check(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> Sequence[Piece]:
        return await manage.check(self._session.address, sources, queues)

    async def schema_contents(self) -> Contents:
        return await manage.contents(self._session.address)

    async def schema_drop(self) -> None:
        await manage.drop(self._session.address)
