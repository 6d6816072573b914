"""The feed of one collection or table: its rows in `tidemill_log`, read by `seq`.

One writer at a time means that the order of `seq` is the order of commits, so `seq > n` never passes a change
that may still become visible. A cursor is a number: what lies at or before it was read. A cursor with a `b`
also reads the rows that stood in a table before it was captured (see backfill); others pass over them, so a
worker that began "now" is not shown old rows because another one began at the beginning.

Trimming keeps, for each partition, the highest `seq` it removed. A cursor below that mark may have missed
something and is `Expired`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from sqlite3 import Connection
from typing import Any

from tidemill.adapters.sqlite import backfill
from tidemill.adapters.sqlite.columns import Packed, blobs, integers, pack, reals, texts
from tidemill.adapters.sqlite.session import Session
from tidemill.model import (
    MAX_WAIT,
    Expired,
    Kind,
    Lag,
    Logged,
    Moved,
    Page,
    Source,
    Start,
    TableSpec,
)

KINDS: tuple[Kind, ...] = ("put", "delete", "truncate", "put")
"""By their number in the log; 3 is a row that was there before the capture."""

BACKFILLED = 3

SLICE = 5000
"""No more rows are trimmed in one transaction."""


@dataclass(frozen=True, slots=True)
class Cursor:
    seq: int
    backfill: bool

    def __str__(self) -> str:
        return f"{'b' if self.backfill else ''}{self.seq}"


def parse(cursor: str) -> Cursor:
    return Cursor(int(cursor.removeprefix("b")), cursor.startswith("b"))


class Feed:
    """`ports.Feed` on the log."""

    def __init__(self, session: Session, spec: Source) -> None:
        self._session = session
        self._source = session.source(spec.name)
        self._topic = f"feed/{spec.name}"
        self._table = spec if isinstance(spec, TableSpec) else None
        self._filled = self._table is None

    async def partitions(self) -> Sequence[str]:
        return self._source.partitions

    async def start(self, partition: str, at: Start) -> str:
        part, number, table = int(partition), self._source.number, self._table
        if at == "beginning" and table is not None:
            await self._session.write(lambda connection: backfill.want(connection, number, table))
        return await self._session.slow.submit(
            lambda connection: str(begin(connection, number, part, at, table=table is not None))
        )

    async def read(self, cursors: Mapping[str, str], limit: int, wait: float) -> Mapping[str, Page | Moved | Expired]:
        clock, parsed = self._session.clock, {name: parse(cursor) for name, cursor in cursors.items()}
        end, seen = clock.monotonic() + min(wait, MAX_WAIT), -1
        with self._session.bell.listen(self._topic) as event:
            while True:
                event.clear()
                seen, pages = await self._pages(parsed, limit, seen)
                behind = any(isinstance(page, Page) and page.more for page in pages.values())
                if not behind and await self._fill(parsed) and not pages:
                    continue
                if pages:
                    return {name: pages.get(name) or Page((), cursors[name]) for name in cursors}
                left = end - clock.monotonic()
                if left <= 0:
                    return {name: Page((), cursor) for name, cursor in cursors.items()}
                await clock.wait(event, left)

    async def lag(self, cursors: Mapping[str, str]) -> Mapping[str, Lag]:
        now, number = self._session.clock.now(), self._source.number
        return await self._session.slow.submit(
            lambda connection: {
                name: lag(connection, number, int(name), parse(cursor), now) for name, cursor in cursors.items()
            }
        )

    async def trim(self, before: Mapping[str, str], retention: float) -> int:
        number, oldest = self._source.number, self._session.clock.now() - retention
        limits = {int(name): parse(cursor).seq for name, cursor in before.items()}

        def run(connection: Connection) -> int:
            removed = 0
            for part in range(self._source.spec.partitions):
                if removed < SLICE:
                    upto = limits.get(part, 0)
                    removed += trim(connection, number, part, upto, oldest, SLICE - removed)
            return removed

        removed = await self._session.write(run)
        if removed:
            await self._session.write(shrink, durable=False)
        return removed

    async def _pages(
        self, cursors: Mapping[str, Cursor], limit: int, seen: int
    ) -> tuple[int, dict[str, Page | Expired]]:
        number = self._source.number
        return await self._session.reads.submit(lambda connection: pages(connection, number, cursors, limit, seen))

    async def _fill(self, cursors: Mapping[str, Cursor]) -> bool:
        """Bring the next old rows into the log if these cursors want them; False when there is nothing left."""
        number, table = self._source.number, self._table
        if self._filled or table is None or not any(cursor.backfill for cursor in cursors.values()):
            return False
        if await self._session.reads.submit(lambda connection: backfill.pending(connection, number)):
            await self._session.write(
                lambda connection: backfill.copy_chunk(connection, number, table), rings=(self._topic,)
            )
            return True
        self._filled = True
        return False


# --- inside a transaction -----------------------------------------------------------------------------------


def top(connection: Connection) -> int:
    """The highest `seq` that was ever given out."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tidemill_log'").fetchone()
    return int(row[0]) if row else 0


