"""One partition in work: its lease, its lanes, its park, and the calls that run."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

from tidemill.core.lanes import Entry, Lanes
from tidemill.core.lease import SINGLE_AFTER, condemned
from tidemill.engine.leases import Hold
from tidemill.engine.parking import Append, Journal
from tidemill.engine.work import Token
from tidemill.model import Logged, Page

MOST_AHEAD = 2_000
MOST_BYTES = 16_000_000
SINGLE_STEPS = 1_000
"""Changes that run one by one after crashes, unless there are fewer: more than a replica has in work at once."""


class Work:
    """What one call works on: entries of the lanes, or the head of a parked key."""

    __slots__ = ("entries", "parked", "partition")

    def __init__(self, partition: PartitionWork, entries: Sequence[Entry], parked: str | None = None) -> None:
        self.partition: PartitionWork = partition
        self.entries: Sequence[Entry] = entries
        self.parked: str | None = parked


class PartitionWork:
    """Everything we know of a partition while we hold it. Used by one feed worker, on the engine's loop."""

    def __init__(self, hold: Hold, journal: Journal, finished: set[str], urge: Callable[[], None]) -> None:
        self.name: str = hold.partition
        self.hold = hold
        self.journal = journal
        self.lanes: Lanes = Lanes(hold.lease.cursor)
        self.finished = finished
        self._urge = urge
        self.reading = True
        self.closed = False
        self.halted = ""
        self.single: bool = hold.lease.crashes >= SINGLE_AFTER
        self.suspected: bool = self.single and hold.lease.suspect is not None
        self._steps = 0
        self.condemned: int | None = condemned(hold.lease)
        self.token: Token = Token(hold.key, *hold.token)
        self.trying: set[str] = set()
        self.calls = 0
        self.changed: asyncio.Event = asyncio.Event()
        self.rows: list[tuple[int, str]] = []
        self._marked = hold.lease.cursor
        self._marks: deque[tuple[str, int]] = deque()

    @property
    def quiet(self) -> bool:
        """Nothing of it runs or is being written."""
        return self.calls == 0 and self.journal.idle

    def room(self) -> int:
        """How many changes may be read ahead."""
        if not self.reading or self.closed or self.halted or self.journal.index.full():
            return 0
        return 0 if self.lanes.bytes >= MOST_BYTES else max(MOST_AHEAD - len(self.lanes), 0)

    def arrived(self, page: Page) -> None:
        """Put what was read where it belongs: into the lanes, behind a parked key, or below the mark."""
        if not (self.finished or self.journal.diverting) or not any(map(self._special, page.changes)):
            self.lanes.add(page)
            return
        for change in page.changes:
            single = Page((change,), change.cursor or self.lanes.read_to)
            if change.id in self.finished or self.journal.index.knows(change):
                entry = Entry(change)
                self.lanes.note(single, [entry])
                self.lanes.close([entry])
            elif self.journal.diverts(change.key):
                self._divert(single, change)
            else:
                self.lanes.add(single)
        self.lanes.note(Page((), page.cursor), [])

    def mark(self) -> None:
        """Tell the lease how far we are, if that has changed."""
        if self.lanes.mark == self._marked or self.closed:
            return
        self._marked = self.lanes.mark
        shaken = self.hold.wanted.crashes > 0
        calm = self.single and (self._steps >= SINGLE_STEPS or not len(self.lanes))
        if calm:
            self.single, self.condemned = False, None
        self.hold.mark(self._marked, calm=calm)
        if shaken and not self.single:  # whoever comes after another crash must know that there was progress
            self._urge()
        if self.rows:
            self._marks.append((self._marked, self.lanes.passed))

    def step(self, order: int) -> None:
        """This change runs alone from now on; nobody else of the partition."""
        self._steps += 1
        self.hold.mark(self.lanes.mark, running_one=order)

    def stepped(self) -> None:
        """It has ended, whatever came of it: a crash from now on is not its doing."""
        self.suspected = False
        if not self.closed:
            self.hold.mark(self.lanes.mark)

    def stored_below(self) -> list[str]:
        """Finished changes that lie below the mark as it is stored: their rows are needed no more."""
        stored = self.hold.lease.cursor
        order = next((order for cursor, order in reversed(self._marks) if cursor == stored), -1)
        below = [change for passed, change in self.rows if passed <= order]
        self.rows = [(passed, change) for passed, change in self.rows if passed > order]
        self._marks = deque((c, o) for c, o in self._marks if o > order)
        return below

    def _special(self, change: Logged) -> bool:
        return change.id in self.finished or self.journal.diverts(change.key)

    def _divert(self, page: Page, change: Logged) -> None:
        entry = Entry(change)
        self.lanes.note(page, [entry])
        self.journal.add(Append((change,), lambda: self.lanes.close([entry]), lambda: self.lanes.enqueue(entry)))
