"""The breaker of a worker: an outage of what the handler depends on burns no attempt and condemns nothing.

State: the streak of failures since the last success, over which items; closed or open. Ten failures in a row over at
least three items open it: the worker pauses and tries one item after 1 s, then 2, 4 … 60 s. What fails meanwhile
counts no attempt, and what was begun before it opened moves no trial. Any success closes it. After 15 minutes it lets
everything pass again and failures count, for what lasts that long is no outage; only a success makes it whole.

And an item is condemned only beside others that pass, or after five minutes of failing alone: with one or two items in
a queue an outage looks like a poisonous item, and only time tells them apart. "Others pass" means that one did between
the last two failures of this item: a success long ago, or just as the outage began, proves nothing. That ends: while
an exhausted item is tried again, either somebody passes or the five minutes do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
    """One for each worker and replica. An item is a message's id or a change's key. Times are monotonic seconds."""

    __slots__ = ("_failing", "_opened", "_outpaced", "_streak", "_trial", "_wait", "error")

    def __init__(self) -> None:
        self.error: str = ""
        """The last failure's line; empty after a success."""
        self._streak = 0
        self._failing: dict[str, float] = {}  # the items of the streak, and when each failed first in it
        self._outpaced: dict[str, None] = {}  # those that failed, and then another one passed; oldest first
        self._opened: float | None = None
        self._trial = 0.0
        self._wait = FIRST_TRIAL

    @property
    def calm(self) -> bool:
        """Nothing has failed that did not pass since."""
        return not self._streak and not self._outpaced

    def success(self, item: str, now: float) -> None:
        """An item has passed: whatever was wrong is over."""
        if not self._streak and not self._outpaced:  # calm, as it is nearly always
            return
        if self._failing:
            self._outpaced.update(dict.fromkeys(self._failing))
            self._failing.clear()
            _bound(self._outpaced)
        self._outpaced.pop(item, None)
        self._streak, self._opened, self.error = 0, None, ""

    def failure(self, item: str, error: str, now: float) -> Failure:
        """An item has failed."""
        self.error = error
        self._streak += 1
        first = self._failing.setdefault(item, now)
        _bound(self._failing)
        if self._opened is None:
            if self._streak >= FAILURES and len(self._failing) >= ITEMS:
                self._opened, self._wait, self._trial = now, FIRST_TRIAL, now + FIRST_TRIAL
        elif now >= self._trial:  # else it was begun before the trial, and tells nothing new
            self._wait = min(self._wait * 2, LONGEST_TRIAL)
            self._trial = now + self._wait
        others_pass = item in self._outpaced
        self._outpaced.pop(item, None)
        return Failure(not self.is_open(now), others_pass or now - first >= ALONE_AT_LEAST)

    def is_open(self, now: float) -> bool:
        """The worker is degraded: what it calls fails."""
        return self._opened is not None and now - self._opened < OPEN_AT_MOST

    def state(self, now: float) -> Literal["closed", "open", "trial"]:
        """For people and probes; "trial" is open, and one item may be tried now."""
        if not self.is_open(now):
            return "closed"
        return "trial" if now >= self._trial else "open"

    def allow(self, now: float) -> int | None:
        """How many items may be in work now: None for no limit, 1 for a trial, 0 for none."""
        match self.state(now):
            case "closed":
                return None
            case "trial":
                return 1
            case "open":
                return 0

    def next_at(self, now: float) -> float | None:
        """When `allow` will say more by the clock alone; None if it does not wait."""
        return self._trial if self.state(now) == "open" else None


def _bound(items: dict[str, float] | dict[str, None]) -> None:
    while len(items) > REMEMBERED:
        del items[next(iter(items))]
