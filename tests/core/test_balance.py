"""The division of work: even, stable, the same for all, and with few moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tidemill.core.balance import Division, Slot, place, plan, quotas

Feeds = Mapping[str, Division]


def fleet(members: int, *, weight: int = 1) -> dict[str, int]:
    return {f"m{n}": weight for n in range(members)}


def division(weights: Mapping[str, int], owners: Mapping[str, str | None]) -> Division:
    return Division(weights, {p: Slot(owner) for p, owner in owners.items()})


def free(count: int) -> dict[str, str | None]:
    return {f"{n:02}": None for n in range(count)}


def carried_out(feeds: Feeds) -> Feeds:
    """All plans at once: what is released goes to who was named; what is free to who should claim it."""
    members = {m for feed in feeds.values() for m in feed.weights}
    slots = {name: dict(feed.slots) for name, feed in feeds.items()}
    for member in sorted(members):
        mine = plan(member, feeds)
        for name in feeds:
            for partition in mine.claims[name]:
                assert slots[name][partition].owner is None, "claimed by two"
                slots[name][partition] = Slot(member)
            for partition, onward in mine.releases[name]:
                slots[name][partition] = Slot(None, onward)
    return {name: Division(feed.weights, slots[name]) for name, feed in feeds.items()}


def settled(feeds: Feeds, rounds: int = 2) -> Feeds:
    for _ in range(rounds):
        feeds = carried_out(feeds)
    return feeds


def counts(feed: Division) -> Counter[str]:
    found = Counter(dict.fromkeys(feed.weights, 0))
    found.update(slot.owner for slot in feed.slots.values() if slot.owner is not None)
    return found


def moves(before: Feeds, after: Feeds) -> int:
    return sum(
        slot.owner is not None and after[name].slots[p].owner != slot.owner
        for name, feed in before.items()
        for p, slot in feed.slots.items()
    )


@st.composite
def fleets(draw: st.DrawFn) -> Feeds:
    """Some feeds, owned by members that live, members that are not in the fleet, or nobody."""
    weights = {f"m{n}": draw(st.integers(1, 3)) for n in range(draw(st.integers(1, 6)))}
    owner = st.sampled_from([*weights, "leaving", None])
    feeds = {}
    for n in range(draw(st.integers(1, 4))):
        group = {m: w for m, w in weights.items() if draw(st.integers(0, 4))} or weights
        count = draw(st.integers(1, 17))
        feeds[f"f{n}"] = division(group, {f"{p:02}": draw(owner) for p in range(count)})
    return feeds


def unweighted(feeds: Feeds) -> Feeds:
    return {name: replace(feed, weights=dict.fromkeys(feed.weights, 1)) for name, feed in feeds.items()}


def without_strangers(feeds: Feeds) -> Feeds:
    """As if every owner that is not in the feed's fleet had released."""
    return {
        name: division(f.weights, {p: s.owner if s.owner in f.weights else None for p, s in f.slots.items()})
        for name, f in feeds.items()
    }


def test_sixteen_over_three() -> None:
    feeds = settled({"f": division(fleet(3), free(16))})
    assert sorted(counts(feeds["f"]).values()) == [5, 5, 6]


def test_a_newcomer_gets_its_share_and_nothing_else_moves() -> None:
    before = settled({"f": division(fleet(3), free(16))})
    joined = {"f": replace(before["f"], weights=fleet(4))}
    after = settled(joined)
    assert sorted(counts(after["f"]).values()) == [4, 4, 4, 4]
    assert moves(joined, after) == 4


def test_who_dies_leaves_its_share_to_the_rest() -> None:
    before = settled({"f": division(fleet(4), free(16))})
    dead = {p: None if slot.owner == "m3" else slot.owner for p, slot in before["f"].slots.items()}
    after = settled({"f": division(fleet(3), dead)})
    assert sorted(counts(after["f"]).values()) == [5, 5, 6]
    assert moves({"f": division(fleet(3), dead)}, after) == 0


def test_many_small_feeds_do_not_end_in_one_place() -> None:
    weights = fleet(3)
    alone = {f"f{n}": division(weights, {"0": "m0"}) for n in range(9)}
    after = settled(alone)
    assert sum((counts(feed) for feed in after.values()), Counter()) == {"m0": 3, "m1": 3, "m2": 3}
    assert moves(alone, after) == 6


def test_weights_are_shares() -> None:
    feeds = settled({"f": division({"small": 1, "large": 3}, free(16))})
    assert counts(feeds["f"]) == {"small": 4, "large": 12}


def test_quiet_partitions_are_released_first() -> None:
    feeds = {"f": division(fleet(2), {f"{n:02}": "m0" for n in range(8)})}
    busy = {"00", "01", "03", "04", "06"}
    mine = plan("m0", feeds, cost=lambda _, partition: float(partition in busy))
    assert [p for p, _ in mine.releases["f"]] == ["02", "05", "07", "00"]
    assert {taker for _, taker in mine.releases["f"]} == {"m1"}


