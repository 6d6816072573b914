"""What the parts of one open database share: the threads, the bell, and what was declared at `open`."""

from __future__ import annotations

import asyncio
import random as chance
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar
from zlib import crc32

from tidemill.adapters.sql.bell import Bell
from tidemill.adapters.sql.settled import SettledClaims
from tidemill.adapters.sqlite.lane import Lane, post
from tidemill.adapters.sqlite.schema import DATA, RECORDS, document_table, prepare
from tidemill.adapters.sqlite.work import Reader, Writer
from tidemill.errors import ConfigurationError, TooLarge
from tidemill.model import Limits, QueueSpec, Source
from tidemill.ports import Clock

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A feed as opened: its number in the file and the names of its partitions."""

    spec: Source
    number: int
    partitions: tuple[str, ...]

    @property
    def table(self) -> str:
        """Where the documents of a collection are."""
        return document_table(self.number)

    def part(self, key: str) -> int:
        """The partition of a key: the same in every process and every release."""
        return crc32(key.encode()) % self.spec.partitions


class Session:
    """One database, opened by one process on one loop."""

    def __init__(self, path: Path, clock: Clock, random: chance.Random | None) -> None:
        self.path = path
        self.members_path: Path = beside(path, "-members.db")
        self.clock = clock
        self.random: chance.Random = random or chance.SystemRandom()
        self.limits: Limits = Limits()
        self.bell: Bell = Bell()
        self.sources: dict[str, OpenSource] = {}
        self.queues: dict[str, tuple[QueueSpec, int]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self.settled: SettledClaims = SettledClaims()
        data = Writer(path, lambda connection: prepare(connection, path, DATA), self._changed)
        members = Writer(self.members_path, lambda connection: prepare(connection, self.members_path, RECORDS), None)
        self.writer: Lane = Lane(f"sqlite {path.name} writer", data)
        self.members: Lane = Lane(f"sqlite {path.name} members", members)
        self.reads: Lane = Lane(f"sqlite {path.name} reader", Reader(path, self.members_path))
        self.slow: Lane = Lane(f"sqlite {path.name} queries", Reader(path, self.members_path))

    @property
    def running(self) -> bool:
        return self._loop is not None

    async def start(self) -> None:
        """Start what is not running. On an error everything is stopped again."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        try:
            for lane in (self.writer, self.members, self.reads, self.slow):
                await lane.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """The writers last: a reader never finds the file without its WAL."""
        self._loop = None
        for lane in (self.slow, self.reads, self.members, self.writer):
            await lane.close()

    async def write(self, run: Callable[[Connection], T], *, rings: tuple[str, ...] = (), durable: bool = True) -> T:
        """Run in a group commit; the topics ring once it took effect."""
        return await self.writer.submit(run, after=lambda _: self.bell.ring(rings), durable=durable)

    def source(self, name: str) -> OpenSource:
        if (source := self.sources.get(name)) is None:
            raise ConfigurationError(f"sqlite {self.path}: collection {name!r} was not opened with this database")
        return source

    def queue(self, name: str) -> tuple[QueueSpec, int]:
        if (queue := self.queues.get(name)) is None:
            raise ConfigurationError(f"sqlite {self.path}: queue {name!r} was not opened with this database")
        return queue

    def check_body(self, body: bytes) -> None:
        if len(body) > self.limits.body:
            raise TooLarge(f"the body has {len(body)} bytes, sqlite takes {self.limits.body}")

    def _changed(self) -> None:
        if (loop := self._loop) is not None:
            post(loop, self.bell.ring_all)


def beside(path: Path, end: str) -> Path:
    """A companion of the file: `x.db` has `x-members.db` and `x.d`, any other name keeps its suffix."""
    return path.with_name((path.stem if path.suffix == ".db" else path.name) + end)
