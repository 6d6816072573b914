"""Metrics: what is counted, and that the text is valid by the rules promtool has."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import pytest

from tidemill.core.probes import Longest, Snapshot, follow
from tidemill.core.probes import Seen as See
from tidemill.model import Fact
from tidemill.telemetry.metrics import BUCKETS, Family, Metrics, text
from tidemill.telemetry.process import Limit, Process, age

UP = Snapshot(at=100.0, started=True, handlers=99.0)

_NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
_SAMPLE = re.compile(rf"({_NAME})(?:\{{(.*)\}})? ([^ ]+)")
_KINDS = {"counter", "gauge", "histogram"}

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parse(page: str) -> Samples:
    """Every sample, after checking all that the format and promtool's linter ask for."""
    assert page.endswith("\n")
    samples: Samples = {}
    kinds: dict[str, str] = {}
    current = ""
    for line in page.splitlines():
        if line.startswith("# HELP "):
            current, _, words = line[7:].partition(" ")
            assert words, f"{current} has no help"
            assert current not in kinds, f"{current} stands in two places"
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert name == current
            assert kind in _KINDS
            assert (kind == "counter") == name.endswith("_total"), f"{name} is a {kind}"
            kinds[name] = kind
        else:
            name, labels, value = _sample(line)
            assert name in _names(current, kinds[current]), f"{name} under {current}"
            assert (name, labels) not in samples, f"{line} twice"
            samples[name, labels] = value
    _check_histograms(samples, kinds)
    return samples


def _names(family: str, kind: str) -> set[str]:
    return {family + end for end in ("_bucket", "_sum", "_count")} if kind == "histogram" else {family}


def _sample(line: str) -> tuple[str, frozenset[tuple[str, str]], float]:
    matched = _SAMPLE.fullmatch(line)
    assert matched, line
    name, labels, value = matched.groups()
    found: dict[str, str] = {}
    rest = labels or ""
    while rest:
        label = _LABEL.match(rest)
        assert label, line
        assert label[1] not in found, line
        found[label[1]] = label[2]
        rest = rest[label.end() :]
    return name, frozenset(found.items()), float(value.replace("Inf", "inf"))


def _check_histograms(samples: Samples, kinds: dict[str, str]) -> None:
    for family in (name for name, kind in kinds.items() if kind == "histogram"):
        series: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
        for (name, labels), value in samples.items():
            if name == f"{family}_bucket":
                le = float(dict(labels)["le"].replace("Inf", "inf"))
                rest = frozenset((k, v) for k, v in labels if k != "le")
                series.setdefault(rest, []).append((le, value))
        for labels, buckets in series.items():
            assert buckets == sorted(buckets), "buckets rise in bound and count"
            assert buckets[-1][0] == math.inf
            assert samples[f"{family}_count", labels] == buckets[-1][1]
            assert (f"{family}_sum", labels) in samples


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(version="0.1.0", started_at=1_700_000_000.5)


def render(metrics: Metrics, snapshot: Snapshot = UP, now: float = 100.5) -> Samples:
    return parse(metrics.render(snapshot, now))


def test_handled_by_worker_and_verdict(metrics: Metrics) -> None:
    for count in (2, 3):
        metrics(Fact("handled", "bill", count, detail={"verdict": "done"}))
    metrics(Fact("handled", "bill", 1, detail={"verdict": "failed"}))
    samples = render(metrics)
    assert value(samples, "tidemill_handled_total", worker="bill", verdict="done") == 5
    assert value(samples, "tidemill_handled_total", worker="bill", verdict="failed") == 1


def test_seconds_go_into_buckets(metrics: Metrics) -> None:
    metrics(Fact("handler_seconds", "bill", 4, 1000.55, {"each": [0.001, 0.05, 0.499, 1000.0]}))
    samples = render(metrics)
    bounds = {"0.001": 1, "0.025": 1, "0.05": 2, "0.25": 2, "0.5": 3, "600": 3, "+Inf": 4}
    for bound, count in bounds.items():
        assert value(samples, "tidemill_handler_seconds_bucket", worker="bill", le=bound) == count
    assert value(samples, "tidemill_handler_seconds_sum", worker="bill") == pytest.approx(1000.55)
    assert value(samples, "tidemill_handler_seconds_count", worker="bill") == 4


def test_every_bound_is_a_bucket(metrics: Metrics) -> None:
    metrics(Fact("handler_seconds", "bill", 1, 1.0, {"each": [1.0]}))
    buckets = [key for key in render(metrics) if key[0] == "tidemill_handler_seconds_bucket"]
    assert len(buckets) == len(BUCKETS) + 1


def test_depth_lag_and_dead_letters_are_what_was_told_last(metrics: Metrics) -> None:
    for ready in (7, 3):
        detail = {"queue": "invoices", "ready": ready, "delayed": 1, "claimed": 2}
        metrics(Fact("depth", seconds=12.5, detail=detail))
        metrics(Fact("lag", "bill", ready * 10, 4.5))
        metrics(Fact("dead_letters", count=ready, detail={"source": "queue/invoices"}))
    samples = render(metrics)
    assert value(samples, "tidemill_queue_depth", queue="invoices", state="ready") == 3
    assert value(samples, "tidemill_queue_depth", queue="invoices", state="claimed") == 2
    assert value(samples, "tidemill_queue_oldest_seconds", queue="invoices") == 12.5
    assert value(samples, "tidemill_feed_lag_items", worker="bill") == 30
    assert value(samples, "tidemill_feed_lag_seconds", worker="bill") == 4.5
    assert value(samples, "tidemill_dead_letters", source="queue/invoices") == 3


