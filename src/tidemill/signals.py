"""SIGTERM and SIGINT, caught before anything heavy is imported and handed on to whoever drains.

PID 1 has no default action for SIGTERM, and a second spent on imports is a second in which a pod may be told to stop.
So the recorder is installed first and only counts; the engine asks later what it missed. Nothing is raised into
the user's code: Ctrl-C is SIGTERM.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from types import FrameType

CAUGHT = (signal.SIGTERM, signal.SIGINT)
LAST = 3
"""So many signals end the process at once, wherever it is: during imports, too, nobody waits in vain."""


class Signals:
    """Counts the wishes to stop. Used on the main thread, where Python runs signal handlers."""

    def __init__(self, *, leave: Callable[[int], object] = os._exit) -> None:
        self.count: int = 0
        self._leave = leave
        self._notify: Callable[[], object] | None = None

    def install(self) -> None:
        """Catch both signals from here on."""
        for number in CAUGHT:
            signal.signal(number, self._caught)

    def restore(self) -> None:
        """Back to what Python does by itself: a command that only reads ends at once, by the signal."""
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def notify(self, callback: Callable[[], object] | None) -> None:
        """Call this at each signal, and now if one has come already. It must be quick and not raise: a
        `loop.call_soon_threadsafe`, which also wakes a loop that sleeps."""
        self._notify = callback
        if callback is not None and self.count:
            callback()

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.count >= LAST:
            os.write(2, b"tidemill: told to stop for the third time, ending at once\n")
            self._leave(1)
        if self._notify is not None:
            self._notify()
