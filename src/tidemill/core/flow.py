"""How much to take in: what can start soon, and no more.

What is claimed and not started is withheld from every other replica. So a worker holds its free slots plus what it
starts in half a second, as measured, and never more than 500.
"""

from __future__ import annotations

AHEAD_SECONDS = 0.5
AHEAD_MOST = 500


class Flow:
    """One worker's intake. `concurrency` items run at once; `rate` limits items a second (None: no limit)."""

    def __init__(self, concurrency: int, rate: float | None, now: float) -> None:
        self._concurrency = concurrency
        self._rate = rate
        self._tokens = max(rate, 1.0) if rate else 0.0
        self._refilled = now
        self._ended = 0
        self._since = now
        self.speed: float = 0.0
        """Items ended a second, smoothed."""

    def ended(self, count: int, now: float) -> None:
        """So many items have ended since the last call."""
        self._ended += count
        passed = now - self._since
        if passed >= 0.1:
            measured = self._ended / passed
            weight = min(1.0, passed)  # a second's worth of news replaces the old estimate
            self.speed += (measured - self.speed) * max(weight, 0.3)
            self._ended, self._since = 0, now

    def room(self, held: int, now: float) -> int:
        """How many more items may be taken in while `held` are claimed and have not ended."""
        ahead = min(int(self.speed * AHEAD_SECONDS), AHEAD_MOST)
        room = min(self._concurrency + ahead - held, AHEAD_MOST)
        if self._rate is None:
            return max(room, 0)
        self._tokens = min(max(self._rate, 1.0), self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        return max(min(room, int(self._tokens)), 0)

    def took(self, count: int) -> None:
        """So many items were taken in (for the rate)."""
        self._tokens -= count

    def worthwhile(self, room: int, held: int) -> bool:
        """Whether to ask now, or to let a larger batch gather while there is still enough in hand."""
        if held <= self._concurrency:
            return room > 0
        return room >= max(1, min(int(self.speed * AHEAD_SECONDS), AHEAD_MOST) // 3)
