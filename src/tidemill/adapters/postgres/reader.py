"""Reading the windows of one log, with the next page asked for while this one is worked on.

What a query asks for is split in two, each part a walk through one index: changes of transactions that began after the
window's first tick (they have a higher `seq` than was drawn then), and those of the transactions that were running at
it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.adapters.postgres.link import Row
from tidemill.adapters.postgres.pool import Pool
from tidemill.adapters.postgres.windows import RANKS, Cursor, Ticks, Window
from tidemill.model import Kind, Logged

KINDS: tuple[Kind, ...] = ("put", "delete", "truncate", "put")
"""By their number in the log; 3 is a row that was there before the capture."""

BACKFILLED = 3

MISSED = 5
"""After a page that was asked for in vain (other partitions were to be read) so many are not asked for ahead."""

RESUMABLE = 16
"""Every so many changes of a partition have a cursor of their own, besides the end of each page."""

WINDOW = """
SELECT part, seq, kind, doc, key, body, before, date_part('epoch', at){xid} FROM (
    (SELECT * FROM {log} WHERE seq > $1 AND seq <= $2 AND xid > $3::text::xid8 AND era = $4
        AND pg_visible_in_snapshot(xid, (SELECT $5::text::pg_snapshot)) AND part = ANY ($6) AND kind < $7
        ORDER BY seq LIMIT $8)
    {late}) found
ORDER BY seq LIMIT $8
"""

LATE = """UNION ALL
    (SELECT * FROM {log} WHERE xid = ANY ($9::text::xid8[]) AND seq > $10 AND era = $4
        AND pg_visible_in_snapshot(xid, (SELECT $5::text::pg_snapshot)) AND part = ANY ($6) AND kind < $7
        ORDER BY seq LIMIT $8)
"""


@dataclass(frozen=True, slots=True)
class Read:
    """What was read for partitions that stood at one place: the changes by partition, and where all stand after them.

    `more`: there is more in the window.
    """

    changes: Mapping[str, Sequence[Logged]]
    here: Mapping[str, Cursor]
    window: Window
    more: bool


class Reader:
    """Reads one log. `ahead`: ask for the next page before it is wanted; `resumable`: see `RESUMABLE`."""

    def __init__(self, pool: Pool, log: str, *, ahead: bool = True) -> None:
        self.ahead: bool = ahead
        self.resumable: int = RESUMABLE
        self._pool = pool
        self._log = log
        self._next: tuple[tuple[Mapping[str, Cursor], int], asyncio.Task[Read | None]] | None = None
        self._pause = 0

    async def read(self, here: Mapping[str, Cursor], ticks: Ticks, limit: int) -> Read | None:
        """The next windows of these partitions; None at the newest tick. At most `limit` changes each."""
        known, self._next = self._next, None
        if known is not None and known[0] == (here, limit):
            found = await known[1]
        else:
            self._pause = MISSED if known is not None else max(self._pause - 1, 0)
            found = await self._read(here, ticks, limit)
        if (
            self.ahead
            and found is not None
            and not self._pause
            and (found.more or found.window.last.id != ticks.newest.id)
        ):
            task = asyncio.create_task(self._read(found.here, ticks, limit))
            task.add_done_callback(_heard)
            self._next = ((found.here, limit), task)
        return found

    async def close(self) -> None:
        known, self._next = self._next, None
        if known is not None:
            known[1].cancel()
            await asyncio.gather(known[1], return_exceptions=True)

    async def _read(self, here: Mapping[str, Cursor], ticks: Ticks, limit: int) -> Read | None:
        cursor = next(iter(here.values()))
        # One page for all the partitions together: the rows are then still in the processor's cache when they are
        # worked on (measured: four times as many cost a fifth of the throughput).
        window = ticks.window(cursor, limit)
        if window is None:
            return None
        if window.empty:
            return Read({}, {name: replaced(window, one) for name, one in here.items()}, window, False)
        parts = sorted(map(int, here))
        merged = len(window.ticks) > 1
        rows = await self._query(window, parts, cursor.backfill, limit, xid=merged)
        if merged and len(rows) == limit:
            window, merged = window.first(), False
            rows = await self._query(window, parts, cursor.backfill, limit)
        if merged:
            rows = sorted(rows, key=lambda row: window.index_of(row[8]))
        more = len(rows) == limit
        changes, after = split(rows, window, here, more=more, resumable=self.resumable)
        return Read(changes, after, window, more)

    async def _query(
        self, window: Window, parts: Sequence[int], backfilled: bool, limit: int, *, xid: bool = False
    ) -> Sequence[Row]:
        base = window.base
        running = base.running
        late = [running, window.after] if running != "{}" else []
        sql = WINDOW.format(log=self._log, xid=", xid" if xid else "", late=LATE.format(log=self._log) if late else "")
        return await self._pool.fetch(
            sql,
            max(base.seq, window.after),
            window.upto,
            base.latest,
            window.last.era,
            window.last.text,
            parts,
            BACKFILLED + backfilled,
            limit,
            *late,
        )


def _heard(task: asyncio.Task[Any]) -> None:
    """A page that nobody asks for any more may fail unheard."""
    if not task.cancelled():
        task.exception()


def replaced(window: Window, cursor: Cursor) -> Cursor:
    """At the end of the window."""
    return Cursor(window.last.id, backfill=cursor.backfill)


def split(
    rows: Sequence[Row], window: Window, here: Mapping[str, Cursor], *, more: bool, resumable: int = RESUMABLE
) -> tuple[dict[str, list[Logged]], dict[str, Cursor]]:
    """The changes by partition, and where each partition stands after them."""
    ranks = {int(name): cursor.rank for name, cursor in here.items()}
    found: dict[str, list[Logged]] = {}
    adds: dict[int, tuple[str, Callable[[Logged], None]]] = {}
    for name in here:
        changes = found[name] = []
        adds[int(name)] = (name, changes.append)
    new = tuple.__new__
    flag = "b" if next(iter(here.values())).backfill else ""
    for index, several in groups(rows, window):
        if index:
            ranks = dict.fromkeys(ranks, 0)
        before = window.ticks[index - 1].id if index else window.base.id
        tick = window.ticks[index].id
        base, start = tick << RANKS, f"{flag}{before}>{tick}:"
        for row in several:
            part, seq, kind, doc, key, body, former, at = row
            rank = ranks[part] = ranks[part] + 1
            name, add = adds[part]
            cursor = None if rank % resumable else f"{start}{seq}:{rank}"
            add(new(Logged, (str(seq), name, base | rank, cursor, KINDS[kind], doc, key, body, former, at)))
    changes_of = {name: changes for name, changes in found.items() if changes}
    if not more:
        return changes_of, {name: replaced(window, cursor) for name, cursor in here.items()}
    last = rows[-1][1]
    return changes_of, {
        name: Cursor(window.base.id, window.last.id, last, ranks[int(name)], cursor.backfill)
        for name, cursor in here.items()
    }


def groups(rows: Sequence[Row], window: Window) -> Sequence[tuple[int, Sequence[Any]]]:
    """The rows of each window, which stand one after the other if there are several."""
    if len(window.ticks) == 1:
        return [(0, rows)]
    found: dict[int, list[Any]] = {}
    for row in rows:
        found.setdefault(window.index_of(row[8]), []).append(row[:8])
    return list(found.items())
