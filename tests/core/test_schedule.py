"""Schedules: intervals do not drift, cron follows the wall clock, missed occurrences are chosen purely."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tidemill.core.schedule import MOST_MISSED, Planned, cron, due, every, grace
from tidemill.errors import ConfigurationError

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp()


def runs(expression: str, tz: str, day: str, days: int = 1) -> list[str]:
    """The occurrences within local days: wall time and offset in hours of each."""
    zone = ZoneInfo(tz)
    start = datetime.fromisoformat(day).replace(tzinfo=zone).timestamp()
    schedule = cron(expression, tz)
    end = start + days * 86_400
    at = [datetime.fromtimestamp(t, zone) for t in schedule.between(start - 1, end, 100_000)]
    return [f"{t:%H:%M}{(t - t.replace(tzinfo=UTC)).total_seconds() / -3600:+g}" for t in at]


# --- intervals ----------------------------------------------------------------------------------------------


def test_ten_tenths_of_a_second_are_a_second() -> None:
    schedule = every(0.1)
    at = NOON
    for _ in range(36_000):
        at = schedule.next(at)
    assert at == NOON + 3600


@given(
    after=st.floats(0, 4e9, allow_nan=False),
    interval=st.one_of(st.floats(0.001, 1e6), st.sampled_from([0.1, 0.3, 1 / 3, 1.0, 30.0, 86_400.0])),
)
def test_an_interval_names_the_next_multiple_and_nothing_between(after: float, interval: float) -> None:
    schedule = every(interval)
    found = schedule.next(after)
    step = schedule.micros / 1_000_000
    assert after < found <= after + step + 1e-6
    assert schedule.next(found) == pytest.approx(found + step, abs=1e-6)
    assert schedule.next(found) > found


def test_every_replica_names_the_same_occurrence_of_an_interval() -> None:
    assert every(30).next(NOON + 0.5) == every(30).next(NOON + 29.9) == NOON + 30
    assert every(30).next(NOON) == NOON + 30


@pytest.mark.parametrize("interval", [0, -1, 0.0001, float("nan"), float("inf")])
def test_an_interval_that_is_none_is_refused(interval: float) -> None:
    with pytest.raises(ConfigurationError, match="every"):
        every(interval)


# --- cron ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tz", "spring", "autumn", "in_spring", "in_autumn"),
    [
        ("Europe/Berlin", "2026-03-29", "2026-10-25", "03:00+2", "02:30+2"),
        ("America/New_York", "2026-03-08", "2026-11-01", "03:00-4", "02:30-5"),
        ("Australia/Lord_Howe", "2026-10-04", "2026-04-05", "02:30+11", "02:30+10.5"),
    ],
)
def test_half_past_two_runs_once_on_both_nights(
    tz: str, spring: str, autumn: str, in_spring: str, in_autumn: str
) -> None:
    assert runs("30 2 * * *", tz, spring) == [in_spring]
    assert runs("30 2 * * *", tz, autumn) == [in_autumn]
    assert runs("0 30 2 * * *", tz, spring) == [in_spring]
    assert runs("0 30 2 * * *", tz, autumn) == [in_autumn]


def test_a_fixed_time_in_the_repeated_hour_runs_the_first_time() -> None:
    assert runs("30 1 * * *", "America/New_York", "2026-11-01") == ["01:30-4"]
    assert runs("45 1 * * *", "Australia/Lord_Howe", "2026-04-05") == ["01:45+11"]
    assert runs("*/30 2 * * *", "Europe/Berlin", "2026-10-25") == ["02:00+2", "02:30+2"]
    assert runs("15 0 2 * * *", "Europe/Berlin", "2026-10-25") == ["02:00+2"]


def test_each_half_hour_runs_in_both_passes_and_not_in_the_gap() -> None:
    night = runs("*/30 * * * *", "Europe/Berlin", "2026-10-25", 1)
    assert night[2:9] == ["01:00+2", "01:30+2", "02:00+2", "02:30+2", "02:00+1", "02:30+1", "03:00+1"]
    assert runs("*/30 * * * *", "Europe/Berlin", "2026-03-29")[2:6] == [
        "01:00+1",
        "01:30+1",
        "03:00+2",
        "03:30+2",
    ]


def test_each_hour_runs_in_both_passes_and_not_in_the_gap() -> None:
    assert runs("0 * * * *", "America/New_York", "2026-11-01")[:4] == [
        "00:00-4",
        "01:00-4",
        "01:00-5",
        "02:00-5",
    ]
    assert runs("0 * * * *", "America/New_York", "2026-03-08")[:4] == [
        "00:00-5",
        "01:00-5",
        "03:00-4",
        "04:00-4",
    ]
    lord_howe = runs("0 * * * *", "Australia/Lord_Howe", "2026-10-04")
    assert lord_howe[:4] == ["00:00+10.5", "01:00+10.5", "02:30+11", "03:00+11"]  # 02:00 is in the gap
    assert runs("*/30 * * * *", "Australia/Lord_Howe", "2026-04-05")[2:6] == [
        "01:00+11",
        "01:30+11",
        "01:30+10.5",
        "02:00+10.5",
    ]


def test_all_times_of_one_gap_are_one_occurrence() -> None:
    assert runs("*/10 2 * * *", "Europe/Berlin", "2026-03-29") == ["03:00+2"]
    assert runs("15 * * * *", "Europe/Berlin", "2026-03-29")[1:4] == ["01:15+1", "03:00+2", "03:15+2"]


def test_a_whole_day_that_a_country_skips_runs_at_its_end() -> None:
    assert runs("0 12 30 12 *", "Pacific/Apia", "2011-12-29", 3) == ["00:00+14"]


def test_seconds_stand_first() -> None:
    assert cron("10 * * * * *").between(NOON, NOON + 180, 9) == [NOON + 10, NOON + 70, NOON + 130]
    assert cron("*/20 0 * * * *").between(NOON - 1, NOON + 180, 9) == [NOON, NOON + 20, NOON + 40]
    second = runs("*/30 59 * * * *", "Europe/Berlin", "2026-10-25")
    assert second[4:8] == ["02:59+2", "02:59+2", "02:59+1", "02:59+1"]


def test_an_expression_for_each_second_misses_none_in_the_repeated_hour() -> None:
    start = datetime(2026, 10, 24, 22, tzinfo=UTC).timestamp()
    found = cron("* * * * * *", "Europe/Berlin").between(start, start + 4 * 3600, 100_000)
    assert found == [start + n for n in range(1, 4 * 3600 + 1)]


@pytest.mark.parametrize("tz", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "*/30 * * * *", "0 * * * *", "0 15 1,2 * * *", "30 */2 * * *"])
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 365 * 86_400 * 4), step=st.floats(0.001, 90_000))
def test_next_from_anywhere_agrees_with_the_walk(expression: str, tz: str, seed: int, step: float) -> None:
    schedule = cron(expression, tz)
    start = datetime(2026, 10, 1, tzinfo=UTC).timestamp() + seed % (40 * 86_400)
    first = schedule.next(start)
    assert first > start
    between = min(start + step, first - 0.001)
    assert schedule.next(max(start, between)) == first
    assert schedule.next(first) > first


@pytest.mark.parametrize(
    ("alias", "expression"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * SUN"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@Annually", "0 0 1 1 *"),
    ],
)
def test_aliases(alias: str, expression: str) -> None:
    assert cron(alias).between(NOON, NOON + 800 * 86_400, 50) == cron(expression).between(NOON, NOON + 800 * 86_400, 50)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "0 fields"),
        ("* * *", "3 fields"),
        ("1 2 3 4 5 6 7", "7 fields"),
        ("61 * * * *", "bad minute"),
        ("* 25 * * *", "bad hour"),
        ("x * * * *", "bad minute"),
        ("*/0 * * * *", "bad minute"),
        ("0 0 30 2 *", "bad day-of-month"),
        ("@fortnightly", "no such alias"),
        ("0 0 * 2 MON#6", "bad day-of-week"),
    ],
)
def test_a_bad_expression_is_named_with_its_mistake_and_an_example(expression: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        cron(expression)
    assert repr(expression) in str(raised.value)
    assert why in str(raised.value)
    assert "0 3 * * *" in str(raised.value) or why == "no such alias"


@pytest.mark.parametrize("tz", ["Mars/Olympus", "", "../etc/passwd", "Europe"])
def test_an_unknown_time_zone_is_named(tz: str) -> None:
    with pytest.raises(ConfigurationError, match="no such time zone"):
        cron("0 3 * * *", tz)


def test_the_identity_changes_with_the_schedule_and_only_with_it() -> None:
    assert cron(" 0  3 * * mon ").identity == cron("0 3 * * MON").identity
    assert cron("0 3 * * *").identity != cron("0 3 * * *", "Europe/Berlin").identity
    assert cron("0 3 * * *").identity != cron("0 4 * * *").identity
    assert every(30).identity == every(30.0).identity != every(31).identity
    assert "30 s" in every(30).description
    assert "Europe/Berlin" in cron("0 3 * * *", "Europe/Berlin").description


# --- misfires -----------------------------------------------------------------------------------------------

TEN = every(10)


def test_nothing_is_due_before_its_time() -> None:
    assert due(TEN, NOON, NOON + 9.999, "all").run == ()
    assert due(TEN, NOON, NOON - 3600, "all").run == ()  # the clock went back


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
def test_what_is_due_in_time_runs_and_is_not_past_due(misfire: Literal["skip", "once", "all"]) -> None:
    assert due(TEN, NOON, NOON + 10.5, misfire).run == (Planned(NOON + 10, False),)


def test_skip_runs_only_what_is_due_now() -> None:
    late = due(TEN, NOON, NOON + 35, "skip")
    assert (late.run, late.skipped) == ((), 3)
    fresh = due(TEN, NOON, NOON + 31, "skip")
    assert (fresh.run, fresh.skipped) == ((Planned(NOON + 30, False),), 2)


def test_once_runs_the_newest_for_all() -> None:
    found = due(TEN, NOON, NOON + 35, "once")
    assert (found.run, found.skipped) == ((Planned(NOON + 30, True),), 2)
    assert due(TEN, NOON, NOON + 31, "once").run == (Planned(NOON + 30, True),)
    assert due(TEN, NOON, NOON + 15, "once").run == (Planned(NOON + 10, True),)


def test_all_runs_each_oldest_first() -> None:
    found = due(TEN, NOON, NOON + 31, "all")
    assert found.run == (Planned(NOON + 10, True), Planned(NOON + 20, True), Planned(NOON + 30, False))
    assert found.skipped == 0


def test_all_is_bounded_by_the_newest_thousand() -> None:
    found = due(every(1), NOON, NOON + 5000.5, "all")
    assert [each.at for each in found.run] == [NOON + 4000 + n for n in range(1, MOST_MISSED + 1)]
    assert found.skipped == MOST_MISSED  # counted up to there


def test_a_month_asleep_is_not_walked_through() -> None:
    last = NOON - 30 * 86_400
    assert len(due(cron("* * * * * *", "Europe/Berlin"), last, NOON, "all").run) == MOST_MISSED
    assert due(cron("0 3 1 1 *"), NOON - 10 * 365 * 86_400, NOON, "once").skipped == 9


def test_grace_is_a_tenth_of_the_interval_within_bounds() -> None:
    assert grace(every(1), NOON) == 2
    assert grace(every(100), NOON) == 10
    assert grace(cron("0 3 * * *"), cron("0 3 * * *").next(NOON)) == 60
