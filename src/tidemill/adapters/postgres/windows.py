"""Which changes a reader is given, and in which order: pure, without a server.

A *tick* is a snapshot of the database that was written down: which transactions had ended then. What is visible in
one tick and not in the tick before is a *window*; each committed change is in exactly one. Inside a window changes
stand in the order of `seq`, which was drawn while the row was locked, so changes of one row are in the order of their
commits, and no change is passed that may still become visible (see docs/postgresql.md for the proof). The algorithm is
that of PgQ (Kreen and Pihlak, 2007): two snapshots and their difference.

A cursor is a tick that was read to its end, or a place inside the window that follows it. Its text is `TICK`, or
`TICK>NEXT:SEQ:RANK`: of the window from TICK to NEXT everything up to SEQ was read, RANK changes of this partition. A
leading `b` reads also the rows that a table had before it was captured. Ticks can vanish (they are thinned, and a
server that crashes forgets the last ones): who is at a tick that is no more goes on from the one before, and a place
inside a window counts only as long as both its ends are there.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

RANKS = 40
"""Bits of a change's order that hold its rank in the window; the tick stands above them."""

FIRST = 1
"""The first tick, in which nothing has happened."""

END = (1 << 63) - 1
"""Above every `seq`."""


NOTHING = "3:3:"
"""A snapshot in which nothing has happened: no transaction of a user has a number below 3."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Which transactions had ended: those below `xmax` that are not in `running`."""

    xmax: int
    running: tuple[int, ...]

    def sees(self, xid: int) -> bool:
        if xid >= self.xmax:
            return False
        place = bisect_left(self.running, xid)
        return place == len(self.running) or self.running[place] != xid


def parse_snapshot(text: str) -> Snapshot:
    """`xmin:xmax:running,…`, as PostgreSQL writes a pg_snapshot."""
    _, xmax, running = text.split(":")
    return Snapshot(int(xmax), tuple(map(int, running.split(","))) if running else ())


@dataclass(frozen=True, slots=True)
class Tick:
    """A snapshot that was written down. `id` rises. Changes that it does not know have a higher number than `seq`, and
    their transactions one above `latest`, unless they were `running` then. `xact` is the tick's own.

    `era` changes when the data came into another cluster (a restore), where transactions are counted anew.
    """

    id: int
    seq: int
    era: int
    snapshot: Snapshot
    text: str
    xact: int

    @property
    def running(self) -> str:
        """The transactions that were running, as PostgreSQL writes an array of them."""
        snapshot = self.snapshot
        return "{" + ",".join(map(str, (*snapshot.running, *range(snapshot.xmax, self.xact)))) + "}"

    @property
    def latest(self) -> str:
        """All transactions above this one began later. Below it are the running ones, and those that had ended: one
        may have begun after the tick's own and ended before the snapshot."""
        return str(max(self.xact, self.snapshot.xmax - 1))


def tick_of(id: int, seq: int, era: int, text: str, xact: str) -> Tick:
    """From a row of the table."""
    return Tick(id, seq, era, parse_snapshot(text), text, int(xact))


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a partition. `next` is 0 unless it lies inside the window from `tick` to `next`."""

    tick: int
    next: int = 0
    seq: int = 0
    rank: int = 0
    backfill: bool = False

    def __str__(self) -> str:
        inside = f">{self.next}:{self.seq}:{self.rank}" if self.next else ""
        return f"{'b' if self.backfill else ''}{self.tick}{inside}"

    def place(self) -> tuple[int, int]:
        """What cursors of one partition are compared by."""
        return (self.next, self.seq) if self.next else (self.tick, END)


def parse_cursor(text: str) -> Cursor:
    backfill = text.startswith("b")
    tick, _, inside = text.removeprefix("b").partition(">")
    if not inside:
        return Cursor(int(tick), backfill=backfill)
    following, seq, rank = inside.split(":")
    return Cursor(int(tick), int(following), int(seq), int(rank), backfill)


class Ticks:
    """The ticks from one on, without a gap; the last one is the newest that is known."""

    def __init__(self, ticks: Sequence[Tick]) -> None:
        self._ticks: list[Tick] = list(ticks)
        self._ids: list[int] = [tick.id for tick in ticks]

    def __bool__(self) -> bool:
        return bool(self._ticks)

    @property
    def newest(self) -> Tick:
        return self._ticks[-1]

    def add(self, tick: Tick) -> None:
        """One more, which follows the newest."""
        self._ticks.append(tick)
        self._ids.append(tick.id)

    def forget(self, keep: int) -> None:
        """Only the newest `keep` stay."""
        del self._ticks[:-keep], self._ids[:-keep]

    def reaches(self, id: int) -> bool:
        """Whether what follows this tick is known here."""
        return bool(self._ids) and id >= self._ids[0]

    def settle(self, cursor: Cursor) -> Cursor:
        """The cursor on ticks that are there: the same, or the nearest before it."""
        place = bisect_right(self._ids, cursor.tick) - 1
        here = self._ids[place]
        following = self._ids[place + 1] if place + 1 < len(self._ids) else 0
        if cursor.next and here == cursor.tick and following == cursor.next:
            return cursor
        return Cursor(here, backfill=cursor.backfill)

    def bounds(self, cursor: Cursor) -> tuple[str, str, int]:
        """What lies before a cursor that is settled: the snapshot of its tick, that of the window begun, and its place
        in there."""
        place = bisect_right(self._ids, cursor.tick) - 1
        inside = self._ticks[place + 1].text if cursor.next else NOTHING
        return self._ticks[place].text, inside, cursor.seq

    def window(self, cursor: Cursor, most: int) -> Window | None:
        """What to read next: up to so many ticks further that about `most` changes lie between. None at the end."""
        start = bisect_right(self._ids, cursor.tick) - 1
        base = self._ticks[start]
        end = start + 1
        if end >= len(self._ticks):
            return None
        era, ids = self._ticks[end].era, self._ids
        while (
            not cursor.next
            and era == base.era  # the border of two eras is a window of its own, in which nothing lies
            and end + 1 < len(ids)
            and self._ticks[end + 1].era == era
            and self._ticks[end + 1].seq - base.seq <= most
        ):
            end += 1
        upto = self._ticks[end + 1].seq if end + 1 < len(ids) and self._ticks[end + 1].era == era else END
        return Window(base, tuple(self._ticks[start + 1 : end + 1]), upto, cursor.seq)


@dataclass(frozen=True, slots=True)
class Window:
    """One window, or several that follow each other, of one era; `after` in `seq` if the first was begun."""

    base: Tick
    ticks: tuple[Tick, ...]
    upto: int
    after: int = 0

    @property
    def last(self) -> Tick:
        return self.ticks[-1]

    @property
    def empty(self) -> bool:
        """The border of two eras: nothing lies in it."""
        return self.base.era != self.last.era

    def first(self) -> Window:
        """Only the first of them."""
        return replace(self, ticks=self.ticks[:1], upto=END)

    def index_of(self, xid: int) -> int:
        """Which of the windows a transaction's changes are in, as an index of `ticks`."""
        ticks = self.ticks
        index = bisect_right(ticks, xid, key=_xmax)
        while not ticks[index].snapshot.sees(xid):
            index += 1
        return index


def _xmax(tick: Tick) -> int:
    return tick.snapshot.xmax
