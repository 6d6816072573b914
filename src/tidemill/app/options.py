"""The options of declarations, checked where they are written."""

from __future__ import annotations

import inspect
from typing import Any

from tidemill.app.worker import Policy
from tidemill.core.backoff import Backoff
from tidemill.core.duration import Duration, seconds
from tidemill.errors import ConfigurationError

_NAME = "a name has letters, digits, '-', '_' and '.' only, and starts with a letter"


def policy_of(
    concurrency: int,
    retry: Backoff,
    time_limit: Duration | None,
    process: bool,
    batch: int | None,
    rate: float | None,
) -> Policy:
    """How a worker is called. Raises `ConfigurationError` with the option and its value."""
    limit = None if time_limit is None else duration_of("time_limit", time_limit)
    if not 1 <= concurrency <= 10_000:
        raise ConfigurationError(f"concurrency={concurrency} must be 1 to 10,000")
    if batch is not None and not 1 <= batch <= 10_000:
        raise ConfigurationError(f"batch={batch} must be 1 to 10,000")
    if limit is not None and limit <= 0:
        raise ConfigurationError(f"time_limit={time_limit!r} must be longer than 0 (None for no limit)")
    if rate is not None and rate <= 0:
        raise ConfigurationError(f"rate={rate} must be more than 0 calls a second")
    return Policy(concurrency, retry, limit, process, batch, rate)


def lifespan_of(app: str, lifespan: Any) -> Any:
    """The lifespan, if it can be called as one. Raises `ConfigurationError` if not."""
    if lifespan is None:
        return None
    name = getattr(lifespan, "__name__", type(lifespan).__name__)
    if not callable(lifespan):
        raise ConfigurationError(
            f"app {app!r}: lifespan={name} cannot be called; give the function, not what it returns"
        )
    try:
        inspect.signature(lifespan).bind()
    except TypeError as error:
        raise ConfigurationError(f"app {app!r}: lifespan {name} is called without arguments ({error})") from None
    except ValueError:
        pass  # a builtin without a signature
    return lifespan


def limit_of(queue: str, limit: Any) -> int | None:
    """The bound of a queue. Raises `ConfigurationError` with the queue."""
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise ConfigurationError(f"queue {queue!r}: limit={limit!r} must be a whole number of 1 or more, or None")
    return limit


def duration_of(option: str, value: Duration) -> float:
    """Seconds of a duration. Raises `ConfigurationError` with the option."""
    try:
        return seconds(value)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{option}: {error}") from None


def named(what: str, name: str) -> str:
    """The name, if it is one. Raises `ConfigurationError` if not."""
    if not (name and name[0].isalpha() and all(c.isalnum() or c in "-_." for c in name) and name.isascii()):
        raise ConfigurationError(f"{what} name {name!r}: {_NAME}")
    return name
