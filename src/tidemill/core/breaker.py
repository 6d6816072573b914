"""The breaker of a worker: an outage of what the handler depends on burns no attempt and condemns nothing.

State: the streak of failures since the last success, over how many items; open or closed. Ten failures in a row over at
least three items, with no success between, open it: the worker pauses and tries one item after 1 s, then 2, 4 … 60 s.
What fails meanwhile counts no attempt. Any success closes it. After 15 minutes it lets everything pass again and
failures count, for what lasts that long is no outage.

And an item is condemned only beside others that pass, or after five minutes of being the only one: with one or two
items in the queue an outage looks like a poisonous item, and only time tells them apart.
"""

from __future__ import annotations

from dataclasses import dataclass

FAILURES = 10
ITEMS = 3
FIRST_TRIAL = 1.0
LONGEST_TRIAL = 60.0
OPEN_AT_MOST = 900.0
ALONE_AT_LEAST = 300.0
REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Failure:
    """What a failure means: whether it counts as an attempt, and whether the item may be given up for good."""

    burns: bool
    may_die: bool


class Breaker:
    """One for each worker and replica. Times are monotonic seconds, passed in."""

    __slots__ = ("_first", "_items", "_opened", "_passed", "_streak", "_trial", "_wait", "error")

    def __init__(self) -> None:
        self.error: str = ""
        self._streak = 0
        self._items: set[str] = set()
        self._opened: float | None = None
        self._trial = 0.0
        self._wait = FIRST_TRIAL
        self._passed: tuple[float, str] | None = None
        self._first: dict[str, float] = {}

    def success(self, item: str, now: float) -> None:
        """An item has passed: whatever was wrong is over."""
        self._passed = (now, item)
        if self._streak:
            self._streak = 0
            self._items.clear()
            self._opened = None
            self.error = ""
        if self._first:
            self._first.pop(item, None)

    def failure(self, item: str, error: str, now: float) -> Failure:
        """An item has failed."""
        self.error = error
        self._streak += 1
        if len(self._items) < ITEMS:
            self._items.add(item)
        first = self._first.setdefault(item, now)
        if len(self._first) > REMEMBERED:
            del self._first[next(iter(self._first))]
        if self._opened is not None:
            self._wait = min(self._wait * 2, LONGEST_TRIAL)
            self._trial = now + self._wait
        elif self._streak >= FAILURES and len(self._items) >= ITEMS:
            self._opened, self._wait, self._trial = now, FIRST_TRIAL, now + FIRST_TRIAL
        others_pass = self._passed is not None and self._passed[0] >= first and self._passed[1] != item
        return Failure(not self.is_open(now), others_pass or now - first >= ALONE_AT_LEAST)

    def is_open(self, now: float) -> bool:
        return self._opened is not None and now - self._opened < OPEN_AT_MOST

    def allow(self, now: float) -> int | None:
        """How many items may be in work now: None for no limit, 1 for a trial, 0 for none."""
        if not self.is_open(now):
            return None
        return 1 if now >= self._trial else 0
