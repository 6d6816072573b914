"""The last resort: a loop that is silent for two minutes ends the process, kubelet or not.

It looks from the health thread, once a turn. Silence counts only while the watchdog itself was looking: after a
freeze of the whole process (SIGSTOP, a suspended host, a held GIL) everybody is late at once and nobody is stuck, so
a gap between two looks starts the wait anew. While starting nothing is watched (a lifespan may load for minutes and
the startup probe decides), while draining only the engine (the drain has its own budget for handlers).

Who holds the GIL stops this thread, too: against that `arm` has a C thread print where, without the GIL.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
from collections.abc import Callable

from tidemill.core.probes import GAP, USUAL, Snapshot, Thresholds, place, silences

ARMED = 30.0
"""Seconds without a tick of the engine after which all stacks are printed, GIL or not."""


class Watchdog:
    """Called with what was published last and the time. `end` is `os._exit`; `dump` prints all stacks."""

    def __init__(
        self,
        *,
        limits: Thresholds = USUAL,
        end: Callable[[int], object] = os._exit,
        dump: Callable[[str], object] | None = None,
    ) -> None:
        self._limits = limits
        self._end = end
        self._dump = dump or dump_stacks
        self._looked = float("-inf")
        self._since = float("-inf")
        self._told = False

    def __call__(self, snapshot: Snapshot, now: float) -> None:
        """Look once."""
        if now - self._looked > GAP:
            self._since = now
        self._looked = now
        if not snapshot.started:
            return
        for loop, silent in silences(snapshot, now).items():
            if loop == "handlers" and snapshot.draining:
                continue
            where = place(snapshot) if loop == "handlers" else ""
            if min(silent, now - self._since) >= self._limits.end:
                self._dump(f"the {loop} loop has not ticked for {silent:.0f} s{where}: all stacks follow, then exit 1")
                self._end(1)
                return
            if loop == "handlers":
                self._tell(min(silent, now - self._since), where)

    def _tell(self, silent: float, where: str) -> None:
        """Say once what /livez is about to say: the kubelet ends the process before its own end comes, and the log of
        the container before is all that is left to read."""
        late = silent >= self._limits.handlers
        if late and not self._told:
            self._dump(f"the handlers loop has not ticked for {silent:.0f} s{where}: /livez fails; all stacks follow")
        self._told = late


def dump_stacks(why: str) -> None:
    """One line and the stacks of all threads to stderr. Never waits for whoever reads stderr: the rest is cut."""
    with contextlib.suppress(OSError):
        os.set_blocking(2, False)
        os.write(2, f"tidemill: {why}\n".encode())
        faulthandler.dump_traceback(2, all_threads=True)


def arm(seconds: float = ARMED) -> None:
    """Print all stacks unless this is called again within `seconds`. The engine calls it at each tick."""
    faulthandler.dump_traceback_later(seconds, repeat=False, exit=False)


def disarm() -> None:
    """Print nothing any more."""
    faulthandler.cancel_dump_traceback_later()
