"""The breaker: an outage burns no attempts, a poisonous item is told from one only beside others, or by time."""

from __future__ import annotations

from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.backoff import Backoff
from tidemill.core.breaker import LONGEST_TRIAL, OPEN_AT_MOST, REMEMBERED, Breaker, Failure
from tidemill.core.judge import judge_failure
from tidemill.model import Dead, Later

COUNTS = Failure(burns=True, may_die=False)
FREE = Failure(burns=False, may_die=False)


def broken(now: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    for n in range(10):
        breaker.failure(f"item{n % 3}", "down", now)
    assert breaker.state(now) == "open"
    return breaker


# --- opening and closing ------------------------------------------------------------------------------------


def test_ten_failures_in_a_row_over_three_items_open_it() -> None:
    breaker = Breaker()
    found = [breaker.failure(f"item{n % 3}", "down", n * 0.1) for n in range(10)]
    assert found == [COUNTS] * 9 + [FREE]
    assert breaker.allow(1.0) == 0
    assert breaker.state(1.0) == "open"
    assert breaker.error == "down"


def test_two_items_do_not_open_it_however_often_they_fail() -> None:
    breaker = Breaker()
    assert all(breaker.failure(f"item{n % 2}", "down", n).burns for n in range(100))
    assert breaker.allow(100.0) is None
    assert breaker.next_at(100.0) is None


def test_a_success_between_begins_the_count_anew() -> None:
    breaker = Breaker()
    for n in range(40):
        assert breaker.failure(f"item{n}", "down", n).burns
        if n % 9 == 8:
            breaker.success("other", n)
    assert breaker.allow(40.0) is None


def test_one_trial_at_a_time_each_later_than_the_last() -> None:
    breaker, now, waits = broken(), 0.0, []
    for _ in range(9):
        assert breaker.allow(now) == 0
        due = breaker.next_at(now)
        assert due is not None
        waits.append(due - now)
        assert breaker.allow(due - 0.001) == 0
        assert breaker.allow(due) == 1
        assert breaker.state(due) == "trial"
        now = due
        assert breaker.failure("item1", "down", now) == FREE
    assert waits == [1, 2, 4, 8, 16, 32, LONGEST_TRIAL, LONGEST_TRIAL, LONGEST_TRIAL]


def test_what_was_begun_before_it_opened_moves_no_trial() -> None:
    breaker = broken()
    for n in range(30):
        assert not breaker.failure(f"late{n}", "down", 0.5).burns
    assert breaker.next_at(0.5) == 1.0


def test_a_batch_that_fails_in_a_trial_is_one_trial() -> None:
    breaker = broken()
    for n in range(30):
        breaker.failure(f"batch{n}", "down", 1.0)
    assert breaker.next_at(1.0) == 3.0


def test_a_success_closes_it_at_once() -> None:
    breaker = broken()
    breaker.success("item1", 1.0)
    assert (breaker.allow(1.0), breaker.state(1.0), breaker.error) == (None, "closed", "")
    assert breaker.failure("item2", "down", 1.1).burns


def test_after_fifteen_minutes_failures_count_again_until_something_passes() -> None:
    breaker = broken()
    assert breaker.allow(OPEN_AT_MOST - 0.1) == 1
    assert breaker.allow(OPEN_AT_MOST) is None
    for n in range(50):
        assert breaker.failure(f"item{n % 3}", "down", OPEN_AT_MOST + n) == Failure(burns=True, may_die=True)
    breaker.success("item1", 2000.0)
    for n in range(10):
        breaker.failure(f"new{n}", "down", 2001.0)
    assert breaker.allow(2001.0) == 0, "whole again, it opens again"


# --- poison -------------------------------------------------------------------------------------------------


def test_an_item_that_fails_beside_others_that_pass_may_die() -> None:
    breaker = Breaker()
    assert not breaker.failure("bad", "boom", 0.0).may_die
    breaker.success("good", 1.0)
    assert breaker.failure("bad", "boom", 2.0).may_die


def test_an_item_that_fails_alone_may_die_after_five_minutes() -> None:
    breaker = Breaker()
    assert not breaker.failure("bad", "boom", 0.0).may_die
    assert not breaker.failure("bad", "boom", 299.9).may_die
    assert breaker.failure("bad", "boom", 300.0).may_die


def test_a_success_as_the_outage_began_condemns_nobody() -> None:
    breaker = Breaker()
    breaker.failure("a", "down", 0.0)
    breaker.success("begun before", 0.1)
    breaker.failure("a", "down", 1.0)
    assert not breaker.failure("a", "down", 4.0).may_die


def test_what_a_key_did_yesterday_does_not_count() -> None:
    breaker = Breaker()
    breaker.failure("key", "down", 0.0)
    breaker.success("other", 1.0)
    day = 86_400.0
    breaker.failure("key", "down", day)
    assert not breaker.failure("key", "down", day + 1).may_die


def test_its_own_success_proves_nothing_about_others() -> None:
    breaker = Breaker()
    breaker.failure("key", "down", 0.0)
    breaker.success("key", 1.0)
    assert not breaker.failure("key", "down", 2.0).may_die


@given(
    st.lists(st.tuples(st.sampled_from(["ok", "fail"]), st.integers(0, 30), st.floats(0, 400)), min_size=1, max_size=80)
)
def test_no_item_that_goes_on_failing_is_held_for_ever(events: list[tuple[str, int, float]]) -> None:
    """Whatever the others do: tried every 30 s, it may die within five minutes and one try of the last success."""
    breaker, now = Breaker(), 0.0
    for kind, item, pause in events:
        now += pause
        if kind == "ok":
            breaker.success(f"item{item}", now)
        else:
            breaker.failure(f"item{item}", "down", now)
    found = [breaker.failure("bad", "boom", now + 30.0 * n).may_die for n in range(12)]
    assert any(found)


def test_what_it_remembers_is_bounded() -> None:
    breaker = Breaker()
    for n in range(3 * REMEMBERED):
        breaker.failure(f"item{n}", "down", 0.0)
        if n % 2500 == 0:
            breaker.success("good", 0.0)
    assert len(breaker._failing) <= REMEMBERED
    assert len(breaker._outpaced) <= REMEMBERED
    breaker.success("good", 1.0)
    assert breaker.failure(f"item{3 * REMEMBERED - 1}", "down", 2.0).may_die, "the newest are kept"


# --- outages, played through --------------------------------------------------------------------------------


class Play:
    """A queue, a worker with so many slots, and a dependency that is away for a while. Pure, second by second."""

    def __init__(self, items: int, *, slots: int, retry: Backoff, away: tuple[float, float], poison: int = 0) -> None:
        self.random = Random(items)
        self.breaker = Breaker()
        self.slots = slots
        self.retry = retry
        self.away = away
        self.poison = {f"poison{n}" for n in range(poison)}
        self.due: list[tuple[float, str]] = []
        self.attempts: dict[str, int] = {}
        self.dead: dict[str, float] = {}
        self.done: dict[str, float] = {}
        for n in range(items):
            self.enter(f"item{n}", n * 0.25)
        for name in self.poison:
            self.enter(name, 0.0)

    def enter(self, name: str, at: float) -> None:
        self.attempts[name] = 0
        heappush(self.due, (at, name))

    def run(self, until: float) -> None:
        now = 0.0
        running: list[tuple[float, str]] = []
        while now < until:
            while running and running[0][0] <= now:
                self.end(heappop(running)[1], now)
            allowed = self.breaker.allow(now)
            room = (self.slots if allowed is None else allowed) - len(running)
            while room > 0 and self.due and self.due[0][0] <= now:
                heappush(running, (now + 0.2, heappop(self.due)[1]))
                room -= 1
            now = round(now + 0.1, 1)

    def end(self, name: str, now: float) -> None:
        if name not in self.poison and not self.away[0] <= now < self.away[1]:
            self.breaker.success(name, now)
            self.done[name] = now
            return
        failure = self.breaker.failure(name, "down", now)
        match judge_failure("down", attempt=self.attempts[name], failure=failure, retry=self.retry, random=self.random):
            case Later(delay, _, counts):
                self.attempts[name] += counts
                heappush(self.due, (now + delay, name))
            case Dead():
                self.dead[name] = now


@pytest.mark.parametrize("slots", [1, 4, 32])
@pytest.mark.parametrize("retry", [Backoff(), Backoff(attempts=3), Backoff(attempts=2)])
def test_ten_minutes_without_a_dependency_kill_nothing(slots: int, retry: Backoff) -> None:
    play = Play(400, slots=slots, retry=retry, away=(30.0, 630.0))
    play.run(1000.0)
    assert not play.dead
    assert len(play.done) == 400
    assert min(at for at in play.done.values() if at > 30) < 630 + LONGEST_TRIAL + 1
    assert max(play.attempts.values()) <= 9


@pytest.mark.parametrize("slots", [1, 8])
def test_poison_dies_beside_others_within_its_attempts(slots: int) -> None:
    play = Play(200, slots=slots, retry=Backoff(attempts=5), away=(0.0, 0.0), poison=2)
    play.run(400.0)
    assert set(play.dead) == play.poison
    assert len(play.done) == 200
    assert all(at < 100 for at in play.dead.values())


@pytest.mark.parametrize("poison", [1, 2])
def test_a_few_items_that_fail_alone_die_after_five_minutes(poison: int) -> None:
    play = Play(0, slots=4, retry=Backoff(attempts=3), away=(0.0, 0.0), poison=poison)
    play.run(600.0)
    assert set(play.dead) == play.poison
    assert all(300 <= at <= 335 for at in play.dead.values())


def test_what_lasts_longer_than_fifteen_minutes_is_no_outage() -> None:
    play = Play(20, slots=4, retry=Backoff(attempts=3), away=(0.0, 1e9))
    play.run(1300.0)
    assert len(play.dead) == 20
    assert min(play.dead.values()) >= OPEN_AT_MOST
