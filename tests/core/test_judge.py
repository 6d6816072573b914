"""What becomes of a delivery whose handler did not simply succeed."""

from __future__ import annotations

from random import Random

import pytest

from tidemill.core.backoff import Backoff
from tidemill.core.breaker import Failure
from tidemill.core.judge import (
    HELD_WAIT,
    SNOOZED_AT_MOST,
    UNFIT_WAIT,
    judge_failure,
    judge_misfit,
    judge_snooze,
    killed,
)
from tidemill.model import Dead, Later, Verdict

EXACT = Backoff(attempts=4, first=1.0, factor=3.0, jitter=1.0)


def failed(
    attempt: int,
    *,
    burns: bool = True,
    may_die: bool = True,
    retry: Backoff = EXACT,
    delay: float | None = None,
) -> Verdict:
    failure = Failure(burns, may_die)
    return judge_failure("boom", attempt=attempt, failure=failure, retry=retry, random=Random(1), delay=delay)


# --- failures -----------------------------------------------------------------------------------------------


def test_a_failure_comes_again_later_each_time_until_it_is_dead() -> None:
    assert [failed(n) for n in range(4)] == [
        Later(1.0, "boom"),
        Later(3.0, "boom"),
        Later(9.0, "boom"),
        Dead("failed 4 times: boom"),
    ]


def test_the_handler_may_say_when_but_not_how_often() -> None:
    assert failed(0, delay=0.5) == Later(0.5, "boom")
    assert failed(3, delay=0.5) == Dead("failed 4 times: boom")


def test_in_an_outage_nothing_counts_and_nothing_dies() -> None:
    assert failed(0, burns=False) == Later(1.0, "boom", attempt=False)
    assert failed(3, burns=False, may_die=True) == Later(1.0, "boom", attempt=False)
    assert failed(3, burns=False, delay=7.0) == Later(7.0, "boom", attempt=False)


def test_the_last_attempt_of_an_item_that_may_not_die_is_repeated_uncounted() -> None:
    assert failed(3, may_die=False) == Later(HELD_WAIT, "boom", attempt=False)
    assert failed(40, may_die=False) == Later(HELD_WAIT, "boom", attempt=False)
    assert failed(2, may_die=False) == Later(9.0, "boom"), "only the last one"


@pytest.mark.parametrize("burns", [True, False])
def test_who_wants_one_attempt_gets_one(burns: bool) -> None:
    assert failed(0, burns=burns, may_die=False, retry=Backoff(attempts=1)) == Dead("failed: boom")


def test_waits_are_spread() -> None:
    retry = Backoff(attempts=9, first=10.0, jitter=0.5)
    waits = set()
    for seed in range(50):
        verdict = judge_failure("boom", attempt=0, failure=Failure(True, True), retry=retry, random=Random(seed))
        assert isinstance(verdict, Later)
        waits.add(verdict.delay)
    assert len(waits) > 40
    assert all(5.0 <= wait <= 10.0 for wait in waits)


# --- misfits ------------------------------------------------------------------------------------------------


def test_bytes_that_are_no_json_are_dead_at_once() -> None:
    assert judge_misfit("the body is not JSON", no_json=True, reason="") == Dead("the body is not JSON")


def test_json_that_does_not_fit_waits_once_for_a_newer_release() -> None:
    first = judge_misfit("amount: field required", no_json=False, reason="")
    assert first == Later(UNFIT_WAIT, "unfit: amount: field required", attempt=False)
    second = judge_misfit("amount: field required", no_json=False, reason=first.reason)
    assert second == Dead("unfit: amount: field required")


def test_a_failure_before_does_not_count_as_a_wait() -> None:
    assert isinstance(judge_misfit("amount: field required", no_json=False, reason="boom"), Later)


# --- snoozes and killers ------------------------------------------------------------------------------------


def test_a_snooze_is_granted_for_two_weeks() -> None:
    snooze = Later(60.0, "not yet", attempt=False)
    sent = 1_000_000.0
    assert judge_snooze(snooze, sent_at=sent, now=sent + SNOOZED_AT_MOST) is snooze
    late = judge_snooze(snooze, sent_at=sent, now=sent + SNOOZED_AT_MOST + 1)
    assert late == Dead("snoozed for more than 14 days: not yet")


@pytest.mark.parametrize("deliveries", [1, 2, 5])
def test_deliveries_without_a_verdict_are_tried_five_times(deliveries: int) -> None:
    assert killed(deliveries) is None


@pytest.mark.parametrize("deliveries", [6, 7])
def test_the_sixth_is_dead_before_it_runs(deliveries: int) -> None:
    assert killed(deliveries) == Dead("the process ended during it")
