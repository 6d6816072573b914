"""What a process tells of itself in its metrics, beside what it does."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """A worker with its group and its time limit in seconds (None: none)."""

    worker: str
    group: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Process:
    """`born`: when the process began, on the monotonic clock (None: not known); `groups` that it works; what its
    workers and running calls are allowed in seconds."""

    born: float | None = None
    groups: tuple[str, ...] = ()
    limits: tuple[Limit, ...] = ()
    grace: float | None = None


def age() -> float:
    """Seconds since this process began, as the kernel has it: the interpreter's start and all imports are in it. 0
    where the kernel is not asked like that."""
    try:
        with open("/proc/self/stat", "rb") as stat, open("/proc/uptime", "rb") as uptime:
            began = int(stat.read().rpartition(b")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
            return max(float(uptime.read().split()[0]) - began, 0.0)
    except (OSError, ValueError, IndexError):
        return 0.0  # no /proc here