def test_lost_claims_and_failed_polls(metrics: Metrics) -> None:
    metrics(Fact("claims_lost", "bill", 3))
    metrics(Fact("poll_failed", "bill", detail={"error": "secret"}))
    samples = render(metrics)
    assert value(samples, "tidemill_lost_claims_total", worker="bill") == 3
    assert value(samples, "tidemill_failed_polls_total", worker="bill") == 1


def test_what_a_backend_charges_is_the_total_it_told_last(metrics: Metrics) -> None:
    """The totals are sums already: told twice they are not doubled, and they are no event of their own."""
    for total in (2.5, 7.25, 7.25):
        metrics(Fact("charged", detail={"container": "orders", "total": total}))
    metrics(Fact("charged", detail={"container": "tidemill", "total": 1}))
    samples = render(metrics)
    assert value(samples, "tidemill_request_units_total", container="orders") == 7.25
    assert value(samples, "tidemill_request_units_total", container="tidemill") == 1
    assert not any(name == "tidemill_events_total" for name, _ in samples)


def test_a_fact_without_a_metric_is_counted_by_name(metrics: Metrics) -> None:
    metrics(Fact("halted", "bill", detail={"partition": "3"}))
    assert value(render(metrics), "tidemill_events_total", event="halted", worker="bill") == 1


def test_running_and_partitions_are_the_snapshots(metrics: Metrics) -> None:
    worker = follow(None, See("bill", running=3, waiting=2, partitions=5), 100.0)
    samples = render(metrics, Snapshot(at=100.0, started=True, handlers=99.0, workers=(worker,)))
    assert value(samples, "tidemill_running", worker="bill") == 3
    assert value(samples, "tidemill_waiting", worker="bill") == 2
    assert value(samples, "tidemill_partitions", worker="bill") == 5


def test_silence_grows_without_anybody_telling(metrics: Metrics) -> None:
    samples = render(metrics, now=142.0)
    assert value(samples, "tidemill_loop_silent_seconds", loop="engine") == 42
    assert value(samples, "tidemill_loop_silent_seconds", loop="handlers") == 1


def test_the_process(metrics: Metrics) -> None:
    samples = render(metrics)
    assert value(samples, "process_start_time_seconds") == 1_700_000_000.5
    assert value(samples, "process_cpu_seconds_total") > 0
    assert value(samples, "tidemill_info", version="0.1.0") == 1
    assert any(name == "python_info" for name, _ in samples)


def test_what_the_numbers_of_probes_follow_from() -> None:
    told = Process(90.0, ("api", "feeds"), (Limit("bill", "feeds", 30.0), Limit("audit", "feeds", None)), 25.0)
    metrics = Metrics(version="0.1.0", started_at=0.0, process=told)
    metrics(Fact("handler_seconds", "bill", 3, 3.0, {"each": [0.5, 2.0, 0.5]}))
    longest = {"engine": Longest(0.3), "handlers": Longest(7.25, "bill", "shop.py:7")}
    samples = render(metrics, Snapshot(at=100.0, started=True, handlers=99.0, ready=92.5, longest=longest))
    assert value(samples, "tidemill_group", group="api") == value(samples, "tidemill_group", group="feeds") == 1
    assert value(samples, "tidemill_time_limit_seconds", worker="bill", group="feeds") == 30
    assert value(samples, "tidemill_time_limit_seconds", worker="audit", group="feeds") == math.inf
    assert value(samples, "tidemill_grace_seconds") == 25
    assert value(samples, "tidemill_ready_seconds") == 2.5
    assert value(samples, "tidemill_handler_longest_seconds", worker="bill") == 2
    name = "tidemill_loop_longest_silent_seconds"
    assert value(samples, name, loop="handlers", worker="bill", where="shop.py:7") == 7.25
    assert value(samples, name, loop="engine", worker="", where="") == 0.3


def test_what_is_not_known_of_a_process_is_left_out(metrics: Metrics) -> None:
    names = {name for name, _ in render(metrics)}
    assert not names & {"tidemill_group", "tidemill_grace_seconds", "tidemill_ready_seconds"}


def test_the_age_of_a_process_has_its_imports_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import time; time.sleep(0.3); from tidemill.telemetry.process import age; print(age())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert 0.25 < float(ran.stdout) < 30
    monkeypatch.setattr("builtins.open", _no_proc)
    assert age() == 0.0


def _no_proc(*_: object) -> None:
    raise FileNotFoundError


def test_labels_are_escaped(metrics: Metrics) -> None:
    metrics(Fact("dead_letters", count=1, detail={"source": 'feed/a"b\\c\nd'}))
    assert value(render(metrics), "tidemill_dead_letters", source='feed/a\\"b\\\\c\\nd') == 1


def test_numbers_and_help_by_the_rules() -> None:
    page = text([Family("x", "gauge", "a\nb\\c", [("", (("n", str(n)),), n) for n in (1.0, 0.1, 1e20, -2.5)])])
    assert page.splitlines()[0] == "# HELP x a\\nb\\\\c"
    assert [line.split()[1] for line in page.splitlines()[2:]] == ["1", "0.1", "1e+20", "-2.5"]


def test_a_family_without_samples_is_left_out() -> None:
    assert text([Family("x", "gauge", "help", [])]) == "\n"
