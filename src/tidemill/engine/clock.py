"""The clock of the machine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial


class SystemClock:
    """Real time. Monotonic is CLOCK_BOOTTIME where there is one: CLOCK_MONOTONIC stands still while a machine is
    suspended, and a fence that did not see the suspension would hold for too long."""

    def __init__(self) -> None:
        boot = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        self.monotonic: Callable[[], float] = partial(time.clock_gettime, boot)  # asked twice for each call

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        if event.is_set():
            await asyncio.sleep(0)  # a caller that loops over a set event must not starve the loop
            return True
        try:
            async with asyncio.timeout(timeout):
                return await event.wait()
        except TimeoutError:
            return False
