"""Durations as people write them: `"30s"`, `"1h30m"`, seconds as a number, or a `timedelta`."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TypeAlias

Duration: TypeAlias = str | float | timedelta

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")


def seconds(duration: Duration) -> float:
    """The duration in seconds. Raises ValueError, naming the value, for what is none or is negative."""
    if isinstance(duration, timedelta):
        length = duration.total_seconds()
    elif isinstance(duration, str):
        length = _parse(duration)
    else:
        length = float(duration)
    if not 0 <= length < float("inf"):
        raise ValueError(f"{duration!r} is no duration: it must be a finite length of 0 or more")
    return length


def _parse(text: str) -> float:
    compact = text.strip().lower()
    parts = _PART.findall(compact)
    if not parts or _PART.sub("", compact).strip():
        raise ValueError(f'{text!r} is no duration: write "30s", "1h30m", "250ms", seconds or a timedelta')
    return sum(float(number) * _UNITS[unit] for number, unit in parts)