def test_what_was_released_to_somebody_is_theirs_while_they_have_room() -> None:
    slots = {f"{n:02}": Slot(None, "m1") for n in range(4)}
    targets = place("f", Division(fleet(2), slots), {"m0": 2, "m1": 2})
    assert [targets[p] for p in sorted(targets)] == ["m1", "m1", "m0", "m0"]


def test_who_is_leaving_releases_everything_and_claims_nothing() -> None:
    feeds = {"f": division(fleet(2), {"0": "leaving", "1": "leaving", "2": None, "3": "m0"})}
    mine = plan("leaving", feeds)
    assert not mine.claims["f"]
    assert sorted(p for p, _ in mine.releases["f"]) == ["0", "1"]


def test_with_nobody_to_take_it_nothing_is_released() -> None:
    mine = plan("leaving", {"f": division({}, {"0": "leaving", "1": None})})
    assert (mine.claims["f"], mine.releases["f"]) == ([], [])


@given(fleets())
def test_quotas_are_floor_or_ceiling_of_the_share(feeds: Feeds) -> None:
    for name, quota in quotas(feeds).items():
        weights, count = feeds[name].weights, len(feeds[name].slots)
        assert sum(quota.values()) == count
        for member, held in quota.items():
            exact = count * weights[member] / sum(weights.values())
            assert abs(held - exact) < 1


@given(fleets())
def test_equal_members_differ_by_one_at_most(feeds: Feeds) -> None:
    for feed in settled(without_strangers(unweighted(feeds))).values():
        held = counts(feed).values()
        assert max(held) - min(held) <= 1


@given(fleets())
def test_the_whole_load_differs_by_one_at_most_where_all_work_all(feeds: Feeds) -> None:
    weights = {m: 1 for feed in feeds.values() for m in feed.weights}
    shared = {name: replace(feed, weights=weights) for name, feed in feeds.items()}
    total = sum((counts(feed) for feed in settled(without_strangers(shared)).values()), Counter())
    held = [total[m] for m in weights]
    assert max(held) - min(held) <= 1


ONE_IS_STRONG = {"m0": 1, "m1": 1, "m2": 1, "m3": 1, "m4": 2}


@settings(max_examples=500)
@example({  # a free partition that is on its way must not set another one in motion
    "f0": division({"m0": 1}, {"00": "m0"}),
    "f1": division(ONE_IS_STRONG, {"00": "m1"}),
    "f2": division(ONE_IS_STRONG, {"00": "m0"}),
})  # fmt: skip
@example({  # two release at once: together they name nobody more often than there is room
    "f0": division({**ONE_IS_STRONG, "m4": 3}, {f"{n:02}": "m1" if n % 4 == 3 else "m0" for n in range(16)}),
})  # fmt: skip
@given(fleets())
def test_what_was_carried_out_is_a_fixed_point(feeds: Feeds) -> None:
    after = settled(without_strangers(feeds))
    assert moves(after, carried_out(after)) == 0
    assert all(slot.owner is not None for feed in after.values() for slot in feed.slots.values())


@given(fleets())
def test_all_compute_the_same(feeds: Feeds) -> None:
    shuffled = {
        name: Division(dict(reversed(list(feed.weights.items()))), dict(reversed(list(feed.slots.items()))))
        for name, feed in reversed(list(feeds.items()))
    }
    assert quotas(feeds) == quotas(shuffled)
    claimed: dict[tuple[str, str], str] = {}
    for member in {m for feed in feeds.values() for m in feed.weights}:
        mine, theirs = plan(member, feeds), plan(member, shuffled)
        assert (mine.claims, mine.releases) == (theirs.claims, theirs.releases)
        for name, partitions in mine.claims.items():
            for partition in partitions:
                assert claimed.setdefault((name, partition), member) == member


@settings(max_examples=200)
@given(st.integers(1, 40), st.integers(1, 7), st.integers(1, 7))
def test_few_moves_when_the_fleet_changes(count: int, before: int, after: int) -> None:
    """One feed: as few moves as any even division needs."""
    old = settled({"f": division(fleet(before), free(count))})
    staying = {p: s.owner if s.owner in fleet(after) else None for p, s in old["f"].slots.items()}
    changed = {"f": division(fleet(after), staying)}
    new = settled(changed)
    held = counts(changed["f"])
    floor, extras = divmod(count, after)
    surplus = sorted((held[m] for m in fleet(after)), reverse=True)
    ideal = sum(max(h - floor - (n < extras), 0) for n, h in enumerate(surplus))
    assert moves(changed, new) == ideal
