"""Everything Tidemill raises.

One base, few leaves, each named after a situation. The docstring of a leaf is its default message, so a
`raise Forked()` reads the same in code and in a log.
"""

from __future__ import annotations


class TidemillError(Exception):
    """Something went wrong in Tidemill."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class ConfigurationError(TidemillError):
    """A declaration, a setting or a backend does not fit; nothing was started (exit code 2).

    `problems` has one line each, naming the setting, its value and the fix; all are found before any is told.
    """

    def __init__(self, *problems: str) -> None:
        self.problems = problems
        super().__init__("\n".join(problems) or "The configuration does not fit.")


class NotRunning(TidemillError):
    """No running client: use `async with app.client():` (or `with app.client():`), or call this from a handler."""


class Forked(TidemillError):
    """forked: this handle was opened by another process; open a client of your own after fork, or use spawn."""


class Unavailable(TidemillError):
    """The backend did not answer, or could not; the outcome of the call is unknown and it may be tried again."""


class BackendFull(Unavailable):
    """The backend has no room left (disk full, quota); nothing was written by this call."""


class TooLarge(TidemillError):
    """The body is larger than the backend takes."""


class BadOption(TidemillError, ValueError):
    """An option of this call is out of its range; nothing was sent."""


class QueueFull(TidemillError):
    """The queue holds as many messages as its `limit` says; nothing was sent by this call."""


class Conflict(TidemillError):
    """The document was changed by somebody else since it was read (its etag differs)."""


class Refused(TidemillError):
    """An operation was refused, for things do not stand as it needs them; nothing was changed."""


class ClaimLost(TidemillError):
    """The claim or the lease went to another replica; what this handler collected was not written."""


class CursorExpired(TidemillError):
    """The cursor lies before the trimmed part of the feed; changes between were removed by retention."""


class FormatTooNew(ConfigurationError):
    """The stored data was written by a newer release than this one reads."""


class Unfit(TidemillError):
    """The body does not fit the declared type."""


class NoJson(Unfit):
    """The body is not JSON."""


class HandlerTimeout(TidemillError):
    """The handler ran longer than its time limit."""


class ProcessEnded(TidemillError):
    """The child process ended before it answered."""


class Retry(TidemillError):
    """Try this again after `after` seconds (None: as the worker's `Backoff` says); it counts as a failure."""

    def __init__(self, after: float | None = None, why: str = "retry") -> None:
        self.after = after
        super().__init__(why)


class Snooze(TidemillError):
    """Not yet: try this again after `after` seconds; no attempt is counted."""

    def __init__(self, after: float, why: str = "snoozed") -> None:
        self.after = after
        super().__init__(why)


class Reject(TidemillError):
    """This can never succeed: straight to the dead letters, with the reason."""
