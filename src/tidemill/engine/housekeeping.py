"""Housekeeping, by one replica at a time: the log behind the slowest worker, and dead letters nobody came for.

State: one record, `housekeeping/turn`, that says when somebody last took a turn; whoever swaps it has the turn. The
wall clock is enough here: two turns at once remove the same things. What a worker has not passed is never removed by
its cursor; what is older than the retention goes whoever waits for it, and that worker is told so, loudly (`Expired`).
Bodies of parked keys are kept for as long as their key is.
"""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from tidemill.app.worker import Declared, OnChange
from tidemill.core.lease import PREFIX, from_value
from tidemill.engine.places import Places
from tidemill.errors import TidemillError
from tidemill.model import FORMAT, Fact, Observer, Record, Source, Swap
from tidemill.ports import Clock, DeadLetters, Feed, Store

DAY = 86_400.0
TURN = "housekeeping/turn"
EVERY = 60.0
LOG_KEPT = 7 * DAY
LETTERS_KEPT = 30 * DAY
PAGE = 1_000
SLICES = 200
"""Slices of the log in a turn at most: the rest is for the next."""


class Housekeeper:
    """Takes a turn about once a minute, if nobody else has."""

    def __init__(self, declared: Declared, places: Places, *, clock: Clock, random: Random, observer: Observer) -> None:
        self._places = places
        self._store: Store = places.shared_store()
        self._clock = clock
        self._random = random
        self._observe = observer
        self._workers: dict[str, list[str]] = {}
        self._sources: dict[str, Source] = {}
        for worker in declared.workers:
            if isinstance(worker.trigger, OnChange):
                source = worker.trigger.source
                self._sources[source.name] = source
                self._workers.setdefault(source.name, []).append(worker.name)

    async def run(self) -> None:
        """For as long as the replica works."""
        while True:
            await self._clock.sleep(EVERY * (0.5 + self._random.random()))
            try:
                if await self._my_turn():
                    await self.turn()
            except TidemillError as error:
                self._observe(Fact("housekeeping_failed", detail={"error": str(error)}))

    async def turn(self) -> None:
        """One turn, whoever's it is."""
        removed = 0
        for source in self._sources.values():
            feed = self._places.source_database(source.name).feed(source)
            removed += await self._trim(feed, await self._slowest(feed, source.name))
        dropped = 0
        for database in self._places.databases:
            if "dead_letters" in database.features:
                dropped += await self._drop_old(database.dead_letters())
        self._observe(Fact("housekeeping", detail={"changes": removed, "letters": dropped}))

    async def _my_turn(self) -> bool:
        [record] = await self._store.get([TURN])
        now = self._clock.now()
        last = record.value.get("at") if record else None
        if isinstance(last, int | float) and 0 <= now - last < EVERY:
            return False
        version = record.version if record else None
        [reply] = await self._store.swap([Swap(TURN, version, {"format": FORMAT, "at": now})])
        return isinstance(reply, Record)

    async def _slowest(self, feed: Feed, source: str) -> Mapping[str, str]:
        """Of each partition the cursor that is furthest behind; none where a worker has not begun yet.

        Workers of other releases and apps on the same source count as ours do: we know them by their leases.
        """
        cursors = await self._cursors(source)
        slowest: dict[str, str] = {}
        for partition in await feed.partitions():
            known = cursors.get(partition, {})
            if known.keys() >= set(self._workers[source]):
                lags = [(await feed.lag({partition: cursor}))[partition].items for cursor in known.values()]
                slowest[partition] = max(zip(lags, known.values(), strict=True))[1]
        return slowest

    async def _cursors(self, source: str) -> Mapping[str, Mapping[str, str]]:
        """By partition and worker, as the leases have them."""
        cursors: dict[str, dict[str, str]] = {}
        after = PREFIX
        while page := await self._store.scan(PREFIX, after, PAGE):
            after = page[-1].key
            for record in page:
                worker, _, partition = record.key.removeprefix(PREFIX).partition("/")
                cursor = from_value(record.value).cursor
                if cursor and record.value.get("source") == source:  # none: never worked, though somebody holds it
                    cursors.setdefault(partition, {})[worker] = cursor
        return cursors

    async def _trim(self, feed: Feed, before: Mapping[str, str]) -> int:
        total = 0
        for _ in range(SLICES):
            removed = await feed.trim(before, LOG_KEPT)
            total += removed
            if not removed:
                break
        return total

    async def _drop_old(self, letters: DeadLetters) -> int:
        oldest = self._clock.now() - LETTERS_KEPT
        dropped = 0
        for source in await letters.count(""):
            if not (source.startswith("queue/") or source.endswith("/skipped")):
                continue  # the body of a parked key: only a decision removes it
            page = await letters.page(source, -1, 500)
            old = [letter.id for letter in page if letter.at < oldest]
            if old:
                dropped += await letters.drop(source, old)
        return dropped
