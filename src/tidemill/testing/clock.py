"""A clock that stands still until it is told to move.

Waits park on a heap. `advance` and `run_until` move time from one due moment to the next and let everything that became
runnable run before time moves again. What is runnable stands in the loop's own ready queue; where a loop does not
show it, rounds are counted in which nobody asked the clock for anything and nobody was woken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from heapq import heappop, heappush

QUIET_ROUNDS = 12
"""Rounds without a sign of life after which a loop that does not show its queue counts as quiet."""

RESTLESS_ROUNDS = 100_000
"""Rounds after which a loop that does not become quiet never will: a task that yields for ever."""


class FakeClock:
    """Implements `tidemill.ports.Clock`. `start` is the time of day at first, seconds since the epoch."""

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._monotonic = 1_000.0
        self._offset = start - self._monotonic
        self._count = 0
        self._waits: list[tuple[float, int, asyncio.Future[None]]] = []
        self.signs: int = 0
        """Signs of life: rises with each wait that begins or ends. Others may add theirs."""

    def now(self) -> float:
        return self._offset + self._monotonic

    def monotonic(self) -> float:
        return self._monotonic

    def jump(self, seconds: float) -> None:
        """The wall clock is set: `now` moves, `monotonic` does not."""
        self._offset += seconds

    async def sleep(self, seconds: float) -> None:
        self.signs += 1
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        await self._park(seconds)
        self.signs += 1

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        self.signs += 1
        if event.is_set() or timeout <= 0:
            await asyncio.sleep(0)  # a caller that loops over a set event must not starve the loop
            return event.is_set()
        loop = asyncio.get_running_loop()
        timer = self._timer(timeout, loop)
        waiter = loop.create_task(event.wait())
        try:
            await asyncio.wait((timer, waiter), return_when=asyncio.FIRST_COMPLETED)
            return waiter.done() or event.is_set()
        finally:
            timer.cancel()
            waiter.cancel()
            self.signs += 1

    @property
    def next_due(self) -> float | None:
        """When the next wait ends (monotonic), None if nobody waits."""
        while self._waits and self._waits[0][2].done():
            heappop(self._waits)
        return self._waits[0][0] if self._waits else None

    async def advance(self, seconds: float) -> None:
        """Move time by so much, step by step through all that falls due."""
        end = self._monotonic + seconds
        await self.settle()
        while (due := self.next_due) is not None and due <= end:
            self._move(due)
            await self.settle()
        self._move(end)
        await self.settle()

    async def run_until(self, ready: Callable[[], bool], limit: float = 3600.0) -> bool:
        """Move time from due moment to due moment until `ready()`; False if it is not within `limit` seconds."""
        end = self._monotonic + limit
        await self.settle()
        while not ready():
            due = self.next_due
            if due is None or due > end:
                return False
            self._move(due)
            await self.settle()
        return True

    async def settle(self) -> None:
        """Let everything run that can run without time moving."""
        ready = getattr(asyncio.get_running_loop(), "_ready", None)
        if ready is None:
            await self._settle_by_counting()
            return
        for _ in range(RESTLESS_ROUNDS):
            await asyncio.sleep(0)
            if not ready:  # we are not in it ourselves while we run
                return
        raise RuntimeError(f"something runs on and on without waiting: {asyncio.all_tasks()}")

    async def _settle_by_counting(self) -> None:
        quiet = 0
        seen = self.signs
        while quiet < QUIET_ROUNDS:
            await asyncio.sleep(0)
            if self.signs == seen:
                quiet += 1
            else:
                quiet, seen = 0, self.signs

    def _move(self, moment: float) -> None:
        self._monotonic = moment
        while self._waits and self._waits[0][0] <= moment:
            _, _, timer = heappop(self._waits)
            if not timer.done():
                timer.set_result(None)
                self.signs += 1

    async def _park(self, seconds: float) -> None:
        timer = self._timer(seconds, asyncio.get_running_loop())
        try:
            await timer
        finally:
            timer.cancel()

    def _timer(self, seconds: float, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        timer: asyncio.Future[None] = loop.create_future()
        self._count += 1
        heappush(self._waits, (self._monotonic + max(seconds, 0.0), self._count, timer))
        return timer
