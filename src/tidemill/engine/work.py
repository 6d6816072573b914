"""What crosses between the engine's loop and the handlers' side: values, in batches, one wake-up a batch.

The engine makes `Call`s and hands them over with `Hands.submit`; the handlers' side runs the user's code and hands back
`Result`s, grouped by the `Sink` of their call. The engine never runs the user's code; the handlers' side never
talks to a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeAlias

from tidemill.app.worker import Worker
from tidemill.core.fence import Fence
from tidemill.model import Delivery, Done, Logged, Message, Verdict, Write


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One due moment of a timer: seconds since the epoch. `attempt` from 1; `past_due` when it is caught up."""

    worker: str
    at: float
    attempt: int = 1
    past_due: bool = False


Item: TypeAlias = Delivery | Logged | Occurrence


# --- how a call ended, one end for each item ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ended:
    """The handler gave a verdict: by returning (`Done`), by returning verdicts, or by Retry, Snooze, Reject."""

    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Failed:
    """The handler raised, or its time limit passed. `error` is one line, `trace` the shortened traceback."""

    error: str
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Misfit:
    """The body does not fit the declared type (`dead` at once when it is no JSON at all)."""

    why: str
    dead: bool


@dataclass(frozen=True, slots=True)
class Cancelled:
    """We cancelled it (drain, lost lease) and it ended; no failure of the handler."""

    why: str


@dataclass(frozen=True, slots=True)
class Unstarted:
    """The handler never saw it (fence, stop)."""

    why: str


End: TypeAlias = Ended | Failed | Misfit | Cancelled | Unstarted


@dataclass(frozen=True, slots=True)
class Token:
    """What a call for changes holds: the lease's key and its fencing token."""

    lease: str
    epoch: int
    nonce: str


DONE: Final = Ended(Done())


def all_done(ends: Sequence[End]) -> bool:
    """Whether each of them is `Done`: only then do collected effects count."""
    return ends.count(DONE) == len(ends) or all(
        isinstance(end, Ended) and isinstance(end.verdict, Done) for end in ends
    )


class Sink(Protocol):
    """The service that made a call and decides what becomes of its items. Called on the engine's loop."""

    def results(self, results: Sequence[Result]) -> None: ...


@dataclass(slots=True, eq=False)
class Call:
    """One call of a handler. Made by the engine; `started` (monotonic, 0 before) is written by the handlers' side.

    `attempt` and `delivery` are what the handler is shown (both from 1).
    """

    worker: Worker
    items: tuple[Item, ...]
    fence: Fence
    sink: Sink
    attempt: int = 1
    delivery: int = 1
    token: Token | None = None
    started: float = 0.0


class Result(NamedTuple):
    """How a call ended. `writes` and `messages` are what `context.transaction` collected (only if all is Done).

    (A named tuple, as `Delivery`.)
    """

    call: Call
    ends: tuple[End, ...]
    seconds: float
    writes: tuple[Write, ...] = ()
    messages: tuple[Message, ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    """A worker's side of the handlers at this moment: calls running, calls waiting unstarted, seconds the oldest
    of these has waited, calls started since the process began."""

    running: int
    waiting: int
    oldest_wait: float
    started: int


@dataclass(frozen=True, slots=True)
class Stuck:
    """Where the handlers' side is: seconds since its loop last ticked, and what it is in (worker, file:line)."""

    silent: float
    worker: str = ""
    where: str = ""


class Hands(Protocol):
    """The handlers' side as the engine sees it. Every method may be called on the engine's loop at any time and
    returns at once, also when the handlers' loop is stuck."""

    def submit(self, calls: Sequence[Call]) -> None:
        """Queue these calls, in this order per worker; results come to each call's sink."""
        ...

    def take_back(self, worker: str, *, waited: float = 0.0) -> Sequence[Call]:
        """Unstarted calls of this worker that have waited this long (seconds): no longer queued, never started."""
        ...

    def cancel(self, calls: Sequence[Call], why: str) -> None:
        """End these if they run (async: cancelled; `def`: `context.cancelled` is set; process: killed). Each
        ends as `Cancelled`, or as it really ended if it was faster; unstarted ones end as `Unstarted`."""
        ...

    def load(self, worker: str) -> Load: ...


@dataclass(slots=True)
class Budget:
    """Time-outs of a drain in seconds (semantics 10)."""

    lame_duck: float = 0.0
    grace: float = 25.0
    cleanup: float = 3.0
    flush: float = 3.0
    lifespan: float = 5.0
    telemetry: float = 2.0
    reserve: float = 5.0

    def total(self) -> float:
        """What the platform must allow before it kills: the chart's grace period."""
        return sum(
            (
                self.lame_duck,
                self.grace,
                self.cleanup,
                self.flush,
                self.lifespan,
                self.telemetry,
                self.reserve,
            )
        )


@dataclass(frozen=True, slots=True)
class Profile:
    """The clockwork of members, in seconds. Every replica of a group must run the same."""

    ttl: float = 15.0
    renew: float = 5.0
    fence: float = 10.0
    observe: float = 1.0
    bury_after: float = 14.0
    name: str = field(default="normal")


NORMAL = Profile()
FAST = Profile(ttl=6.0, renew=2.0, fence=4.0, bury_after=5.5, name="fast")
