"""Timer records: what is claimed when, by whom, and what a change of mind does to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.schedule import every
from tidemill.core.timer import (
    Adopt,
    Claim,
    ClaimWish,
    Control,
    Lose,
    Retake,
    Rules,
    Skip,
    Step,
    Timer,
    adopt,
    again,
    begin,
    claim,
    claim_wish,
    control_key,
    control_of,
    decide,
    end,
    from_value,
    give_back,
    key_of,
    pause,
    preferred,
    resume,
    retake,
    run_now,
    skip,
)
from tidemill.errors import FormatTooNew
from tidemill.model import FORMAT

NOON = 1_780_315_200.0
TEN = Rules(every(10))
NEW = begin(TEN.schedule, "a", NOON)
NO_WISH = Control()
TAKEN = claim(NEW, NOON + 10, member="a", nonce="n1", past_due=False)


def step(
    timer: Timer,
    now: float,
    *,
    rules: Rules = TEN,
    control: Control = NO_WISH,
    dead: bool = False,
    may_adopt: bool = False,
) -> Step | None:
    return decide(timer, rules, control, now=now, owner_is_dead=dead, may_adopt=may_adopt)


# --- claims -------------------------------------------------------------------------------------------------


def test_a_new_timer_starts_from_now() -> None:
    assert NEW.state == "done"
    assert step(NEW, NOON + 9.999) is None
    assert step(NEW, NOON + 10) == Claim(NOON + 10, False, 0)


def test_an_occurrence_is_claimed_once() -> None:
    assert (TAKEN.state, TAKEN.last, TAKEN.at, TAKEN.attempts) == ("running", NOON + 10, NOON + 10, 1)
    assert step(end(TAKEN), NOON + 10) is None
    assert step(end(TAKEN), NOON + 20) == Claim(NOON + 20, False, 0)


def test_what_runs_is_not_taken_from_the_living() -> None:
    assert step(TAKEN, NOON + 500) is None


def test_a_clock_that_goes_back_reruns_nothing() -> None:
    assert step(end(TAKEN), NOON) is None
    assert step(end(TAKEN), NOON - 86_400) is None


@pytest.mark.parametrize(
    ("misfire", "expected"),
    [
        ("once", Claim(NOON + 100, True, 9)),
        ("all", Claim(NOON + 10, True, 0)),
        ("skip", Skip(NOON + 100, 10)),
    ],
)
def test_a_clock_that_jumps_ahead_is_a_misfire(misfire: Literal["skip", "once", "all"], expected: Step) -> None:
    found = step(NEW, NOON + 105, rules=replace(TEN, misfire=misfire))
    assert found == expected
    if isinstance(found, Skip):
        assert step(skip(NEW, found.at), NOON + 105, rules=replace(TEN, misfire=misfire)) is None


def test_what_a_dead_owner_ran_runs_again_as_the_next_attempt() -> None:
    assert step(TAKEN, NOON + 15, dead=True) == Retake(buried=True)
    taken = retake(TAKEN, member="b", nonce="n2")
    assert (taken.owner, taken.nonce, taken.attempts, taken.at) == ("b", "n2", 2, NOON + 10)


def test_what_may_run_at_most_once_is_lost_with_its_owner() -> None:
    assert step(TAKEN, NOON + 15, rules=replace(TEN, once="at_most"), dead=True) == Lose()


@pytest.mark.parametrize("once", ["at_least", "at_most"])
def test_what_was_given_back_is_taken_at_once(once: Literal["at_least", "at_most"]) -> None:
    unstarted = give_back(TAKEN, counts=False)
    assert step(unstarted, NOON + 15, rules=replace(TEN, once=once)) == Retake(buried=False)
    assert retake(unstarted, member="b", nonce="n2").attempts == 1
    assert retake(give_back(TAKEN, counts=True), member="b", nonce="n2").attempts == 2


def test_further_tries_are_counted() -> None:
    assert again(again(TAKEN)).attempts == 3
    assert end(TAKEN, "x" * 900).error == "x" * 500


# --- schedules ----------------------------------------------------------------------------------------------


def test_a_changed_schedule_starts_from_now_and_keeps_the_claim() -> None:
    hourly = Rules(every(3600), misfire="all")
    now = NOON + 86_400
    assert step(end(TAKEN), now, rules=hourly, may_adopt=True) == Adopt()
    changed = adopt(TAKEN, hourly.schedule, "b", now)
    assert (changed.last, changed.setter, changed.schedule) == (now, "b", hourly.schedule.identity)
    assert (changed.state, changed.owner, changed.nonce, changed.at) == ("running", "a", "n1", NOON + 10)
    assert step(end(changed), now + 3599, rules=hourly) is None
    assert step(end(changed), now + 3600, rules=hourly) == Claim(now + 3600, False, 0)


def test_who_has_another_schedule_stands_aside() -> None:
    other = Rules(every(7))
    assert step(end(TAKEN), NOON + 100, rules=other) is None
    assert step(TAKEN, NOON + 100, rules=other, dead=True) == Retake(buried=True)  # but nothing is left undone


def test_a_schedule_that_is_put_in_with_a_clock_behind_reruns_nothing() -> None:
    assert adopt(end(TAKEN), every(5), "b", NOON).last == NOON + 10


# --- controls -----------------------------------------------------------------------------------------------


def test_a_pause_claims_nothing_and_is_not_caught_up() -> None:
    everything = replace(TEN, misfire="all")
    paused = pause(Control(), NOON + 1)
    assert step(NEW, NOON + 100, rules=everything, control=paused) is None
    assert pause(paused, NOON + 2) is paused
    resumed = resume(paused, NOON + 95)
    assert step(NEW, NOON + 99, rules=everything, control=resumed) is None
    assert step(NEW, NOON + 100, rules=everything, control=resumed) == Claim(NOON + 100, False, 0)
    assert resume(resumed, NOON + 200) is resumed


def test_a_wish_to_run_now_is_served_once_also_in_a_pause() -> None:
    wished = run_now(pause(Control(), NOON), "w1")
    assert step(NEW, NOON + 3, control=wished) == ClaimWish("w1")
    taken = claim_wish(NEW, "w1", NOON + 3, member="a", nonce="n1")
    assert (taken.at, taken.last, taken.attempts) == (NOON + 3, NOON, 1)
    assert step(taken, NOON + 4, control=wished) is None
    assert step(end(taken), NOON + 4, control=wished) is None
    assert step(end(taken), NOON + 4, control=run_now(wished, "w2")) == ClaimWish("w2")


def test_a_wish_waits_for_what_runs_and_takes_no_occurrence_away() -> None:
    wished = run_now(Control(), "w1")
    assert step(TAKEN, NOON + 12, control=wished) is None
    served = end(claim_wish(end(TAKEN), "w1", NOON + 25, member="a", nonce="n2"))
    assert step(served, NOON + 25, control=wished) == Claim(NOON + 20, True, 0)


# --- records ------------------------------------------------------------------------------------------------


def test_records_keep_everything_also_what_they_do_not_know() -> None:
    full = replace(TAKEN, past_due=True, ran="w", error="e", write="x")
    assert from_value(full.to_value()) == full
    assert from_value({**full.to_value(), "colour": "red"}).to_value()["colour"] == "red"
    control = run_now(pause(Control(), NOON), "w1")
    assert control_of(control.to_value("x")) == control
    assert control_of(None) == Control()
    assert (key_of("t"), control_key("t")) == ("timer/t", "control/timer/t")


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(FormatTooNew, match="timer record"):
        from_value({**TAKEN.to_value(), "format": FORMAT + 1})
    with pytest.raises(FormatTooNew, match="control"):
        control_of({"format": FORMAT + 1})


@given(members=st.lists(st.text(min_size=1), min_size=2, max_size=9, unique=True), name=st.text())
def test_replicas_agree_on_who_goes_first_and_a_stranger_changes_little(members: list[str], name: str) -> None:
    first = preferred(name, members)
    assert first == preferred(name, list(reversed(members)))
    assert first in members
    others = [member for member in members if member != first]
    assert preferred(name, [*others[1:], first or ""]) == first
    assert preferred(name, []) is None


def test_timers_are_spread_over_the_members() -> None:
    firsts = [preferred(f"timer {n}", ["a", "b", "c"]) for n in range(300)]
    assert all(firsts.count(member) > 60 for member in "abc")
