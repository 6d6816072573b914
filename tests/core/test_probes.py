"""The numbers of the probes, each side of each border."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tidemill.core import probes
from tidemill.core.health import Check, Health, Report
from tidemill.core.probes import Followed, Seen, Snapshot, StoreSeen, follow
from tidemill.errors import (
    BackendFull,
    ConfigurationError,
    CursorExpired,
    TooLarge,
    Unavailable,
)

UP = Snapshot(at=1000.0, started=True, handlers=1000.0)


def failing(report: Report) -> dict[str, str]:
    return {check.name: check.health.why for check in probes.failing(report)}


def queue(**seen: Any) -> Seen:
    usual = Seen("bill", free=4, polls=True, polled=1000.0)
    return replace(usual, **seen)


def followed(ticks: list[tuple[float, Seen]]) -> Followed:
    state: Followed | None = None
    for now, seen in ticks:
        state = follow(state, seen, now)
    assert state is not None
    return state


def steady(seen: Seen, since: float, until: float) -> Followed:
    """The same thing seen twice a second."""
    return followed([(since + i / 2, seen) for i in range(int((until - since) * 2) + 1)])


# --- loops --------------------------------------------------------------------------------------------------


def test_all_is_well() -> None:
    for probe in (probes.livez, probes.readyz, probes.startupz):
        assert probe(UP, 1000.5).status() == "healthy"


@pytest.mark.parametrize(("silent", "status"), [(29.9, "healthy"), (30.0, "unhealthy")])
def test_a_silent_handlers_loop_fails_liveness_after_30_s(silent: float, status: str) -> None:
    snapshot = replace(UP, at=1000.0 + silent, stuck_in="bill", where="app.py:12")
    assert probes.livez(snapshot, snapshot.at).status() == status


def test_the_probe_says_worker_file_and_line() -> None:
    snapshot = replace(UP, at=1031.0, stuck_in="bill", where="app.py:12")
    assert failing(probes.livez(snapshot, 1031.0)) == {"handlers": "no tick for 31 s, in bill at app.py:12"}


@pytest.mark.parametrize(("silent", "status"), [(9.9, "healthy"), (10.0, "unhealthy")])
def test_a_silent_engine_fails_liveness_after_10_s(silent: float, status: str) -> None:
    assert probes.livez(UP, UP.at + silent).status() == status


def test_one_stuck_engine_is_not_reported_as_two_stuck_loops() -> None:
    assert set(failing(probes.livez(UP, UP.at + 300))) == {"engine"}


def test_nothing_is_too_slow_for_a_debugger() -> None:
    snapshot = replace(UP, at=5000.0, workers=(steady(queue(waiting=1), 0, 100),))
    assert probes.livez(snapshot, 9000.0, probes.NEVER).status() == "healthy"


# --- phases -------------------------------------------------------------------------------------------------


def test_while_starting_only_liveness_is_well() -> None:
    starting = Snapshot(at=1000.0, handlers=900.0)
    assert probes.livez(starting, 1300.0).status() == "healthy"
    assert failing(probes.readyz(starting, 1300.0)) == {"started": "still starting"}
    assert failing(probes.startupz(starting, 1300.0)) == {"started": "still starting"}


def test_while_draining_liveness_stays_and_readiness_goes() -> None:
    draining = replace(UP, draining=True, workers=(steady(queue(waiting=3), 900, 1000),))
    assert probes.livez(draining, 1500.0).status() == "healthy"
    assert failing(probes.readyz(draining, 1000.0)) == {"draining": "draining"}


# --- progress -----------------------------------------------------------------------------------------------


def live(worker: Followed, now: float) -> dict[str, str]:
    return failing(probes.livez(replace(UP, at=now, handlers=now, workers=(worker,)), now))


@pytest.mark.parametrize(("seconds", "fails"), [(59.5, False), (60.0, True)])
def test_progress_fails_when_nothing_starts_beside_waiting_work_for_60_s(seconds: float, fails: bool) -> None:
    seen = queue(waiting=1, polling=True)
    assert (live(steady(seen, 1000, 1000 + seconds), 1000 + seconds) != {}) is fails


@pytest.mark.parametrize(
    "seen",
    [
        queue(waiting=1, polling=True, free=0),
        queue(waiting=1, polling=True, paused=True),
        queue(waiting=0, polling=True),
    ],
    ids=["no slot is free", "paused", "nothing waits"],
)
def test_progress_needs_a_free_slot_waiting_work_and_no_pause(seen: Seen) -> None:
    assert live(steady(seen, 1000, 1300), 1300) == {}


def test_a_start_begins_the_wait_anew() -> None:
    ticks = [(1000 + i / 2, queue(waiting=1, polling=True, started=i // 100)) for i in range(400)]
    assert live(followed(ticks), 1199.5) == {}


def test_work_that_arrives_after_an_idle_hour_has_waited_for_nothing() -> None:
    ticks = [(i / 2, queue(polling=True)) for i in range(7200)]
    ticks.append((3600.0, queue(polling=True, waiting=1)))
    assert live(followed(ticks), 3600.0) == {}


def test_giving_back_and_claiming_again_is_no_progress() -> None:
    """Unstarted deliveries go back after 2 s, so a worker that starts nothing shows waiting work now and then only."""
    ticks = [(1000 + i / 2, queue(polling=True, waiting=int(i % 6 < 4))) for i in range(130)]
    assert set(live(followed(ticks), 1064.5)) == {"progress/bill"}


def test_work_that_went_elsewhere_is_forgotten() -> None:
    ticks = [(1000 + i / 2, queue(polling=True, waiting=int(i < 20))) for i in range(130)]
    assert live(followed(ticks), 1064.5) == {}


def test_a_frozen_process_does_not_count_the_freeze() -> None:
    ticks = [(1000.0, queue(waiting=1, polled=1000.0)), (1300.0, queue(waiting=1, polled=1000.0))]
    assert live(followed(ticks), 1300.0) == {}


# --- intake -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("seconds", "fails"), [(59.5, False), (60.0, True)])
def test_intake_fails_when_no_poll_is_attempted_for_60_s(seconds: float, fails: bool) -> None:
    worker = steady(queue(polled=1000.0), 1000, 1000 + seconds)
    assert (live(worker, 1000 + seconds) != {}) is fails


@pytest.mark.parametrize(
    "seen",
    [queue(polls=False), queue(paused=True), queue(free=0), queue(polling=True)],
    ids=["nothing to poll", "paused", "all slots are taken", "an attempt is under way"],
)
def test_intake_counts_only_polls_that_could_have_been(seen: Seen) -> None:
    assert live(steady(seen, 1000, 1300), 1300) == {}


def test_a_poll_counts_from_its_attempt() -> None:
    ticks = [(1000 + i / 2, queue(polled=1000.0 + 50 * (i // 100))) for i in range(300)]
    assert live(followed(ticks), 1149.5) == {}


def test_after_a_long_pause_the_first_poll_has_its_time() -> None:
    ticks = [(1000 + i / 2, queue(paused=i < 400)) for i in range(410)]
    assert live(followed(ticks), 1204.5) == {}


# --- other services -----------------------------------------------------------------------------------------


def test_a_failing_backend_is_readiness_only() -> None:
    worker = steady(queue(failing="unreachable", polled=1000.0), 1000, 1012)
    snapshot = replace(UP, at=1012, handlers=1012, workers=(worker,))
    assert live(worker, 1012) == {}
    assert failing(probes.readyz(snapshot, 1012)) == {"backend/bill": "the backend does not answer, for 12 s"}


def test_a_backend_that_never_answers_is_readiness_only() -> None:
    worker = steady(queue(polling=True, polled=1000.0), 1000, 1200)
    snapshot = replace(UP, at=1200, handlers=1200, workers=(worker,))
    assert live(worker, 1200) == {}
    assert failing(probes.readyz(snapshot, 1200)) == {"backend/bill": "no answer to a poll for 200 s"}


@pytest.mark.parametrize(("left", "status"), [(0.1, "healthy"), (0.0, "unhealthy")])
def test_a_fenced_store_is_readiness_only(left: float, status: str) -> None:
    snapshot = replace(UP, stores=(StoreSeen("store", deadline=1000.0 + left, renewed=990.0),))
    assert probes.livez(snapshot, 1000.0).status() == "healthy"
    assert probes.readyz(snapshot, 1000.0).status() == status


def test_an_open_breaker_is_degraded() -> None:
    worker = steady(queue(paused=True, breaker_open=True), 1000, 1020)
    report = probes.readyz(replace(UP, at=1020, handlers=1020, workers=(worker,)), 1020)
    assert report.status() == "degraded"
    assert probes.failing(report) == []


def test_a_halted_partition_is_degraded() -> None:
    report = probes.readyz(replace(UP, workers=(steady(queue(halted=1), 1000, 1000),)), 1000)
    assert report.status() == "degraded"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Unavailable("postgresql://u:secret@db"), "unreachable"),
        (TimeoutError(), "unreachable"),
        (BackendFull(), "full"),
        (CursorExpired(), "expired"),
        (TooLarge(), "too large"),
        (ConfigurationError("x"), "refused"),
        (ValueError("secret"), "failing"),
    ],
)
def test_an_error_becomes_a_word_of_the_closed_list(error: Exception, reason: str) -> None:
    assert probes.reason_of(error) == reason


# --- limits and rules ---------------------------------------------------------------------------------------


def test_calls_beyond_their_limit_are_degraded_until_no_slot_is_left() -> None:
    some = steady(queue(running=2, overrun=1, longest=700.0, free=2, polling=True), 1000, 1000)
    every = steady(queue(running=4, overrun=4, longest=700.0, free=0, polling=True), 1000, 1000)
    assert live(some, 1000) == {}
    assert set(live(every, 1000)) == {"limit/bill"}


def test_long_calls_within_their_limit_are_well() -> None:
    busy = steady(queue(running=4, free=0, waiting=2), 1000, 1500)
    assert live(busy, 1500) == {}


def test_a_rule_counts_for_the_probes_it_names() -> None:
    rule = Check("rates", Health.unhealthy("3 h old"), frozenset({"ready"}))
    snapshot = replace(UP, rules=(rule,))
    assert probes.livez(snapshot, 1000.0).status() == "healthy"
    assert failing(probes.readyz(snapshot, 1000.0)) == {"rates": "3 h old"}
    assert "rates" in {check.name for check in probes.health(snapshot, 1000.0).checks}
