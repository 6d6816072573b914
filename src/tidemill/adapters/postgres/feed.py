"""The feed of one collection or table: windows of its log, read by the ticks that the watch has found.

Partitions that stand at the same place are read by one query, in the order of `seq`; after a round they all stand at
the same tick again.

A partition without changes keeps the cursor that the reader has, so that nothing need be written for it; the place it
was read to is remembered here, and given to the reader only once it is half a minute ahead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from operator import itemgetter

from tidemill.adapters.postgres import backfill, trimming
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names
from tidemill.adapters.postgres.reader import Reader
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.windows import (
    FIRST,
    Cursor,
    Ticks,
    parse_cursor,
    tick_of,
)
from tidemill.model import MAX_WAIT, Expired, Lag, Moved, Page, Source, Start, TableSpec

IDLE = 30_000
"""Milliseconds (so many ticks) by which a quiet partition's cursor may lag behind what was read."""

MARKS = 5.0
"""Seconds for which it is believed what was trimmed; nothing is really removed before a longer time."""

MERGED = 4
"""How many pages a read may bring in all, in multiples of its limit."""

TICKS = """
SELECT id, seq, era, snapshot::text, xact::text FROM {s}.tick
WHERE id >= (SELECT max(id) FROM {s}.tick WHERE id <= $1) ORDER BY id LIMIT 2000
"""


