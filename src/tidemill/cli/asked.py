"""What people say on the command line: which worker, which moment, whether they mean it."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

from tidemill.app.worker import Cron, Declared, Every, OnChange, Worker
from tidemill.core.duration import seconds
from tidemill.errors import ConfigurationError
from tidemill.settings import hint


def feed_worker(declared: Declared, name: str) -> Worker:
    """The feed worker of this name. Raises `ConfigurationError` with the nearest one, or all there are."""
    return _named(declared, name, "feed worker", OnChange)


def timer_worker(declared: Declared, name: str) -> Worker:
    """The timer of this name. Raises `ConfigurationError` with the nearest one, or all there are."""
    return _named(declared, name, "timer", Every | Cron)


def not_declared(declared: Declared, name: str) -> None:
    """Raise `ConfigurationError` if a worker still has this name."""
    if any(worker.name == name for worker in declared.workers):
        raise ConfigurationError(f"{name!r} is still declared in app {declared.name!r}: rename its worker there first")


def moment(text: str, option: str, now: float) -> float:
    """A time of day (ISO 8601, UTC unless it says otherwise), or how long ago, as seconds since the epoch."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        pass
    else:
        return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    try:
        return now - seconds(text)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text}: write a time, as 2026-05-01T12:00:00Z (UTC unless it says otherwise), or how long ago,"
            " as 2h"
        ) from None


def span(option: str, text: str) -> float:
    """A length of time in seconds, more than none."""
    try:
        length = seconds(text)
    except ValueError:
        length = 0.0
    if not length:
        raise ConfigurationError(f"{option} {text}: write a length of time, as 10m or 90s")
    return length


def agreed(question: str) -> bool:
    """Ask, if somebody is there to answer."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _named(declared: Declared, name: str, what: str, trigger: object) -> Worker:
    known = [worker for worker in declared.workers if isinstance(worker.trigger, trigger)]  # type: ignore[arg-type]
    for worker in known:
        if worker.name == name:
            return worker
    names = [worker.name for worker in known]
    there = f" (there are: {', '.join(names)})" if names else " (there is none)"
    raise ConfigurationError(f"{what} {name!r} is not declared in app {declared.name!r}{hint(name, names) or there}")
