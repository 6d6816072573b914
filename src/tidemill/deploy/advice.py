"""From what replicas measured of themselves to the numbers of their probes and of the stop, each with its reason. Pure.

What it takes: how long a start took, the longest silences of the loops, how long calls took. What it never does: make
a probe more patient so that a handler may go on blocking; such a handler is named instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil

from tidemill.core.probes import USUAL
from tidemill.deploy.plan import Probes, usual_probes

USUAL_PROBES = usual_probes()
START_FACTOR, START_LEAST = 3.0, 30.0
"""A cold node starts slower than a warm one, and no start is so quick that less than this would be worth it."""
FREEZE_FACTOR = 1.5
GRACE_FACTOR, GRACE_STEP = 1.5, 5
LIMIT_FACTOR, LIMIT_LEAST = 3.0, 30.0
STALL = 5.0
"""Seconds of silence after which a replica gives back what its handlers have not begun."""
SHORT = 600.0
"""Seconds of life below which a replica has seen too little."""
FEW = 100
"""Calls below which there is no one in a hundred to speak of."""


@dataclass(frozen=True, slots=True)
class Silence:
    """The longest time that a loop did not tick, and what it was in as far as known. Seconds."""

    seconds: float = 0.0
    worker: str = ""
    where: str = ""


@dataclass(frozen=True, slots=True)
class Calls:
    """The calls of one handler, in seconds. Half of them took at most `p50`, 99 in 100 at most `p99`; `limit` None:
    there is none."""

    worker: str
    group: str
    count: int
    p50: float
    p99: float
    longest: float
    limit: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """One replica as it answered. `start`: seconds from the process's start to ready (None: not ready yet); `up`: since
    that start."""

    source: str
    groups: tuple[str, ...]
    start: float | None
    up: float | None
    grace: float | None
    handlers: Silence
    engine: Silence
    calls: tuple[Calls, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """One number: what was measured, what is recommended, and why. `now` is what holds today, as far as known."""

    group: str
    setting: str
    measured: str
    now: str
    recommended: str
    why: str

    @property
    def changes(self) -> bool:
        """Whether something is to be changed."""
        return self.recommended != self.now


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a group should get. `grace` in seconds, None where nothing was measured that says so."""

    probes: Probes
    grace: float | None


@dataclass(frozen=True, slots=True)
class Advice:
    """`warnings` are faults that no number cures, and reasons to trust the numbers less."""

    measured: tuple[Measured, ...]
    findings: tuple[Finding, ...]
    groups: Mapping[str, Numbers]
    warnings: tuple[str, ...]


def advise(measured: Sequence[Measured]) -> Advice:
    """What follows from these replicas. Where several work one group, the worst of them counts."""
    findings: list[Finding] = []
    groups: dict[str, Numbers] = {}
    for group in sorted({name for one in measured for name in one.groups}):
        of_group = [one for one in measured if group in one.groups]
        start, live = _startup(group, of_group), _liveness(group, of_group)
        grace = _grace(group, of_group)
        probes = replace(
            USUAL_PROBES,
            startup=replace(USUAL_PROBES.startup, failures=start[0]),
            liveness=replace(USUAL_PROBES.liveness, failures=live[0]),
        )
        groups[group] = Numbers(probes, grace[0] if grace else None)
        findings += [start[1], live[1], *([grace[1]] if grace else []), *_limits(group, of_group)]
    return Advice(tuple(measured), tuple(findings), groups, tuple(_warnings(measured)))


def told(seconds: float) -> str:
    """Seconds as people read them, three digits."""
    return f"{seconds * 1000:.3g} ms" if seconds < 1 else f"{seconds:.3g} s" if seconds < 1000 else f"{seconds:.0f} s"


# --- the probes ---------------------------------------------------------------------------------------------


def _startup(group: str, measured: Sequence[Measured]) -> tuple[int, Finding]:
    usual = USUAL_PROBES.startup
    starts = [one.start for one in measured if one.start is not None]
    if not starts:
        why = "no replica has become ready yet"
        return usual.failures, Finding(group, "startup", "", _patience(usual.failures, usual.period), "", why)
    slowest = max(starts)
    wanted = max(START_FACTOR * slowest, START_LEAST)
    failures = ceil(wanted / usual.period)
    why = f"{START_FACTOR:g} × the slowest start, at least {START_LEAST:g} s: a cold node is slower"
    now, then = _patience(usual.failures, usual.period), _patience(failures, usual.period)
    return failures, Finding(group, "startup", f"ready after {told(slowest)}", now, then, why)


def _liveness(group: str, measured: Sequence[Measured]) -> tuple[int, Finding]:
    usual = USUAL_PROBES.liveness
    silent = max((one.handlers for one in measured), key=lambda one: one.seconds)
    frozen = max(one.engine.seconds for one in measured)
    failures = usual.failures
    if silent.seconds >= USUAL.handlers:
        why = f"/livez answers 503 after {USUAL.handlers:g} s of silence, and shall: see below"
    elif frozen >= USUAL.handlers:
        why = "a process that stands still for so long is not cured by patience: see below"
    else:
        failures = max(failures, ceil(FREEZE_FACTOR * frozen / usual.period))
        why = (
            f"{FREEZE_FACTOR:g} × the time that the whole process stood still"
            if failures > usual.failures
            else f"no silence came near the {USUAL.handlers:g} s after which /livez answers 503"
            if silent.seconds < USUAL.handlers / 2
            else f"below the {USUAL.handlers:g} s after which /livez answers 503, but not by far"
        )
    what = f"longest silence {told(silent.seconds)}{_place(silent)}, standstill {told(frozen)}"
    now, then = _patience(usual.failures, usual.period), _patience(failures, usual.period)
    return failures, Finding(group, "liveness", what, now, then, why)