def marks(connection: Connection, source: int) -> dict[int, int]:
    """By partition, the highest `seq` that was trimmed."""
    return dict(connection.execute("SELECT part, seq FROM tidemill_trimmed WHERE source = ?", (source,)))


def begin(connection: Connection, source: int, part: int, at: Start, *, table: bool) -> Cursor:
    if at == "now":
        return Cursor(top(connection), False)
    mark = marks(connection, source).get(part, 0)
    if at == "beginning":
        return Cursor(mark, table)
    row = connection.execute(
        "SELECT min(seq) FROM tidemill_log WHERE source = ? AND part = ? AND at >= ?", (source, part, at)
    ).fetchone()
    return Cursor(max(mark, top(connection) if row[0] is None else row[0] - 1), False)


LOG = "SELECT * FROM tidemill_log WHERE source = ?1 AND part = ?2 AND seq > ?3 AND kind < ?4 ORDER BY seq LIMIT ?5"
PAGE = pack(
    LOG,
    integers("seq"),
    "group_concat(kind, '')",
    texts("doc"),
    texts("key"),
    blobs("body"),
    blobs("before"),
    reals("at"),
)
LOGGED: Callable[[Any], Logged] = partial(tuple.__new__, Logged)


def pages(
    connection: Connection, source: int, cursors: Mapping[str, Cursor], limit: int, seen: int
) -> tuple[int, dict[str, Page | Expired]]:
    """The partitions with something to tell; nothing is looked up while the log's end is still `seen`."""
    end = top(connection)
    found: dict[str, Page | Expired] = {}
    if end == seen:
        return end, found
    trimmed = marks(connection, source)
    for name, cursor in cursors.items():
        mark = trimmed.get(int(name), 0)
        if cursor.seq < mark:
            found[name] = Expired(str(Cursor(mark, cursor.backfill)))
        elif cursor.seq < end and (page := one_page(connection, source, name, cursor, limit)):
            found[name] = page
    return end, found


def one_page(connection: Connection, source: int, name: str, cursor: Cursor, limit: int) -> Page | None:
    kinds = BACKFILLED + 1 if cursor.backfill else BACKFILLED
    packed = Packed(connection.execute(PAGE, (source, int(name), cursor.seq, kinds, limit)).fetchone())
    count = packed.count
    if not count:
        return None
    seqs = packed.integers()
    ids = list(map(str, seqs))
    cursors = [f"b{id}" for id in ids] if cursor.backfill else ids
    kinds_of = [KINDS[int(kind)] for kind in packed.value()]
    rest = (packed.texts(), packed.texts(), packed.blobs(), packed.blobs(), packed.reals())
    changes = tuple(map(LOGGED, zip(ids, (name,) * count, seqs, cursors, kinds_of, *rest, strict=True)))
    return Page(changes, cursors[-1], count == limit)


def lag(connection: Connection, source: int, part: int, cursor: Cursor, now: float) -> Lag:
    kinds = "" if cursor.backfill else " AND kind < 3"
    where = f"FROM tidemill_log WHERE source = ? AND part = ? AND seq > ?{kinds}"
    args = (source, part, cursor.seq)
    (items,) = connection.execute(f"SELECT count(*) {where}", args).fetchone()
    first = connection.execute(f"SELECT at {where} ORDER BY seq LIMIT 1", args).fetchone()
    return Lag(items, max(0.0, now - first[0]) if first else 0.0)


def trim(connection: Connection, source: int, part: int, upto: int, oldest: float, limit: int) -> int:
    """Remove the head of a partition: changes up to `upto`, and those older than `oldest`; how many."""
    rows = connection.execute(
        "SELECT seq, at FROM tidemill_log WHERE source = ? AND part = ? ORDER BY seq LIMIT ?",
        (source, part, limit),
    ).fetchall()
    last = 0
    for seq, at in rows:
        if seq > upto and at >= oldest:
            break
        last = seq
    if not last:
        return 0
    connection.execute(
        "INSERT INTO tidemill_trimmed VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq",
        (source, part, last),
    )
    sql = "DELETE FROM tidemill_log WHERE source = ? AND part = ? AND seq <= ?"
    return connection.execute(sql, (source, part, last)).rowcount


def shrink(connection: Connection) -> None:
    """Give pages that became free back to the file system, a few at a time."""
    connection.execute("PRAGMA incremental_vacuum(500)").fetchall()
