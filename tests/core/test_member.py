"""Member records, and one observer's patience."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.member import GAP, Member, Tombstone, Watch, from_value, mismatched, replaced
from tidemill.errors import FormatTooNew
from tidemill.model import Value

ALIVE = Member("m1", "pod-1", ("feeds", "queues"), "uid", "worker", 2, True, "fast", 12.5, "w")


def test_a_member_comes_back_as_it_was_stored() -> None:
    assert from_value(ALIVE.to_value()) == ALIVE


def test_a_tombstone_comes_back_as_it_was_stored() -> None:
    stone = Tombstone("m1", "m2", 100.0, "w")
    assert from_value(stone.to_value()) == stone


@pytest.mark.parametrize("entry", [ALIVE, Tombstone("m1", "m2", 1.0)])
def test_unknown_fields_are_kept(entry: Member | Tombstone) -> None:
    value: Value = {**entry.to_value(), "colour": ["blue", {"deep": True}]}
    found = from_value(value)
    assert found.extra == {"colour": ["blue", {"deep": True}]}
    assert found.to_value() == value


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(FormatTooNew):
        from_value({**ALIVE.to_value(), "format": 2})


def test_who_runs_in_my_container_before_me_has_ended() -> None:
    mine = Member("new", "pod", ("feeds",), "uid", "worker")
    others = [
        Member("old", "pod", ("feeds",), "uid", "worker"),
        Member("sidecar", "pod", ("feeds",), "uid", "other"),
        Member("elsewhere", "pod", ("feeds",), "uid-2", "worker"),
        mine,
    ]
    assert replaced(mine, others) == ["old"]


def test_without_a_pod_nobody_is_replaced() -> None:
    mine = Member("new", "host", ("feeds",))
    assert replaced(mine, [Member("old", "host", ("feeds",))]) == []


def test_another_clockwork_is_seen_in_shared_groups_only() -> None:
    mine = Member("a", "a", ("feeds",))
    same_group = Member("b", "b", ("feeds", "api"), profile="fast")
    other_group = Member("c", "c", ("queues",), profile="fast")
    assert mismatched(mine, [mine, same_group, other_group]) == [same_group]


def watched(watch: Watch, seconds: range, versions: dict[str, str]) -> dict[int, list[tuple[str, str]]]:
    """What may be buried at each second, where anything may."""
    seen = {t: watch.saw(versions, sent=float(t), received=float(t)) for t in seconds}
    return {t: due for t, due in seen.items() if due}


def test_a_version_that_stands_still_may_be_buried() -> None:
    assert next(iter(watched(Watch(14.0), range(20), {"m": "v1"}).items())) == (14, [("m", "v1")])


def test_a_renewal_starts_the_wait_anew() -> None:
    watch = Watch(14.0)
    assert not watched(watch, range(14), {"m": "v1"})
    assert not watched(watch, range(14, 28), {"m": "v2"})
    assert watched(watch, range(28, 30), {"m": "v2"}) == {28: [("m", "v2")], 29: [("m", "v2")]}


def test_a_gap_between_reads_starts_every_wait_anew() -> None:
    watch = Watch(14.0)
    assert not watched(watch, range(13), {"m": "v1", "n": "v1"})
    after = 13 + int(GAP)
    assert not watched(watch, range(after, after + 14), {"m": "v1", "n": "v1"})
    assert set(watch.saw({"m": "v1", "n": "v1"}, sent=after + 14, received=after + 14)) == {("m", "v1"), ("n", "v1")}


def test_slow_reads_count_from_reply_to_request() -> None:
    watch = Watch(14.0)
    watch.saw({"m": "v1"}, sent=0.0, received=2.0)
    for t in range(2, 15, 2):
        assert not watch.saw({"m": "v1"}, sent=float(t), received=t + 2.0)
    assert watch.saw({"m": "v1"}, sent=16.0, received=18.0) == [("m", "v1")]


def test_who_is_certainly_gone_may_be_buried_at_once() -> None:
    assert Watch(14.0).saw({"m": "v1", "n": "v1"}, {"m"}, sent=0.0, received=0.0) == [("m", "v1")]


@given(
    reads=st.lists(st.tuples(st.floats(0.1, 5.0), st.floats(0.0, 2.0), st.sampled_from("ab")), max_size=80),
)
def test_nobody_is_buried_early(reads: list[tuple[float, float, str]]) -> None:
    """Whatever is read when: the same version was seen for 14 s, and the observer was never away in between."""
    watch, now = Watch(14.0), 0.0
    history: list[tuple[float, float, str]] = []
    for pause, latency, version in reads:
        sent, now = now + pause, now + pause + latency
        history.append((sent, now, version))
        if watch.saw({"m": version}, sent=sent, received=now):
            run = [history[-1]]
            for entry in reversed(history[:-1]):
                if entry[2] != version or run[0][1] - entry[1] > GAP:
                    break
                run.insert(0, entry)
            assert sent - run[0][1] >= 14.0
