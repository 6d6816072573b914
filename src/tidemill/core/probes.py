"""What the probes say, as a pure function of what was published last and the time.

The engine publishes a `Snapshot` at each tick; the health thread compares it with its clock. So a stuck engine is
seen by the age of its last snapshot (`at`), and what it saw last of the handlers' loop is judged by that moment: one
stuck loop is never reported as two.

Liveness means: a restart would help. It never depends on another service: an attempt to poll that failed, a fenced
store, an open breaker count for readiness only. Reasons are sentences of this module or a rule's own words; the
texts of exceptions may hold secrets and stay in the log.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from tidemill.core.backlog import Backlog
from tidemill.core.health import Check, Health, Report
from tidemill.errors import BackendFull, ConfigurationError, CursorExpired, TooLarge, Unavailable

Reason: TypeAlias = Literal["unreachable", "full", "expired", "refused", "too large", "failing"]
"""Why a backend fails, from a closed list."""

_SENTENCES: Mapping[Reason, str] = {
    "unreachable": "the backend does not answer",
    "full": "the backend has no room left",
    "expired": "the cursor lies before the trimmed part of the feed",
    "refused": "the backend does not do what the declaration asks for",
    "too large": "a body is larger than the backend takes",
    "failing": "the backend fails (see the log)",
}

LIVE = frozenset({"live", "ready"})
READY = frozenset({"ready"})
STARTUP = frozenset({"startup", "ready"})

GAP = 5.0
"""Ticks further apart than this mean that the process stood still; what was being timed starts anew."""

LINGER = 10.0
"""Seconds for which waiting work counts as still there after it was given back unstarted: it comes again."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Seconds until silence counts. `end` is when the process ends itself."""

    handlers: float = 30.0
    engine: float = 10.0
    progress: float = 60.0
    intake: float = 60.0
    answer: float = 10.0
    end: float = 120.0


USUAL = Thresholds()
NEVER = Thresholds(*[float("inf")] * 6)
"""For a debugger: a pause loses nothing."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What the engine reads off a worker at a tick.

    `paused`: by a control, the breaker, a fence or a drain. `free`: slots nothing runs in. `waiting`: deliveries or
    changes here that could be started now. `started`: calls started since the process began. `polls`: there is
    something to poll (a timer has nothing, nor a feed without a partition). `polled`: when the last poll was
    attempted, `polling`: it is still under way. `failing`: why the last poll failed. `overrun`: calls that run beyond
    their limit and 10 s, the longest for `longest` seconds. `halted`: partitions that stand still until somebody
    decides.
    """

    worker: str
    paused: bool = False
    free: int = 0
    waiting: int = 0
    running: int = 0
    started: int = 0
    polls: bool = False
    polled: float = 0.0
    polling: bool = False
    failing: Reason | None = None
    breaker_open: bool = False
    overrun: int = 0
    longest: float = 0.0
    partitions: int = 0
    halted: int = 0


@dataclass(frozen=True, slots=True)
class Followed:
    """A worker over time: what was seen last, and since when (monotonic; None: not so) it has starved beside waiting
    work, not polled though it could, failed to poll, had its breaker open."""

    seen: Seen
    at: float
    waited: float
    starved: float | None = None
    unpolled: float | None = None
    failing: float | None = None
    breaker: float | None = None


@dataclass(frozen=True, slots=True)
class StoreSeen:
    """A store and its fence: the deadline on the monotonic clock, and the last good renewal."""

    name: str
    deadline: float
    renewed: float


