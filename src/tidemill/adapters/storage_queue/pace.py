"""When an empty queue is asked again: the service tells nobody that something came.

After a question that brought nothing the next pause is longer, up to the `poll` of the URL, across calls of `receive`;
one that brought something, and what this process sends, delays or gives back itself, begins anew.
"""

from __future__ import annotations

import asyncio
from heapq import heappop, heappush

from tidemill.ports import Clock

SHORTEST = 0.1
GROWTH = 1.5
FORESEEN = 1_000
"""Delays of this process whose ends are known; of more than these the usual pace finds the rest."""


class Pace:
    """For all receives of one queue in this process."""

    def __init__(self, clock: Clock, longest: float) -> None:
        self._clock = clock
        self._longest = longest
        self._pause = SHORTEST
        self._due = 0.0
        self._ends: list[float] = []
        self._bell = asyncio.Event()

    @property
    def bell(self) -> asyncio.Event:
        """Rings once; to be taken before a question is asked, so that nothing comes between."""
        return self._bell

    def ring(self, delay: float = 0.0) -> None:
        """Something can be received now, or in so many seconds."""
        if delay > 0:
            if len(self._ends) < FORESEEN:
                heappush(self._ends, self._clock.monotonic() + delay)
        else:
            self._pause, self._due = SHORTEST, 0.0
        rung, self._bell = self._bell, asyncio.Event()
        rung.set()

    def due(self) -> bool:
        """Whether to ask now. Whoever is told so asks."""
        now = self._clock.monotonic()
        while self._ends and self._ends[0] <= now:
            heappop(self._ends)
            self._pause, self._due = SHORTEST, 0.0
        if now < self._due:
            return False
        self._due = now + self._pause
        return True

    def asked(self, found: int) -> None:
        """How many came."""
        self._pause = SHORTEST if found else min(self._pause * GROWTH, self._longest)
        if found:
            self._due = 0.0

    async def rest(self, bell: asyncio.Event, left: float) -> None:
        """Until there is reason to ask, or `left` seconds are over."""
        soonest = min(self._due, self._ends[0] if self._ends else self._due)
        await self._clock.wait(bell, min(left, max(soonest - self._clock.monotonic(), 0.0)))
