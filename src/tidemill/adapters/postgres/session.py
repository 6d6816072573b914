"""What the parts of one open database share: connections, the watch, and what was declared at `open`."""

from __future__ import annotations

import random as chance
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from tidemill.adapters.postgres import guard, schema
from tidemill.adapters.postgres.address import Address
from tidemill.adapters.postgres.names import Names
from tidemill.adapters.postgres.pool import Pool
from tidemill.adapters.postgres.watch import Watch
from tidemill.adapters.sql.settled import SettledClaims
from tidemill.errors import ConfigurationError, TooLarge
from tidemill.model import Limits, QueueSpec, Source
from tidemill.ports import Clock

RENEWAL = 3.0
"""Seconds a statement for leases and members may take."""


@dataclass(frozen=True, slots=True)
class OpenSource:
    """A feed as opened."""

    spec: Source
    partitions: tuple[str, ...]


class Session:
    """One database, opened by one process on one loop.

    `data` are the connections for the work, `control` those for leases and members, which never wait behind it.
    """

    def __init__(self, address: Address, clock: Clock, random: chance.Random | None) -> None:
        self.address = address
        self.names: Names = Names(address.schema)
        self.clock = clock
        self.random: chance.Random = random or chance.SystemRandom()
        self.limits: Limits = Limits(body=1 << 27)
        self.heard: dict[Hashable, tuple[str, Any]] = {}
        """Bells and controls as they were last read, and as of when; see `store`."""
        self.settled: SettledClaims = SettledClaims()
        self.sources: dict[str, OpenSource] = {}
        self.queues: dict[str, QueueSpec] = {}
        self.data: Pool = Pool(address, "data", address.pool)
        self.control: Pool = Pool(address, "control", 2, limit=RENEWAL)
        self.watch: Watch = Watch(address, self.names, clock)

    async def open(self, sources: list[Source], queues: list[QueueSpec]) -> None:
        """Connect, make what is missing, look for news. On an error nothing stays open."""
        try:
            await self.data.open()
            await self.control.open()
            wanted = schema.items(self.names, sources, queues)
            async with self.data.link(opening=True) as link:
                ready = await schema.complete(link, self.names, wanted, sources)
            if not ready:
                async with self.data.transaction(opening=True) as link:
                    await schema.make(link, self.names, wanted, sources)
            async with self.data.transaction(opening=True) as link:
                await guard.check(link, self.names)
            await self.watch.start()
        except BaseException:
            await self.close()
            raise
        for source in sources:
            self.sources[source.name] = OpenSource(source, partition_names(source.partitions))
        for queue in queues:
            self.queues[queue.name] = queue

    async def close(self) -> None:
        await self.watch.close()
        await self.data.close()
        await self.control.close()

    def source(self, name: str) -> OpenSource:
        if (source := self.sources.get(name)) is None:
            raise ConfigurationError(f"{self.address.shown}: collection {name!r} was not opened with this database")
        return source

    def queue(self, name: str) -> QueueSpec:
        if (queue := self.queues.get(name)) is None:
            raise ConfigurationError(f"{self.address.shown}: queue {name!r} was not opened with this database")
        return queue

    def check_body(self, body: bytes) -> None:
        if len(body) > self.limits.body:
            raise TooLarge(f"the body has {len(body)} bytes, {self.address.shown} takes {self.limits.body}")


def partition_names(count: int) -> tuple[str, ...]:
    """Numbers of one width, so that names sort like numbers."""
    width = len(str(count - 1))
    return tuple(f"{number:0{width}d}" for number in range(count))