class Feed:
    """`ports.Feed` on a log."""

    def __init__(self, session: Session, spec: Source) -> None:
        self._session = session
        self._source = session.source(spec.name)
        self._table = spec if isinstance(spec, TableSpec) else None
        self._log = session.names.log(spec.name)
        self._filled = self._table is None
        self._ahead: dict[str, tuple[str, Cursor]] = {}
        self._quiet: dict[str, Page | Expired] = {}  # cursors that have fallen far behind, though nothing came
        self._marks: Mapping[int, Cursor] = {}
        self._marked = float("-inf")
        self._loaded = Ticks([])
        self._reader = Reader(session.data, self._log)

    async def close(self) -> None:
        await self._reader.close()

    async def partitions(self) -> Sequence[str]:
        return self._source.partitions

    async def start(self, partition: str, at: Start) -> str:
        session, table = self._session, self._table
        async with session.data.transaction() as link:
            if at == "beginning" and table is not None:
                await backfill.want(link, session.names, table)
            cursor = await begin(link, session.names, self._source.spec.name, int(partition), at)
        session.watch.poke(tell=False)
        return str(replace(cursor, backfill=at == "beginning" and table is not None))

    async def read(self, cursors: Mapping[str, str], limit: int, wait: float) -> Mapping[str, Page | Moved | Expired]:
        session, clock = self._session, self._session.clock
        end = clock.monotonic() + min(wait, MAX_WAIT)
        with session.watch.bell.listen("feed") as event:
            if wait <= 0:
                await session.watch.fresh()
            while True:
                event.clear()
                session.watch.check()
                pages = await self._pages(cursors, limit)
                if not pages and await self._fill(cursors):
                    if wait <= 0:
                        await session.watch.fresh()
                    continue
                left = end - clock.monotonic()
                if pages or left <= 0:
                    pages = self._quiet | pages
                    return {name: pages.get(name) or Page((), cursor) for name, cursor in cursors.items()}
                await clock.wait(event, left)

    async def lag(self, cursors: Mapping[str, str]) -> Mapping[str, Lag]:
        return await trimming.lag(self._session, self._source.spec.name, self._log, self._placed(cursors))

    async def trim(self, before: Mapping[str, str], retention: float) -> int:
        self._marked = float("-inf")
        placed = {int(name): parse_cursor(cursor) for name, cursor in before.items()}
        return await trimming.trim(self._session, self._source.spec, self._log, placed, retention)

    def _placed(self, cursors: Mapping[str, str]) -> dict[str, Cursor]:
        """Where each partition really stands: ahead of its cursor if nothing came since."""
        found: dict[str, Cursor] = {}
        for name, text in cursors.items():
            ahead = self._ahead.get(name)
            found[name] = ahead[1] if ahead is not None and ahead[0] == text else parse_cursor(text)
        return found

    async def _pages(self, cursors: Mapping[str, str], limit: int) -> dict[str, Page | Expired]:
        """What there is now, for the partitions that have something; those furthest behind first."""
        placed = self._placed(cursors)
        self._quiet = {}
        found: dict[str, Page | Expired] = await self._expired(placed)
        groups: dict[tuple[int, int, int, bool], list[str]] = {}
        for name, cursor in placed.items():
            if name not in found:
                groups.setdefault((cursor.tick, cursor.next, cursor.seq, cursor.backfill), []).append(name)
        taken = 0
        for _, names in sorted(groups.items(), key=itemgetter(0)):
            ticks = await self._ticks(placed[names[0]])
            if ticks is None:
                continue  # the watch has yet to find the tick they stand at
            taken += await self._read_group(names, placed, cursors, ticks, limit, found)
            if taken >= MERGED * limit:
                break
        return found

    async def _read_group(
        self,
        names: Sequence[str],
        placed: Mapping[str, Cursor],
        cursors: Mapping[str, str],
        ticks: Ticks,
        limit: int,
        found: dict[str, Page | Expired],
    ) -> int:
        """Read on, for partitions that stand at one place, until there is something or nothing is left; how many."""
        here: Mapping[str, Cursor] = {name: ticks.settle(placed[name]) for name in names}
        count = 0
        while not count and (read := await self._reader.read(here, ticks, limit)) is not None:
            here = read.here
            more = read.more or read.window.last.id != self._session.watch.ticks.newest.id
            for name, logged in read.changes.items():
                found[name] = Page(tuple(logged), str(here[name]), more)
                self._ahead.pop(name, None)
                count += len(logged)
        for name in here.keys() - found.keys():
            self._ahead[name] = (cursors[name], here[name])
            if here[name].tick - parse_cursor(cursors[name]).tick > IDLE:
                self._quiet[name] = Page((), str(here[name]))
        return count

    async def _ticks(self, cursor: Cursor) -> Ticks | None:
        """Ticks from the cursor's on. None: the watch will bring them."""
        ticks, session = self._session.watch.ticks, self._session
        if not ticks:
            return None
        if (last := cursor.next or cursor.tick) > ticks.newest.id:
            known = await session.data.value(f"SELECT 1 FROM {session.names.schema}.tick WHERE id = $1", last)
            return None if known else ticks  # it went down with a server: go on from the newest that is left
        if ticks.reaches(cursor.tick):
            return ticks
        if not self._loaded.reaches(cursor.tick) or self._loaded.newest.id <= cursor.tick:
            rows = await session.data.fetch(TICKS.format(s=session.names.schema), cursor.tick)
            self._loaded = Ticks([tick_of(*row) for row in rows])
        return self._loaded

    async def _expired(self, placed: Mapping[str, Cursor]) -> dict[str, Page | Expired]:
        """The partitions whose cursor lies before what was trimmed."""
        clock = self._session.clock
        if clock.monotonic() - self._marked >= MARKS:
            self._marks = await trimming.marks(self._session, self._source.spec.name)
            self._marked = clock.monotonic()
        found: dict[str, Page | Expired] = {}
        for name, cursor in placed.items():
            mark = self._marks.get(int(name))
            if mark is not None and cursor.place() < mark.place():
                found[name] = Expired(str(replace(mark, backfill=cursor.backfill)))
        return found

    async def _fill(self, cursors: Mapping[str, str]) -> bool:
        """Bring the next old rows into the log if these cursors want them; False when there is nothing left."""
        session, table = self._session, self._table
        if self._filled or table is None or not any(cursor.startswith("b") for cursor in cursors.values()):
            return False
        async with session.data.transaction() as link:
            if await backfill.pending(link, session.names, table):
                copied = await backfill.copy_chunk(link, session.names, table)
                session.watch.poke()
                return copied > 0
        self._filled = True
        return False


async def begin(link: Link, names: Names, source: str, part: int, at: Start) -> Cursor:
    """Where a reader of a partition begins."""
    s = names.schema
    if at == "now":
        return Cursor(await link.fetchval(f"SELECT {s}.make_tick(true)"))
    text = await link.fetchval(f"SELECT cursor FROM {s}.trimmed WHERE source = $1 AND part = $2", source, part)
    mark = parse_cursor(text) if text else Cursor(FIRST)
    if at == "beginning":
        return mark
    await link.fetchval(f"SELECT {s}.make_tick(true)")
    then = Cursor(await link.fetchval(f"SELECT max(id) FROM {s}.tick WHERE at <= to_timestamp($1)", float(at)))
    return max(mark, then, key=Cursor.place)