@dataclass(frozen=True, slots=True)
class Longest:
    """The longest silence of a loop since the start, in seconds; the worker it was in and the file:line, as far as
    known."""

    seconds: float = 0.0
    worker: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the probes need, as of `at` (monotonic): the engine's tick at which it was published.

    `handlers`: the last tick of the handlers' loop; `stuck_in` is the worker it was in and `where` the file:line, as
    far as known. `rules` are the last answers of the user's health rules. `ready` is when the start was over;
    `longest` are the longest silences of the loops since then, by loop; `backlogs` is what the groups have to do.
    """

    at: float
    started: bool = False
    draining: bool = False
    handlers: float | None = None
    stuck_in: str = ""
    where: str = ""
    workers: tuple[Followed, ...] = ()
    stores: tuple[StoreSeen, ...] = ()
    rules: tuple[Check, ...] = field(default=())
    ready: float | None = None
    longest: Mapping[str, Longest] = field(default_factory=dict)
    backlogs: tuple[Backlog, ...] = ()


def reason_of(error: BaseException) -> Reason:
    """The word for an error of a port."""
    match error:
        case BackendFull():
            return "full"
        case Unavailable() | TimeoutError() | ConnectionError():
            return "unreachable"
        case CursorExpired():
            return "expired"
        case TooLarge():
            return "too large"
        case ConfigurationError():
            return "refused"
        case _:
            return "failing"


def follow(before: Followed | None, seen: Seen, now: float) -> Followed:
    """The worker with what was seen of it at this tick. Conditions are timed from the first tick that saw them."""
    if before is None or now - before.at > GAP:
        before = Followed(seen, now, waited=float("-inf"))
    waited = now if seen.waiting else before.waited
    wants_work = not seen.paused and seen.free > 0
    starving = wants_work and now - waited <= LINGER
    fresh_start = seen.started != before.seen.started
    could_poll = wants_work and seen.polls and not seen.polling
    unpolled = _since(could_poll, before.unpolled, now)
    return Followed(
        seen,
        now,
        waited,
        starved=_since(starving, None if fresh_start else before.starved, now),
        unpolled=None if unpolled is None else max(unpolled, min(seen.polled, now)),
        failing=_since(seen.failing is not None, before.failing, now),
        breaker=_since(seen.breaker_open, before.breaker, now),
    )


def _since(holds: bool, since: float | None, now: float) -> float | None:
    if not holds:
        return None
    return now if since is None else since


# --- reports ------------------------------------------------------------------------------------------------


def livez(snapshot: Snapshot, now: float, limits: Thresholds = USUAL) -> Report:
    """Unhealthy means: kill it. 200 while starting (the startup probe decides) and while draining (its own
    budget decides), because a restart helps neither."""
    return _only(health(snapshot, now, limits), "live")


def readyz(snapshot: Snapshot, now: float, limits: Thresholds = USUAL) -> Report:
    """Unhealthy means: send it nothing, and do not go on with a rollout."""
    return _only(health(snapshot, now, limits), "ready")


def startupz(snapshot: Snapshot, now: float, limits: Thresholds = USUAL) -> Report:
    """Unhealthy means: not there yet."""
    return _only(health(snapshot, now, limits), "startup")


def health(snapshot: Snapshot, now: float, limits: Thresholds = USUAL) -> Report:
    """All checks, each with the probes it counts for."""
    return Report(
        (
            *_process(snapshot, now, limits),
            *(check for store in snapshot.stores for check in _store(store, now)),
            *(check for worker in snapshot.workers for check in _worker(worker, snapshot, now, limits)),
            *snapshot.rules,
        )
    )


def silences(snapshot: Snapshot, now: float) -> Mapping[str, float]:
    """Seconds for which each loop has not ticked. The handlers' loop is judged by when the engine last looked."""
    engine = max(now - snapshot.at, 0.0)
    if snapshot.handlers is None:
        return {"engine": engine}
    return {"engine": engine, "handlers": max(snapshot.at - snapshot.handlers, 0.0)}


def failing(report: Report) -> Sequence[Check]:
    """The checks that make it unhealthy."""
    return [check for check in report.checks if check.health.status == "unhealthy"]


def _only(report: Report, probe: str) -> Report:
    return Report(tuple(check for check in report.checks if probe in check.probes))


