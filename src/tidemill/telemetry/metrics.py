"""Prometheus metrics without a library: an observer that counts, and the text that `/metrics` answers.

State: plain dicts, written by the engine's thread (facts arrive there) and read by the health thread. A read copies
with one C call each, so it needs no lock and waits for nobody; two samples may be a moment apart. What a stuck engine
could not tell (silence of the loops, running calls) comes from the snapshot and the clock.
"""

from __future__ import annotations

import math
import os
import platform
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tidemill.core.probes import Seen, Snapshot, silences
from tidemill.model import Fact
from tidemill.telemetry.process import Process

Labels: TypeAlias = tuple[tuple[str, str], ...]

BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
"""Upper bounds in seconds: from a no-op to the usual time limit."""

_COUNTED: Mapping[str, str] = {
    "claims_lost": "tidemill_lost_claims_total",
    "poll_failed": "tidemill_failed_polls_total",
}


@dataclass(frozen=True, slots=True)
class Family:
    """One metric with all its samples: (suffix of the name, labels, value)."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    samples: Sequence[tuple[str, Labels, float]]


class _Histogram:
    """Counts by bucket (the last is above all bounds), the sum of seconds and the longest."""

    __slots__ = ("counts", "longest", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.sum = 0.0
        self.longest = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds
        if seconds > self.longest:
            self.longest = seconds


class Metrics:
    """An observer of facts. `started_at` is the process's start in seconds since the epoch."""

    def __init__(self, *, version: str, started_at: float, process: Process | None = None) -> None:
        self._version = version
        self._started_at = started_at
        self._told = process or Process()
        self._counters: dict[tuple[str, Labels], float] = {}
        self._gauges: dict[tuple[str, Labels], float] = {}
        self._seconds: dict[str, _Histogram] = {}

    def __call__(self, fact: Fact) -> None:
        """Count it. Facts that have no metric of their own are counted by name."""
        worker = (("worker", fact.worker),)
        match fact.name:
            case "handled":
                self._count("tidemill_handled_total", (*worker, ("verdict", str(fact.detail["verdict"]))), fact.count)
            case "handler_seconds":
                self._time(fact)
            case "depth":
                self._depth(fact)
            case "lag":
                self._gauges["tidemill_feed_lag_items", worker] = fact.count
                self._gauges["tidemill_feed_lag_seconds", worker] = fact.seconds
            case "dead_letters":
                self._gauges["tidemill_dead_letters", (("source", str(fact.detail["source"])),)] = fact.count
            case "charged":
                container = (("container", str(fact.detail["container"])),)
                total = fact.detail["total"]
                if isinstance(total, int | float):  # the sum of all so far, as a counter wants it
                    self._counters["tidemill_request_units_total", container] = total
            case "claims_lost" | "poll_failed":
                self._count(_COUNTED[fact.name], worker, fact.count)
            case _:
                self._count("tidemill_events_total", (("event", fact.name), *worker), fact.count)

    def render(self, snapshot: Snapshot, now: float) -> str:
        """Everything in the text format, version 0.0.4."""
        return text(
            [
                *self._families(),
                *_told(snapshot, self._told),
                *_process(snapshot, now, self._started_at, self._version),
            ]
        )

    def _count(self, name: str, labels: Labels, count: float) -> None:
        self._counters[name, labels] = self._counters.get((name, labels), 0) + count

    def _time(self, fact: Fact) -> None:
        histogram = self._seconds.get(fact.worker)
        if histogram is None:
            histogram = self._seconds[fact.worker] = _Histogram()
        each = fact.detail.get("each")
        if isinstance(each, Sequence):
            for seconds in each:
                if isinstance(seconds, int | float):
                    histogram.add(seconds)

    def _depth(self, fact: Fact) -> None:
        queue = ("queue", str(fact.detail["queue"]))
        for state in ("ready", "delayed", "claimed"):
            count = fact.detail.get(state)
            if isinstance(count, int | float):
                self._gauges["tidemill_queue_depth", (queue, ("state", state))] = count
        self._gauges["tidemill_queue_oldest_seconds", (queue,)] = fact.seconds

    def _families(self) -> Iterator[Family]:
        counters = list(self._counters.items())
        gauges = list(self._gauges.items())
        for name, help_ in _COUNTERS.items():
            yield Family(name, "counter", help_, _samples(name, counters))
        for name, help_ in _GAUGES.items():
            yield Family(name, "gauge", help_, _samples(name, gauges))
        seconds = list(self._seconds.items())
        timed = [sample for worker, h in seconds for sample in _buckets(worker, h)]
        yield Family("tidemill_handler_seconds", "histogram", "Seconds a call of a handler took.", timed)
        longest = [("", (("worker", worker),), h.longest) for worker, h in seconds]
        yield Family("tidemill_handler_longest_seconds", "gauge", "Seconds the longest call so far took.", longest)


