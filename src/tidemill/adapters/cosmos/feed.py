"""The change feed of one container, as partitions of the engine.

Latest version: what was created or replaced, each document as it is when it is read; versions between two reads and
deletes are not in it. All versions and deletes: every operation within the account's continuous backup, from now on
only. Both are ordered by the LSN of a physical partition, so changes of one key come in the order of their commits.

Polling: a range that brought nothing is asked again after a quarter of a second, then later and later up to the
`poll` of the URL; a write of this process ends the wait. Each question costs about one request unit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tidemill.adapters.azure.several import each
from tidemill.adapters.cosmos import cursor as cursors
from tidemill.adapters.cosmos.changes import logged
from tidemill.adapters.cosmos.containers import Container, Containers
from tidemill.adapters.cosmos.cursor import BEGINNING, NOW, Cursor
from tidemill.adapters.cosmos.ranges import children, moved
from tidemill.adapters.cosmos.reader import EVERY, LATEST, Answer, read
from tidemill.errors import ConfigurationError, Unavailable
from tidemill.model import Expired, Lag, Logged, Moved, Page, Start
from tidemill.ports import Clock

SHORTEST = 0.25
GROWTH = 1.5
PAGE = 1_000


@dataclass(slots=True)
class _Pace:
    """When a range is asked next (monotonic), and how long after that."""

    due: float = 0.0
    pause: float = SHORTEST


class CosmosFeed:
    """Implements `tidemill.ports.Feed`."""

    def __init__(
        self, containers: Containers, container: Container, name: str, clock: Clock, woken: asyncio.Event,
        *, longest: float, every: bool,
    ) -> None:  # fmt: skip
        self._containers = containers
        self._container = container
        self._name = name
        self._clock = clock
        self._woken = woken
        self._longest = longest
        self._mode = EVERY if every else LATEST
        self._key = container.paths
        self._paces: dict[str, _Pace] = {}

    async def partitions(self) -> Sequence[str]:
        async with self._containers.told():
            return sorted(one.id for one in await self._container.look())

    async def start(self, partition: str, at: Start) -> str:
        listed = next(((one.low, one.high) for one in self._container.ranges if one.id == partition), None)
        bounds = listed or self._container.bounds.get(partition)
        if bounds is None:
            raise Unavailable(f"{self._name!r}: partition {partition} was split or merged; look again")
        if self._mode == EVERY and at != "now":
            raise ConfigurationError(
                f"{self._name!r}: start={at!r}: with mode=all a feed begins now; say start='now', or mode=latest"
            )
        if at == "now" and listed is None:
            return str(Cursor(*bounds, NOW))
        if at == "now":
            # Where "now" is is asked once and kept: else what comes before the first change is skipped by a restart.
            first = await self._read(partition, Cursor(*bounds, NOW), 1)
            if isinstance(first, Answer):
                return str(Cursor(*bounds, first.etag))
            raise Unavailable(f"{self._name!r}: partition {partition} was split or merged; look again")
        return str(Cursor(*bounds, BEGINNING, 0.0 if at == "beginning" else float(at)))

    async def read(self, cursors: Mapping[str, str], limit: int, wait: float) -> Mapping[str, Page | Moved | Expired]:
        end = self._clock.monotonic() + wait
        places = self._places(cursors)
        found: dict[str, Page | Moved | Expired] = {}
        self._woken.clear()
        first = wait <= 0
        while True:
            now = self._clock.monotonic()
            due = [name for name in places if first or self._pace(name).due <= now]
            pages = await each(lambda name: self._page(name, places[name], limit), due)
            found |= dict(zip(due, pages, strict=True))
            left = end - self._clock.monotonic()
            if left <= 0 or any(_is_news(page) for page in found.values()):
                break
            soonest = min(self._pace(name).due for name in places) - self._clock.monotonic()
            if await self._clock.wait(self._woken, min(left, max(soonest, 0.01))):
                self._woken.clear()
                self._hurry(places)
        return {name: found.get(name) or Page((), str(place)) for name, place in places.items()}

    async def lag(self, cursors: Mapping[str, str]) -> Mapping[str, Lag]:
        """By the formula of .NET's estimator: from the first LSN that was not read to the newest of the partition. It
        counts transactions; a change that waits counts as one at least."""

        async def one(name: str, place: Cursor) -> Lag:
            answer = await self._read(name, place, 1)
            if not isinstance(answer, Answer) or not answer.items:
                return Lag(0, 0.0)
            first = logged(answer.items, name, self._mode, self._key)[0]
            now = max(answer.now, self._clock.now())
            items = answer.newest - (first.order >> 16) + 1 if answer.newest else 1
            return Lag(max(items, 1), max(now - first.at, 0.0))

        places = self._places(cursors)
        lags = await each(lambda name: one(name, places[name]), list(places))
        return dict(zip(places, lags, strict=True))

    async def trim(self, before: Mapping[str, str], retention: float) -> int:
        """The feed is the service's own: latest versions stay as long as their documents, all versions as long as the
        continuous backup."""
        return 0

    # --- inside ---------------------------------------------------------------------------------------------

    def _places(self, texts: Mapping[str, str]) -> dict[str, Cursor]:
        return {name: cursors.parse(text) for name, text in texts.items()}

    def _pace(self, name: str) -> _Pace:
        return self._paces.setdefault(name, _Pace())

    def _hurry(self, places: Mapping[str, Cursor]) -> None:
        for name in places:
            self._paces[name] = _Pace()

    async def _page(self, name: str, place: Cursor, limit: int) -> Page | Moved:
        answer = await self._read(name, place, min(limit, PAGE))
        if isinstance(answer, Moved):
            return answer
        pace = self._pace(name)
        pace.pause = SHORTEST if answer.items else min(pace.pause * GROWTH, self._longest)
        pace.due = self._clock.monotonic() + (0.0 if answer.items else pace.pause)
        behind = str(place.at(answer.etag))
        changes = [one for one in logged(answer.items, name, self._mode, self._key) if one.at >= int(place.since)]
        return Page(_resumable(changes, behind), behind, more=bool(answer.items))

    async def _read(self, name: str, place: Cursor, limit: int) -> Answer | Moved:
        """One page, or what the partition consists of now. The partitions are looked at again when an answer came from
        another one than we knew, twice at most: then the split is not through yet."""
        async with self._containers.told():
            for _ in range(2):
                if not moved(self._container.ranges, name, place):
                    answer = await read(self._container, place, limit, self._mode)
                    if answer is not None:
                        return answer
                found = await self._container.look()
                if moved(found, name, place):
                    return Moved(children(found, name, place))
        raise Unavailable(f"{self._name!r}: partition {name} is being split or merged")


def _is_news(page: Page | Moved | Expired) -> bool:
    return not isinstance(page, Page) or bool(page.changes) or page.more


def _resumable(changes: Sequence[Logged], behind: str) -> tuple[Logged, ...]:
    """Only the end of a page is a place of its own: a page is one etag."""
    return tuple(change._replace(cursor=behind if n == len(changes) else None) for n, change in enumerate(changes, 1))