def _process(snapshot: Snapshot, now: float, limits: Thresholds) -> Iterator[Check]:
    started = Health.healthy() if snapshot.started else Health.unhealthy("still starting")
    yield Check("started", started, STARTUP)
    yield Check("draining", Health.unhealthy("draining") if snapshot.draining else Health.healthy(), READY)
    watched = snapshot.started and not snapshot.draining
    silent = silences(snapshot, now)
    engine = Health.healthy()
    if watched and silent["engine"] >= limits.engine:
        engine = Health.unhealthy(f"no tick for {silent['engine']:.0f} s")
    yield Check("engine", engine, LIVE)
    handlers = Health.healthy()
    if watched and silent.get("handlers", 0.0) >= limits.handlers:
        handlers = Health.unhealthy(f"no tick for {silent['handlers']:.0f} s{place(snapshot)}")
    yield Check("handlers", handlers, LIVE)


def place(snapshot: Snapshot) -> str:
    """Where the handlers' loop is stuck, to be put behind a sentence."""
    worker = f", in {snapshot.stuck_in}" if snapshot.stuck_in else ""
    return worker + (f" at {snapshot.where}" if snapshot.where else "")


def _store(store: StoreSeen, now: float) -> Iterator[Check]:
    state = Health.healthy()
    if now >= store.deadline:
        state = Health.unhealthy(f"fenced: no renewal for {max(now - store.renewed, 0.0):.0f} s")
    yield Check(f"store/{store.name}", state, READY)


def _worker(worker: Followed, snapshot: Snapshot, now: float, limits: Thresholds) -> Iterator[Check]:
    name = worker.seen.worker
    watched = snapshot.started and not snapshot.draining
    yield Check(f"progress/{name}", _progress(worker, now, limits) if watched else Health.healthy(), LIVE)
    if worker.seen.polls:
        yield Check(f"intake/{name}", _intake(worker, now, limits) if watched else Health.healthy(), LIVE)
        yield Check(f"backend/{name}", _backend(worker, now, limits), READY)
    yield Check(f"limit/{name}", _limit(worker.seen) if watched else Health.healthy(), LIVE)
    if worker.breaker is not None:
        age = now - worker.breaker
        yield Check(f"breaker/{name}", Health.degraded(f"open for {age:.0f} s: what it calls fails"), READY)
    if worker.seen.halted:
        count = worker.seen.halted
        yield Check(f"halted/{name}", Health.degraded(f"{count} partition(s) stand until somebody decides"), READY)


def _progress(worker: Followed, now: float, limits: Thresholds) -> Health:
    if worker.starved is None or now - worker.starved < limits.progress:
        return Health.healthy()
    return Health.unhealthy(f"work waits beside a free slot and nothing was started for {now - worker.starved:.0f} s")


def _intake(worker: Followed, now: float, limits: Thresholds) -> Health:
    if worker.unpolled is None or now - worker.unpolled < limits.intake:
        return Health.healthy()
    return Health.unhealthy(f"no poll was attempted for {now - worker.unpolled:.0f} s")


def _backend(worker: Followed, now: float, limits: Thresholds) -> Health:
    """A backend that is away is nobody's reason to restart: readiness only."""
    seen = worker.seen
    if seen.failing is not None and worker.failing is not None:
        return Health.unhealthy(f"{_SENTENCES[seen.failing]}, for {max(now - worker.failing, 0.0):.0f} s")
    if seen.polling and now - seen.polled >= limits.answer:
        return Health.unhealthy(f"no answer to a poll for {now - seen.polled:.0f} s")
    return Health.healthy()


def _limit(seen: Seen) -> Health:
    """A call beyond its limit is degraded; when no slot is left beside such calls, only a restart helps."""
    if not seen.overrun:
        return Health.healthy()
    why = f"{seen.overrun} call(s) run beyond the time limit, the longest for {seen.longest:.0f} s"
    if seen.free <= 0 and seen.overrun >= seen.running:
        return Health.unhealthy(f"{why}; no slot is left")
    return Health.degraded(why)
