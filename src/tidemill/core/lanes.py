"""One partition's read-ahead: order per key, concurrency across keys, and the mark.

Every change that was read stands in the log order of `_open` until the mark has passed it. Of each key at most the
head is ready or running; the others wait behind it. The mark is the last *resumable* cursor below the contiguous
done: a crash re-reads from there, so nothing between is lost, and what was done beyond it comes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from operator import attrgetter

from tidemill.model import Logged, Page

_ORDER = attrgetter("order")


class Entry:
    """One change in work. `failures` counts what was recorded here; `error` is the last one's line."""

    __slots__ = ("change", "cursor", "done", "error", "failures", "key", "order", "size")

    def __init__(self, change: Logged) -> None:
        _, _, order, cursor, _, _, key, body, before, _ = change
        self.change: Logged = change
        self.order: int = order
        self.key: str = key
        self.cursor: str | None = cursor
        self.done: bool = False
        self.failures: int = 0
        self.error: str = ""
        self.size: int = (200 if body is None else len(body) + 200) + (0 if before is None else len(before))


class Lanes:
    """The changes of one partition between the mark and the end of what was read."""

    def __init__(self, cursor: str) -> None:
        self.mark: str = cursor
        self.passed: int = -1
        """The order of the last change below the mark, -1 before the first."""
        self.read_to: str = cursor
        self.bytes: int = 0
        self._open: deque[Entry] = deque()
        self._ready: deque[Entry] = deque()  # in log order
        self._late: list[tuple[int, int, Entry]] = []  # ready too, but out of that order
        self._count = 0
        self._behind: dict[str, deque[Entry] | None] = {}  # a key is in here while its head is not done
        self._sleeping: list[tuple[float, int, Entry]] = []
        self._running = 0

    def __len__(self) -> int:
        """Changes read and not yet below the mark."""
        return len(self._open)

    @property
    def running(self) -> int:
        """Changes taken and neither finished nor put back."""
        return self._running

    @property
    def ready(self) -> int:
        return len(self._ready) + len(self._late)

    def startable(self, now: float) -> bool:
        """Whether `take` would give anything."""
        return self.ready > 0 or bool(self._sleeping and self._sleeping[0][0] <= now)

    def add(self, page: Page) -> Sequence[Entry]:
        """Append what was read, in order; the entries, all of them waiting or ready."""
        entries = list(map(Entry, page.changes))
        self._open.extend(entries)
        lanes, ready, size = self._behind, self._ready, 0
        for entry in entries:
            size += entry.size
            key = entry.key
            if key not in lanes:
                lanes[key] = None
                ready.append(entry)  # nothing is newer
            elif behind := lanes[key]:
                behind.append(entry)
            else:
                lanes[key] = deque((entry,))
        self.bytes += size
        self._note_cursor(page.cursor)
        return entries

    def note(self, page: Page, entries: Iterable[Entry]) -> None:
        """Like `add` for entries that go another way (their key is parked): they only hold the mark."""
        for entry in entries:
            self._open.append(entry)
            self.bytes += entry.size
        self._note_cursor(page.cursor)

    def take(self, limit: int, now: float) -> list[Entry]:
        """Up to `limit` entries that may start now, one of each key, oldest first."""
        self._wake(now)
        taken = [self._oldest() for _ in range(min(limit, self.ready))]
        self._running += len(taken)
        return taken

    def trial(self, now: float) -> Entry | None:
        """Of those that may start now the one that failed least: who tries whether work is possible again should not
        ask the same hopeless one each time."""
        self._wake(now)
        return min((*self._ready, *(late for _, _, late in self._late)), key=_hope, default=None)

    def take_trial(self, now: float) -> list[Entry]:
        """That one, or nothing."""
        entry = self.trial(now)
        if entry is None:
            return []
        if entry in self._ready:
            self._ready.remove(entry)
        else:
            self._late = [late for late in self._late if late[2] is not entry]
            heapify(self._late)
        self._running += 1
        return [entry]

    def take_batch(self, limit: int, now: float) -> list[Entry]:
        """Up to `limit` entries for one call that works through them in order: several of one key may be in it."""
        self._wake(now)
        taken: list[Entry] = []
        while len(taken) < limit and (self._ready or self._late):
            entry = self._oldest()
            taken.append(entry)
            behind = self._behind[entry.key]
            if not behind:
                continue
            if len(behind) <= limit - len(taken):
                taken += behind
                behind.clear()
            else:
                taken += [behind.popleft() for _ in range(limit - len(taken))]
        taken.sort(key=_ORDER)
        self._running += len(taken)
        return taken

    def finish(self, entries: Sequence[Entry]) -> None:
        """These are done (or durably kept elsewhere); their keys go on, and the mark moves if it can."""
        keys: dict[str, None] = {}
        for entry in entries:
            entry.done = True
            keys[entry.key] = None
        self._running -= len(entries)
        for key in keys:  # once each: a batch may have had several of one key
            self._advance_key(key)
        self.move_mark()

    def settle_batch(self, done: Sequence[Entry], back: Sequence[Entry], until: float, now: float) -> None:
        """The end of one batch call: `back` come again from `until` on, before anything else of their keys.

        What is done behind one that comes back, of the same key, must come again too: the caller puts it in `back`.
        """
        self._running -= len(done) + len(back)
        for entry in done:
            entry.done = True
        again: dict[str, list[Entry]] = {}
        for entry in back:
            again.setdefault(entry.key, []).append(entry)
        for key in {e.key for e in done} - again.keys():
            self._advance_key(key)
        for key, entries in again.items():
            rest = self._behind.get(key)
            self._behind[key] = deque([*entries[1:], *(rest or ())])
            self._wait(entries[0], until, now)
        self.move_mark()

    def put_back(self, entry: Entry, until: float, now: float) -> None:
        """It comes again from `until` (monotonic) on; its key waits for it."""
        self._running -= 1
        self._wait(entry, until, now)

    def close(self, entries: Iterable[Entry]) -> None:
        """Entries that went another way (`note`, `withdraw`) are durable: the mark may pass them."""
        for entry in entries:
            entry.done = True
        self.move_mark()

    def withdraw(self, key: str) -> list[Entry]:
        """Everything of a key that has not been taken, in order: it goes another way. Frees the key."""
        behind = self._behind.pop(key, None)
        found = [e for e in self._ready if e.key == key]
        found += [e for _, _, e in self._late if e.key == key]
        found += [e for _, _, e in self._sleeping if e.key == key]
        if found:
            self._ready = deque(e for e in self._ready if e.key != key)
            self._late = [s for s in self._late if s[2].key != key]
            heapify(self._late)
            self._sleeping = [s for s in self._sleeping if s[2].key != key]
            heapify(self._sleeping)
        return sorted([*found, *(behind or ())], key=_ORDER)

    def hand_over(self, entries: Sequence[Entry]) -> list[Entry]:
        """Taken entries of one key go another way, and with them all that waits behind them, in order."""
        self._running -= len(entries)
        return [*entries, *self.withdraw(entries[0].key)]

    def next_wake(self) -> float | None:
        """When the first sleeping entry may start again (monotonic)."""
        return self._sleeping[0][0] if self._sleeping else None

    def drop_unstarted(self) -> None:
        """Forget everything that was not taken: it will be read again from the mark by whoever comes next."""
        self._ready.clear()
        self._late.clear()
        self._sleeping.clear()
        self._behind = dict.fromkeys(self._behind)

    def move_mark(self) -> None:
        """Pass what is contiguously done; only a resumable cursor becomes the mark."""
        opened, size, marked = self._open, 0, None
        while opened and opened[0].done:
            entry = opened.popleft()
            size += entry.size
            if entry.cursor is not None:
                marked = entry
        self.bytes -= size
        if marked is not None and marked.cursor is not None:
            self.mark, self.passed = marked.cursor, marked.order
        if not opened:
            self.mark = self.read_to

    def _note_cursor(self, cursor: str) -> None:
        self.read_to = cursor
        if self._open:
            self._open[-1].cursor = cursor  # the page's end resumes after its last change
        else:
            self.mark = cursor

    def enqueue(self, entry: Entry) -> None:
        """An entry that stands in the log order joins the lane of its key."""
        if entry.key not in self._behind:
            self._behind[entry.key] = None
            self._start(entry)
        elif behind := self._behind[entry.key]:
            behind.append(entry)
        else:
            self._behind[entry.key] = deque((entry,))

    def _advance_key(self, key: str) -> None:
        behind = self._behind.get(key)
        if behind:
            self._start(behind.popleft())
        else:
            self._behind.pop(key, None)

    def _wait(self, entry: Entry, until: float, now: float) -> None:
        if until <= now:
            self._start(entry)
        else:
            heappush(self._sleeping, (until, entry.order, entry))

    def _wake(self, now: float) -> None:
        while self._sleeping and self._sleeping[0][0] <= now:
            self._start(heappop(self._sleeping)[2])

    def _start(self, entry: Entry) -> None:
        """It may be taken, in its turn by age: the mark waits for the oldest."""
        ready = self._ready
        if not ready or ready[-1].order < entry.order:
            ready.append(entry)
        else:
            self._count += 1
            heappush(self._late, (entry.order, self._count, entry))

    def _oldest(self) -> Entry:
        if self._late and (not self._ready or self._late[0][0] <= self._ready[0].order):
            return heappop(self._late)[2]
        return self._ready.popleft()


def _hope(entry: Entry) -> tuple[int, int]:
    return entry.failures, entry.order
