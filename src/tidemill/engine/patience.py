"""Asking a backend again until it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import TypeVar

from tidemill.core.fence import Fence
from tidemill.errors import Unavailable
from tidemill.ports import Clock

R = TypeVar("R")

FIRST = 0.02
LONGEST = 1.0


class Patience:
    """Repeats a call that is idempotent. The fence is compared before each send, for a late write must not be sent;
    while it does not hold nothing is sent, and the call waits until membership has come back."""

    def __init__(self, clock: Clock, random: Random, fence: Fence | None = None) -> None:
        self._clock = clock
        self._random = random
        self._fence = fence
        self.failing_since: float | None = None
        self._wait = FIRST

    async def until_answered(self, call: Callable[[], Awaitable[R]]) -> R:
        """The call's answer. Raises only what asking again cannot change; ends late, or by cancellation."""
        while True:
            try:
                return await self.guarded(call)
            except Unavailable:
                await self.pause()

    async def guarded(self, call: Callable[[], Awaitable[R]]) -> R:
        """One try, sent only while the fence holds. Raises `Unavailable` when the outcome is unknown."""
        while self._fence is not None and not self._fence.holds(self._clock.monotonic()):
            await self._clock.sleep(0.1)
        try:
            answer = await call()
        except Unavailable:
            if self.failing_since is None:
                self.failing_since = self._clock.monotonic()
            raise
        self.failing_since = None
        self._wait = FIRST
        return answer

    async def pause(self) -> None:
        """Wait before the next try, longer each time until one succeeds."""
        await self._clock.sleep(self._wait * (0.5 + self._random.random()))
        self._wait = min(self._wait * 2, LONGEST)
