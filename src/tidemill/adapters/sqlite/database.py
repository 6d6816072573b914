"""The database: one SQLite file, used by many processes of one host."""

from __future__ import annotations

import random as chance
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from sqlite3 import Connection
from typing import Self
from urllib.parse import unquote

from tidemill.adapters.sqlite.capture import install
from tidemill.adapters.sqlite.commit import check, commit_one, topics_of
from tidemill.adapters.sqlite.connection import check_file, warnings_of
from tidemill.adapters.sqlite.documents import Documents
from tidemill.adapters.sqlite.feed import Feed
from tidemill.adapters.sqlite.letters import DeadLetters
from tidemill.adapters.sqlite.presence import Presence
from tidemill.adapters.sqlite.queue import Queue
from tidemill.adapters.sqlite.schema import register_feed, register_queues
from tidemill.adapters.sqlite.session import OpenSource, Session
from tidemill.adapters.sqlite.statements import statements
from tidemill.adapters.sqlite.store import Store
from tidemill.errors import ConfigurationError
from tidemill.model import (
    CollectionSpec,
    Commit,
    CommitResult,
    Committed,
    Limits,
    QueueSpec,
    Source,
    Statement,
    TableSpec,
)
from tidemill.ports import Clock

PARTS = ("store", "feed", "queue", "documents", "dead_letters", "commit", "presence")
ABILITIES = ("delay", "dedup", "unique", "priority", "order", "peek", "purge", "deletes", "before", "versions", "trim")


class SQLite:
    """`ports.Database` on a file. `warnings` has one line for each thing the start should log."""

    def __init__(self, path: str | Path, clock: Clock, *, random: chance.Random | None = None) -> None:
        self.path: Path = Path(path).absolute()
        self._session = Session(self.path, clock, random)
        self._presence = Presence(self.path)
        self._queues: dict[str, Queue] = {}
        self.warnings: tuple[str, ...] = warnings_of(sqlite3.sqlite_version_info)

    @classmethod
    def from_url(cls, url: str, clock: Clock) -> Self:
        """`sqlite:///relative.db` or `sqlite:////absolute.db`."""
        scheme, _, path = url.partition(":///")
        if scheme != "sqlite" or not path or "?" in path:
            raise ConfigurationError(f"{url}: write sqlite:///relative.db or sqlite:////absolute.db")
        return cls(unquote(path), clock)

    @property
    def features(self) -> frozenset[str]:
        return frozenset(PARTS + ABILITIES)

    @property
    def limits(self) -> Limits:
        return self._session.limits

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        check_file(self.path)
        session = self._session
        await session.start()

        def run(connection: Connection) -> tuple[list[int], list[int]]:
            numbers = [register_feed(connection, source) for source in sources]
            for source, number in zip(sources, numbers, strict=True):
                if isinstance(source, TableSpec):
                    install(connection, number, source)
            return numbers, register_queues(connection, queues)

        try:
            numbers, queue_numbers = await session.writer.submit(run, patient=True)
        except BaseException:
            await session.close()
            raise
        for source, number in zip(sources, numbers, strict=True):
            session.sources[source.name] = OpenSource(source, number, partition_names(source.partitions))
        for queue, number in zip(queues, queue_numbers, strict=True):
            session.queues[queue.name] = (queue, number)

    async def close(self) -> None:
        await self._session.close()

    def store(self) -> Store:
        return Store(self._session)

    def feed(self, source: Source) -> Feed:
        return Feed(self._session, source)

    def queue(self, queue: QueueSpec) -> Queue:
        if queue.name not in self._queues:
            self._queues[queue.name] = Queue(self._session, queue)
        return self._queues[queue.name]

    def documents(self, source: Source) -> Documents:
        if not isinstance(source, CollectionSpec):
            raise ConfigurationError(f"{source.name}: an existing table has no documents; read it yourself")
        return Documents(self._session, source)

    def dead_letters(self) -> DeadLetters:
        return DeadLetters(self._session)

    def presence(self) -> Presence:
        return self._presence

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        session, now = self._session, self._session.clock.now()
        for commit in commits:
            check(session, commit)

        def took_effect(results: list[CommitResult]) -> None:
            for commit, result in zip(commits, results, strict=True):
                if isinstance(result, Committed):
                    session.settled.remember(list(commit.outcomes))
                    session.bell.ring(topics_of(commit))

        def run(connection: Connection) -> list[CommitResult]:
            return [commit_one(connection, session, commit, now) for commit in commits]

        return await session.writer.submit(run, after=took_effect)

    def statements(self, commit: Commit) -> Sequence[Statement]:
        """The commit for the user's own connection to this file, as values; see `Statement`."""
        return statements(self._session, commit, self._session.clock.now())


def partition_names(count: int) -> tuple[str, ...]:
    """Numbers of one width, so that names sort like numbers."""
    width = len(str(count - 1))
    return tuple(f"{number:0{width}d}" for number in range(count))