_COUNTERS: Mapping[str, str] = {
    "tidemill_handled_total": "Messages, changes and occurrences that ended, by verdict.",
    "tidemill_lost_claims_total": "Deliveries whose claim went to somebody else before they were settled.",
    "tidemill_failed_polls_total": "Times a backend began to fail when it was polled.",
    "tidemill_request_units_total": "What Cosmos DB has charged this replica for, by container.",
    "tidemill_events_total": "Other facts, by name.",
}
_GAUGES: Mapping[str, str] = {
    "tidemill_queue_depth": "Messages in a queue, about.",
    "tidemill_queue_oldest_seconds": "Seconds since the oldest ready message was due.",
    "tidemill_feed_lag_items": "Changes between the marks of this replica's partitions and their ends.",
    "tidemill_feed_lag_seconds": "Seconds since the oldest change that is not done.",
    "tidemill_dead_letters": "Dead letters, by source.",
}


def _samples(name: str, values: Iterable[tuple[tuple[str, Labels], float]]) -> list[tuple[str, Labels, float]]:
    return [("", labels, value) for (named, labels), value in values if named == name]


def _buckets(worker: str, histogram: _Histogram) -> Iterator[tuple[str, Labels, float]]:
    counts, total = list(histogram.counts), histogram.sum
    label = ("worker", worker)
    below = 0
    for bound, count in zip((*BUCKETS, float("inf")), counts, strict=True):
        below += count
        yield "_bucket", (label, ("le", _number(bound))), below
    yield "_sum", (label,), total
    yield "_count", (label,), below


def _told(snapshot: Snapshot, told: Process) -> Iterator[Family]:
    """What the numbers of probes and of the stop follow from (`tidemill probes`)."""
    groups = [("", (("group", group),), 1.0) for group in told.groups]
    yield Family("tidemill_group", "gauge", "The groups that this replica works.", groups)
    limits = [
        ("", (("worker", one.worker), ("group", one.group)), math.inf if one.seconds is None else one.seconds)
        for one in told.limits
    ]
    yield Family("tidemill_time_limit_seconds", "gauge", "Seconds a call of a handler may take.", limits)
    if told.grace is not None:
        yield _one("tidemill_grace_seconds", "Seconds that running calls get at a stop.", told.grace)
    if told.born is not None and snapshot.ready is not None:
        yield _one("tidemill_ready_seconds", "Seconds from the process's start to ready.", snapshot.ready - told.born)
    silences = [
        ("", (("loop", loop), ("worker", one.worker), ("where", one.where)), one.seconds)
        for loop, one in sorted(snapshot.longest.items())
    ]
    help_ = "The longest time since ready that a loop did not tick, and what it was in."
    yield Family("tidemill_loop_longest_silent_seconds", "gauge", help_, silences)


def _process(snapshot: Snapshot, now: float, started_at: float, version: str) -> Iterator[Family]:
    """What is true at this moment, of the workers and of the process."""
    seen = [followed.seen for followed in snapshot.workers]
    yield Family("tidemill_running", "gauge", "Calls of handlers that run now.", _each(seen, "running"))
    yield Family("tidemill_waiting", "gauge", "Claimed work that no handler has begun.", _each(seen, "waiting"))
    yield Family("tidemill_partitions", "gauge", "Partitions this replica works.", _each(seen, "partitions"))
    silent = [("", (("loop", loop),), seconds) for loop, seconds in sorted(silences(snapshot, now).items())]
    yield Family("tidemill_loop_silent_seconds", "gauge", "Seconds since a loop ticked last.", silent)
    yield _one("tidemill_draining", "Whether this replica is on its way out.", float(snapshot.draining))
    yield _one("tidemill_info", "The release of Tidemill.", 1, (("version", version),))
    yield _one("process_start_time_seconds", "Start of the process since the epoch.", started_at)
    times = os.times()
    cpu = [("", (), times.user + times.system)]
    yield Family("process_cpu_seconds_total", "counter", "User and system CPU time.", cpu)
    yield _one("process_resident_memory_bytes", "Resident memory.", _resident())
    yield _one("python_info", "The interpreter.", 1, _python())


def _each(seen: Sequence[Seen], field: Literal["running", "waiting", "partitions"]) -> list[tuple[str, Labels, float]]:
    return [("", (("worker", one.worker),), float(getattr(one, field))) for one in seen]


def _one(name: str, help_: str, value: float, labels: Labels = ()) -> Family:
    return Family(name, "gauge", help_, [("", labels, value)])


def _resident() -> float:
    try:
        with open("/proc/self/statm", "rb") as statm:
            return int(statm.read().split()[1]) * float(os.sysconf("SC_PAGE_SIZE"))
    except OSError:
        return float("nan")  # no /proc here


def _python() -> Labels:
    major, minor, patch = platform.python_version_tuple()
    return (
        ("implementation", platform.python_implementation()),
        ("major", major),
        ("minor", minor),
        ("patchlevel", patch),
        ("version", platform.python_version()),
    )


# --- the text format ----------------------------------------------------------------------------------------


def text(families: Iterable[Family]) -> str:
    """Families in the Prometheus text format; those without a sample are left out."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {_escape(family.help, quotes=False)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines += [
            f"{family.name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in family.samples
        ]
    return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value, quotes=True)}"' for name, value in labels) + "}"


def _escape(value: str, *, quotes: bool) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quotes else escaped


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(float(value))
