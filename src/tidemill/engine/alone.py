"""Suspects run alone: of all that may have ended a process before, one at a time in the whole replica.

A message that came back without a verdict, a change of a partition whose owners crash: each may be what ends the
process, or a bystander. If two suspects ran beside each other and the process ended, both would be blamed. So whoever
wants to run one takes this first, and gives it back when what came of it is written.
"""

from __future__ import annotations

import asyncio


class Alone:
    """One for each replica, used on the engine's loop."""

    def __init__(self) -> None:
        self._holder: object | None = None
        self._wakes: list[asyncio.Event] = []

    def listen(self, wake: asyncio.Event) -> None:
        """Set this when it has become free."""
        self._wakes.append(wake)

    def free_for(self, holder: object) -> bool:
        return self._holder is None or self._holder is holder

    def take(self, holder: object) -> bool:
        """Whether it is ours now."""
        if not self.free_for(holder):
            return False
        self._holder = holder
        return True

    def release(self, holder: object) -> None:
        """It is no longer ours, if it was."""
        if self._holder is not holder:
            return
        self._holder = None
        for wake in self._wakes:
            wake.set()
