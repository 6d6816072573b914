"""Patience with hosts of another kind: who may be taken for silent, and when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.fence import Fence
from tidemill.core.foreign import Rules, Seen, Vigil

RULES = Rules()
WALL = 1_700_000_000.0


def look(vigil: Vigil, at: float, *, version: str = "a", renewed: float = 0.0, wall: float | None = None) -> bool:
    """Whether the lease may be taken after a look at this moment. The wall clock runs beside the other one."""
    now = WALL + at if wall is None else wall
    return bool(vigil.saw({"0": Seen(version, "host", WALL + renewed)}, sent=at, received=at + 0.1, now=now))


def looks(vigil: Vigil, *moments: float, **said: float) -> list[bool]:
    return [look(vigil, at, renewed=said.get("renewed", 0.0)) for at in moments]


def test_silent_for_a_minute_of_good_reads() -> None:
    assert looks(Vigil(RULES), *range(0, 66, 5)) == [False] * 13 + [True]


def test_a_new_version_starts_the_wait_anew() -> None:
    vigil = Vigil(RULES)
    assert not any(looks(vigil, *range(0, 60, 5)))
    assert not look(vigil, 60, version="b", renewed=59)
    assert not any(look(vigil, at, version="b", renewed=59) for at in range(65, 120, 5))
    assert look(vigil, 125, version="b", renewed=59)


def test_a_gap_between_two_reads_starts_the_wait_anew() -> None:
    """The first one back after an outage of the store takes nothing from those who were as cut off as it was."""
    vigil = Vigil(RULES)
    assert not any(looks(vigil, 0, 5, 10, 100, 105))
    assert looks(vigil, *range(110, 166, 5)) == [False] * 11 + [True]


def test_a_fresh_timestamp_is_respected_whatever_our_own_clock_says() -> None:
    """An old read shows an old version with the timestamp of then; a wall clock that is behind shows a fresh one."""
    vigil = Vigil(RULES)
    assert not any(look(vigil, at, wall=WALL + 30) for at in range(0, 200, 5))
    assert look(vigil, 200, wall=WALL + 61)


def test_each_change_of_hands_is_told_once() -> None:
    vigil = Vigil(RULES)
    one, two = Seen("a", "one", WALL), Seen("b", "two", WALL)
    assert vigil.news({"0": one, "1": one}) == [("0", "one"), ("1", "one")]
    assert vigil.news({"0": one, "1": one}) == []
    assert vigil.news({"0": two}) == [("0", "two")]
    assert vigil.news({"0": two, "1": one}) == [("1", "one")]


@given(st.lists(st.tuples(st.floats(0.1, 40), st.booleans()), max_size=60))
def test_nobody_who_wrote_within_a_minute_is_silent(steps: list[tuple[float, bool]]) -> None:
    vigil, at, wrote, version = Vigil(RULES), 0.0, 0.0, 0
    for pause, writes in steps:
        at += pause
        if writes:
            wrote, version = at, version + 1
        if look(vigil, at, version=str(version), renewed=wrote):
            assert at - wrote >= RULES.patience


def test_a_lease_has_a_fence_below_the_stores() -> None:
    store = Fence(10.0)
    lease = Fence(5.0, store)
    assert lease.holds(4.9)
    assert not lease.holds(5.0)
    lease.extend(0.0, 45.0)
    assert lease.holds(9.9)
    assert not lease.holds(10.0), "the store's has passed"


def test_the_numbers_leave_room_for_clocks_that_differ() -> None:
    """We write early enough for who counts 60 s from our timestamp, and stop long before."""
    assert RULES.renew <= 17 < RULES.fence < RULES.patience
    assert RULES.patience - RULES.fence >= 15
    assert RULES.look <= RULES.gap
