"""Reading a feed: one read at a time for all partitions that have room.

A read takes nothing, so it may be given up: when other partitions have become readable while it waits for news of
these, it is cancelled and asked anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from random import Random
from typing import Protocol

from tidemill.core.probes import Reason, reason_of
from tidemill.errors import TidemillError
from tidemill.model import Expired, Fact, Moved, Observer, Page
from tidemill.ports import Clock, Feed

READ_MOST = 1_000
READ_WAIT = 0.5


class Reader(Protocol):
    """The feed worker that reads."""

    worker: str

    def readable(self) -> dict[str, str]: ...

    def room_of(self, partitions: Iterable[str]) -> int: ...

    def dispatch(self) -> None: ...


class Intake:
    """`polled`: when the last read was attempted (monotonic); `polling`: it is under way; `failing`: why it failed."""

    def __init__(
        self, reader: Reader, feed: Feed, *, wake: asyncio.Event, clock: Clock, random: Random, observer: Observer
    ) -> None:
        self.polled: float = clock.monotonic()
        self.polling: bool = False
        self.failing: Reason | None = None
        self._reader = reader
        self._feed = feed
        self._wake = wake
        self._clock = clock
        self._random = random
        self._observe = observer

    async def read(self, cursors: Mapping[str, str]) -> Mapping[str, Page | Moved | Expired]:
        """What follows the cursors; nothing when it failed or was given up."""
        try:
            pages = await self._read(cursors)
        except TidemillError as error:
            if self.failing is None:
                self._observe(Fact("poll_failed", self._reader.worker, detail={"error": str(error)}))
            self.failing = reason_of(error)
            await self._clock.sleep(0.25 + self._random.random())
            return {}
        self.failing = None
        return pages

    async def _read(self, cursors: Mapping[str, str]) -> Mapping[str, Page | Moved | Expired]:
        self.polled, self.polling = self._clock.monotonic(), True
        reading = asyncio.ensure_future(self._feed.read(cursors, self._reader.room_of(cursors), READ_WAIT))
        reading.add_done_callback(lambda _: self._wake.set())
        try:
            while not reading.done():
                await self._clock.wait(self._wake, READ_WAIT)
                self._wake.clear()
                if not reading.done():
                    self._reader.dispatch()
                    if self._reader.readable().keys() != cursors.keys():
                        return {}
            return reading.result()
        finally:
            self.polling = False
            reading.cancel()