def _patience(failures: int, period: int) -> str:
    return f"{failures} × {period} s"


# --- the stop and the limits --------------------------------------------------------------------------------


def _grace(group: str, measured: Sequence[Measured]) -> tuple[float, Finding] | None:
    """None where no call was measured, or the grace is not known."""
    calls = _calls(group, measured)
    graces = [one.grace for one in measured if one.grace is not None]
    if not calls or not graces:
        return None
    grace = min(graces)
    slow, longest = max(calls, key=lambda one: one.p99), max(calls, key=lambda one: one.longest)
    recommended = grace
    if slow.p99 > grace:
        recommended = float(ceil(GRACE_FACTOR * slow.p99 / GRACE_STEP) * GRACE_STEP)
        if slow.limit is not None and slow.limit >= slow.p99:
            recommended = min(recommended, slow.limit)
        why = (
            f"at a stop more than one call of {slow.worker} in 100 is cancelled and comes again: grace={recommended:g}"
        )
    elif longest.longest > grace:
        why = (
            f"the longest call of {longest.worker} is cancelled at a stop and comes again; one in 100 is not that long"
        )
    else:
        why = "every call seen would end by itself at a stop"
    what = f"p99 {told(slow.p99)} ({slow.worker}), longest {told(longest.longest)} ({longest.worker})"
    return recommended, Finding(group, "grace", what, f"{grace:g} s", f"{recommended:g} s", why)


def _limits(group: str, measured: Sequence[Measured]) -> Iterator[Finding]:
    for one in _calls(group, measured):
        what = f"p50 {told(one.p50)}, p99 {told(one.p99)}, longest {told(one.longest)} of {one.count}"
        now = "none" if one.limit is None else f"{one.limit:g} s"
        recommended = now
        if one.limit is None:
            recommended = f"{ceil(max(LIMIT_FACTOR * one.longest, LIMIT_LEAST))} s"
            why = (
                f"a call that hangs holds its slot for ever: {LIMIT_FACTOR:g} × the longest, {LIMIT_LEAST:g} s at least"
            )
        elif one.p99 >= one.limit:
            recommended = f"{ceil(2 * one.limit)} s"
            why = "more than one call in 100 is ended by the limit: give it twice the time, or less to do"
        elif one.longest >= one.limit:
            why = "a few calls were ended by it, as is meant: one in 100 is not"
        else:
            why = "no call came to it"
        yield Finding(group, f"time_limit of {one.worker}", what, now, recommended, why)


def _calls(group: str, measured: Sequence[Measured]) -> list[Calls]:
    """By worker, over all replicas: the counts together, of the times the worst."""
    found: dict[str, Calls] = {}
    for one in (calls for replica in measured for calls in replica.calls if calls.group == group and calls.count):
        before = found.get(one.worker)
        found[one.worker] = (
            one
            if before is None
            else replace(
                one,
                count=one.count + before.count,
                p50=max(one.p50, before.p50),
                p99=max(one.p99, before.p99),
                longest=max(one.longest, before.longest),
            )
        )
    return [found[worker] for worker in sorted(found)]


# --- what no number cures -----------------------------------------------------------------------------------


def _warnings(measured: Sequence[Measured]) -> Iterator[str]:
    for one in measured:
        who = f"worker {one.handlers.worker}" if one.handlers.worker else "a handler, a rule or the web API"
        at = f" at {one.handlers.where}" if one.handlers.where else ""
        blocked = f"{one.source}: {who} blocked the handlers' loop for {told(one.handlers.seconds)}{at}"
        cure = "make it a plain `def` (it gets a thread), or set process=True if it computes"
        if one.handlers.seconds >= USUAL.handlers:
            yield f"{blocked}: the probe restarts a pod for that, and a more patient one would only hide it; {cure}"
        elif one.handlers.seconds >= STALL:
            yield f"{blocked}: meanwhile nothing else was started, and what waited went to other replicas; {cure}"
        if one.engine.seconds >= USUAL_PROBES.liveness.timeout:
            yield (
                f"{one.source}: the whole process stood still for {told(one.engine.seconds)}, so no probe was answered:"
                " something held the interpreter (set process=True for what computes in C), or it got no CPU (look at"
                " the limit)"
            )
        if one.up is not None and one.up < SHORT:
            yield f"{one.source}: up for {told(one.up)} only; ask again after {SHORT / 60:g} min of usual load"
        few = [calls for calls in one.calls if calls.count < FEW]
        if few:
            names = ", ".join(f"{calls.worker} {calls.count}" for calls in few)
            yield f"{one.source}: too few calls for one in 100 to mean much ({names})"


def _place(silence: Silence) -> str:
    return f" in {silence.worker}" if silence.worker else ""
