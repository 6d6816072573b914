"""From what a replica measured to its numbers: the rules, the page they are read from, and a real replica."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.processes import Fleet
from tidemill.cli.main import main
from tidemill.cli.probes import pieces_of, values
from tidemill.core.probes import USUAL, Longest, Snapshot
from tidemill.deploy.advice import USUAL_PROBES, Advice, Calls, Finding, Measured, Silence, advise, told
from tidemill.deploy.measured import address, measured, probes_from, quantile, read
from tidemill.engine.bind import bind
from tidemill.engine.health_server import HealthServer
from tidemill.errors import ConfigurationError, TidemillError
from tidemill.model import Fact
from tidemill.signals import Signals
from tidemill.telemetry.metrics import Metrics
from tidemill.telemetry.process import Limit, Process

BILL = Calls("bill", "feeds", 1_000, p50=0.02, p99=0.5, longest=2.0, limit=600.0)
ONE = Measured(
    "http://a:8081/metrics",
    ("feeds",),
    start=1.5,
    up=3_600.0,
    grace=25.0,
    handlers=Silence(0.3),
    engine=Silence(0.26),
    calls=(BILL,),
)


def found(advice: Advice, setting: str, group: str = "feeds") -> Finding:
    [one] = [one for one in advice.findings if (one.group, one.setting) == (group, setting)]
    return one


# --- the rules ----------------------------------------------------------------------------------------------


def test_a_quick_and_quiet_replica_keeps_what_is_usual() -> None:
    advice = advise([ONE])
    numbers = advice.groups["feeds"]
    assert numbers.probes == replace(USUAL_PROBES, startup=replace(USUAL_PROBES.startup, failures=15))
    assert numbers.grace == 25.0
    assert advice.warnings == ()
    assert [one.setting for one in advice.findings if one.changes] == ["startup"]
    assert "no silence came near the 30 s" in found(advice, "liveness").why
    assert found(advice, "time_limit of bill").why == "no call came to it"


@pytest.mark.parametrize(
    ("starts", "patience"), [([0.4], 30), ([10.0], 30), ([10.5], 32), ([3.0, 40.0, None], 120), ([None], 120)]
)
def test_a_start_gets_three_times_what_it_took(starts: Sequence[float | None], patience: int) -> None:
    advice = advise([replace(ONE, start=start) for start in starts])
    assert advice.groups["feeds"].probes.startup.patience == patience
    if starts == [None]:
        assert found(advice, "startup").why == "no replica has become ready yet"


def test_who_blocks_the_loop_for_too_long_is_named_and_no_number_raised() -> None:
    advice = advise([replace(ONE, handlers=Silence(48.0, "bill", "shop.py:7"))])
    assert advice.groups["feeds"].probes.liveness == USUAL_PROBES.liveness
    assert not found(advice, "liveness").changes
    [warning] = advice.warnings
    assert "worker bill blocked the handlers' loop for 48 s at shop.py:7" in warning
    assert "plain `def`" in warning
    assert "process=True" in warning
    assert "a more patient one would only hide it" in warning


@pytest.mark.parametrize(
    ("silent", "said"), [(4.0, "no silence came near"), (16.0, "not by far"), (29.9, "not by far"), (30.0, "see below")]
)
def test_liveness_is_above_the_longest_silence_or_says_why_not(silent: float, said: str) -> None:
    advice = advise([replace(ONE, handlers=Silence(silent))])
    assert said in found(advice, "liveness").why
    live = advice.groups["feeds"].probes.liveness
    assert live == USUAL_PROBES.liveness
    assert live.patience + USUAL.handlers > silent
    assert bool(advice.warnings) == (silent >= 5)
    if advice.warnings:
        assert "a handler, a rule or the web API blocked" in advice.warnings[0]


@pytest.mark.parametrize(("frozen", "failures"), [(4.0, 3), (19.0, 3), (22.0, 4), (29.0, 5), (31.0, 3)])
def test_a_process_that_stood_still_gets_patience_up_to_a_point(frozen: float, failures: int) -> None:
    advice = advise([replace(ONE, engine=Silence(frozen))])
    assert advice.groups["feeds"].probes.liveness.failures == failures
    assert bool(advice.warnings) == (frozen >= 5)
    if frozen < USUAL.handlers:
        assert advice.groups["feeds"].probes.liveness.patience > frozen


@pytest.mark.parametrize(
    ("p99", "longest", "limit", "grace"),
    [
        (0.5, 2.0, 600.0, 25.0),
        (0.5, 60.0, 600.0, 25.0),
        (30.0, 60.0, 600.0, 45.0),
        (31.0, 60.0, 600.0, 50.0),
        (31.0, 60.0, 35.0, 35.0),
        (31.0, 60.0, 20.0, 50.0),
        (31.0, 60.0, None, 50.0),
    ],
)
def test_a_grace_below_the_slowest_in_a_hundred_is_raised(
    p99: float, longest: float, limit: float | None, grace: float
) -> None:
    advice = advise([replace(ONE, calls=(replace(BILL, p99=p99, longest=longest, limit=limit),))])
    assert advice.groups["feeds"].grace == grace
    one = found(advice, "grace")
    assert one.changes == (p99 > 25.0)
    if one.changes:
        assert f"grace={grace:g}" in one.why
        assert grace >= min(p99, limit or math.inf)
        assert f"# grace = {grace:g}" in values(advice)
    elif longest > 25.0:
        assert "the longest call of bill is cancelled" in one.why


@pytest.mark.parametrize(
    ("p99", "longest", "limit", "then"),
    [(1.0, 2.0, 10.0, "10 s"), (1.0, 11.0, 10.0, "10 s"), (10.0, 11.0, 10.0, "20 s"), (1.0, 2.0, None, "30 s"),
     (1.0, 20.5, None, "62 s")],
)  # fmt: skip
def test_a_time_limit_is_judged_by_what_calls_took(p99: float, longest: float, limit: float | None, then: str) -> None:
    advice = advise([replace(ONE, calls=(replace(BILL, p99=p99, longest=longest, limit=limit),))])
    assert found(advice, "time_limit of bill").recommended == then


def test_the_worst_of_several_replicas_counts_for_each_group() -> None:
    other = replace(
        ONE,
        source="http://b:8081/metrics",
        groups=("feeds", "queues"),
        handlers=Silence(2.0, "work"),
        calls=(replace(BILL, count=500, p99=40.0, longest=41.0), replace(BILL, worker="work", group="queues")),
    )
    advice = advise([ONE, other])
    assert list(advice.groups) == ["feeds", "queues"]
    assert "of 1500" in found(advice, "time_limit of bill").measured
    assert advice.groups["feeds"].grace == 60.0
    assert advice.groups["queues"].grace == 25.0
    assert "2 s in work" in found(advice, "liveness", "queues").measured


def test_what_was_not_measured_is_not_recommended() -> None:
    idle = replace(BILL, count=0, p50=0.0, p99=0.0, longest=0.0)
    advice = advise([replace(ONE, calls=(idle,), up=40.0), replace(ONE, grace=None, calls=())])
    assert {one.setting for one in advice.findings} == {"startup", "liveness"}
    assert advice.groups["feeds"].grace is None
    assert "up for 40 s only" in advice.warnings[0]
    assert "too few calls for one in 100 to mean much (bill 0)" in advice.warnings[1]
    assert advise([]) == Advice((), (), {}, ())


@pytest.mark.parametrize(("seconds", "text"), [(0.0251, "25.1 ms"), (1.5, "1.5 s"), (1234.4, "1234 s")])
def test_seconds_as_people_read_them(seconds: float, text: str) -> None:
    assert told(seconds) == text


# --- the page -----------------------------------------------------------------------------------------------

UP = Snapshot(
    at=100.0,
    started=True,
    handlers=100.0,
    ready=91.5,
    longest={"handlers": Longest(7.5, "bill", 'a "b"\\c.py:7'), "engine": Longest(0.5)},
)


@pytest.fixture
def metrics() -> Metrics:
    process = Process(90.0, ("api", "feeds"), (Limit("bill", "feeds", 30.0), Limit("audit", "feeds", None)), 25.0)
    return Metrics(version="0.1.0", started_at=1_000.0, process=process)


@pytest.fixture
def url(metrics: Metrics) -> Iterator[str]:
    """The probes of something like a replica."""
    server = HealthServer(bind("127.0.0.1", 0), UP, monotonic=lambda: 100.0, metrics=metrics.render)
    server.start()
    host, port = server.address
    yield f"http://{host}:{port}"
    server.stop()


def test_what_a_replica_says_is_what_is_read(metrics: Metrics) -> None:
    each = [0.002] * 98 + [0.2, 9.0]
    metrics(Fact("handler_seconds", "bill", len(each), sum(each), {"each": each}))
    assert measured("u", metrics.render(UP, 100.0), 1_060.0) == Measured(
        "u",
        ("api", "feeds"),
        start=1.5,
        up=60.0,
        grace=25.0,
        handlers=Silence(7.5, "bill", 'a "b"\\c.py:7'),
        engine=Silence(0.5),
        calls=(
            Calls("bill", "feeds", 100, p50=0.005, p99=0.25, longest=9.0, limit=30.0),
            Calls("audit", "feeds", 0, 0.0, 0.0, 0.0, None),
        ),
    )


def test_a_replica_that_is_not_ready_yet(metrics: Metrics) -> None:
    one = measured("u", metrics.render(Snapshot(100.0), 100.0), 0.0)
    assert (one.start, one.up, one.handlers, one.engine) == (None, 0.0, Silence(), Silence())


def test_lines_that_are_no_samples_are_passed_over() -> None:
    page = '# HELP a b\n\n<html>\na 1\nb{c="d\\n\\"e\\x"} +Inf 17\nc many\nd{} NaN\n'
    samples = {sample.name: sample for sample in read(page)}
    assert set(samples) == {"a", "b", "d"}
    assert samples["b"].labels == {"c": 'd\n"e\\x'}
    assert samples["b"].value == math.inf


def test_a_quantile_is_the_bound_of_its_bucket_and_never_above_the_longest() -> None:
    buckets = {0.1: 50.0, 1.0: 99.0, 10.0: 99.0, math.inf: 100.0}
    assert quantile(buckets, 0.5, 70.0) == 0.1
    assert quantile(buckets, 0.99, 70.0) == 1.0
    assert quantile(buckets, 1.0, 70.0) == 70.0
    assert quantile(buckets, 0.99, 0.7) == 0.7
    assert quantile({}, 0.99, 0.0) == 0.0


def test_a_url_is_taken_as_it_is_meant() -> None:
    assert address("http://a:8081") == address("http://a:8081/") == "http://a:8081/metrics"
    assert address("https://b/x/metrics?y=1") == "https://b/x/metrics?y=1"


@pytest.mark.parametrize("url", ["", "a:8081", "ftp://a", "http://", "http://a:0", "http://a:x", "http://[", "/m"])
def test_a_url_that_is_none_is_one_line(url: str) -> None:
    with pytest.raises(ConfigurationError, match="write http://host:port"):
        address(url)


def test_what_is_no_replica_is_said(url: str) -> None:
    with pytest.raises(ConfigurationError, match="not the metrics of a Tidemill replica"):
        probes_from([f"{url}/livez"])
    with pytest.raises(ConfigurationError, match="answers 404; metrics stand on the port of the probes"):
        probes_from([f"{url}/nothing"])
    with pytest.raises(ConfigurationError, match="does not say enough"):
        measured("u", 'tidemill_info{version="0.1.0"} 1\n', 0.0)


def test_a_replica_that_cannot_answer_now_is_a_failure(metrics: Metrics) -> None:
    server = HealthServer(bind("127.0.0.1", 0), Snapshot(100.0), monotonic=lambda: 100.0, metrics=metrics.render)
    server.start()
    with pytest.raises(TidemillError, match="answers 503") as caught:
        probes_from([f"http://127.0.0.1:{server.address[1]}/readyz"])
    server.stop()
    assert not isinstance(caught.value, ConfigurationError)


def test_nobody_there_is_one_line() -> None:
    with bind("127.0.0.1", 0) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(TidemillError, match=f"127.0.0.1:{port}/metrics: no answer: .*refused"):
        probes_from([f"http://127.0.0.1:{port}"])


# --- the command --------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["probes", *words], Signals())
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_command_prints_a_table_reasons_and_values(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, url)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "measured and recommended:"
    assert "feeds startup ready after 1.5 s 60 × 2 s 15 × 2 s change" in [" ".join(line.split()) for line in lines]
    assert "  feeds, startup: 3 × the slowest start, at least 30 s: a cold node is slower" in lines
    assert any(line.startswith(f"look at: {url}/metrics: worker bill blocked") for line in lines)
    yaml = pytest.importorskip("yaml")
    pasted = yaml.safe_load(out[out.index("# for your own values file") :])
    assert set(pasted["groups"]) == {"api", "feeds"}
    startup = {"periodSeconds": 2, "failureThreshold": 15, "timeoutSeconds": 5}
    assert pasted["groups"]["feeds"]["probes"]["startup"] == startup
    assert set(pasted["groups"]["feeds"]["probes"]) == {"startup", "readiness", "liveness"}


def test_the_command_as_json(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, url, url, "--json")
    told = json.loads(out)
    assert code == 0
    assert set(told) == {"measured", "findings", "groups", "warnings"}
    assert len(told["measured"]) == 2
    assert told["groups"]["feeds"]["probes"]["startup"]["failures"] == 15
    assert told["findings"][0]["why"]


def test_a_mistake_of_the_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "here")[::2] == (
        2,
        "tidemill: here: write http://host:port, where the probes of a replica answer (port 8081)\n",
    )


def test_findings_fit_their_table() -> None:
    """Cells are cut at 120 characters; what is longer belongs to the reasons."""
    slow = replace(BILL, worker="w" * 30, p99=31.0, longest=40.0)
    [table, *_] = pieces_of(advise([replace(ONE, handlers=Silence(48.0, "w" * 30, "x"), calls=(slow,))]))
    assert not isinstance(table, str)
    assert max(len(str(cell)) for row in table.rows for cell in row) < 120


async def test_a_real_replica(tmp_path: Path) -> None:
    with Fleet(tmp_path, "tests.acceptance.apps.blocking:app") as fleet:
        one = fleet.start("one")
        await one.ready()
        began = time.monotonic()
        advice = probes_from([f"http://127.0.0.1:{one.port}"])
        assert time.monotonic() - began < 5
        [replica] = advice.measured
        assert {calls.worker for calls in replica.calls} >= {"work", "watch"}
        assert replica.start is not None
        assert 0 < replica.start < 30
        assert replica.up is not None
        assert replica.up >= replica.start - 1.0
        assert replica.grace == 25.0
        assert replica.engine.seconds < 5
        assert set(advice.groups) == set(replica.groups)
        status, body = one.probe(f"/scale/{replica.groups[0]}")
        assert (status, json.loads(body)["work"]) == (200, 0)
        assert one.probe("/scale/nothing")[0] == 404
        assert await one.stop() == 0
