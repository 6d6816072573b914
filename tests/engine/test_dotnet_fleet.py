"""Our engine beside simulated hosts of .NET's change feed processor (`dotnet_world`)."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest

from tests.engine.dotnet_world import World
from tests.engine.fleet import FakeWorker
from tidemill.adapters.cosmos.dotnet import stamp
from tidemill.core import lease as records
from tidemill.engine.lease_view import LeaseView
from tidemill.engine.work import Call
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    await made.open()
    yield made
    await made.end()


def all_of(world: World, who: str) -> Callable[[], bool]:
    return lambda: world.shares() == {who: len(world.judge.items())} and len(world.judge.items()) >= 4


# --- one after the other ------------------------------------------------------------------------------------


async def test_ours_takes_over_at_once_where_dotnet_has_stopped(world: World) -> None:
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60)
    await world.pass_time(20)
    await host.stop()
    assert world.shares() == {"None": 4}
    async with world.ours():
        took = await world.until(all_of(world, "ours"), 10)
        assert took <= 5, "what was given back is free"
        await world.until(world.caught_up, 30, write=False)
        assert world.repeated() == 0
        assert {who for entries in world.seen.values() for who, _ in entries} == {"net-1", "ours"}


async def test_dotnet_takes_over_where_ours_has_stopped(world: World) -> None:
    async with world.ours():
        await world.until(all_of(world, "ours"), 20)
        await world.pass_time(30)
    assert world.shares() == {"None": 4}
    assert f"{world.prefix}.info" in {i["id"] for one in world.leases.partitions for i in world.leases.all(one)}
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 30)
    assert host.waited == 0, ".info stands there: nothing to create, nothing to wait for"
    await world.until(world.caught_up, 30, write=False)
    assert world.repeated() == 0


async def test_there_and_back_again(world: World) -> None:
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60)
    for lease in world.judge.items().values():
        lease["properties"]["team"] = "billing"
    for turn in range(2):
        await world.pass_time(10)
        await host.stop()
        async with world.ours(f"ours-{turn}", seed=turn):
            await world.until(all_of(world, "ours"), 10)
            await world.pass_time(20)
        host = world.host(f"net-{turn + 2}")
        await world.until(all_of(world, host.name), 30)
    await world.until(world.caught_up, 30, write=False)
    assert world.repeated() == 0
    leases = world.judge.items().values()
    assert [lease["properties"]["team"] for lease in leases] == ["billing"] * 4
    assert {lease["properties"]["tidemill.epoch"] for lease in leases} == {"3"}, (
        "the first, .NET's, and two claims of ours"
    )


# --- who dies -----------------------------------------------------------------------------------------------


async def test_a_host_that_died_is_taken_over_after_a_minute(world: World) -> None:
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60)
    async with world.ours() as harness:
        await world.pass_time(120)
        assert world.shares() == {"net-1": 4}, "it lives: its leases are left to it"
        told = [fact.detail for fact in harness.facts if fact.name == "foreign_owner"]
        assert told == [{"partition": p, "owner": "net-1"} for p in "0123"], "once each"
        ids = {item["id"] for one in world.leases.partitions for item in world.leases.all(one)}
        assert "tidemill|member%2Fnet-1" not in ids, "nobody buries who is no member"
        await host.kill()
        took = await world.until(all_of(world, "ours"), 100)
        assert 50 <= took <= 80
        await world.until(world.caught_up, 30, write=False)


async def test_a_host_that_is_only_idle_is_not_taken_for_dead(world: World) -> None:
    """Nothing is written: its leases change by renewals alone."""
    world.host("net-1")
    await world.until(all_of(world, "net-1"), 60, write=False)
    async with world.ours():
        await world.pass_time(300, write=False)
        assert world.shares() == {"net-1": 4}


async def test_ours_that_was_killed_is_taken_over_when_its_leases_expire(world: World) -> None:
    async with world.ours() as harness:
        await world.until(all_of(world, "ours"), 20)
        await world.pass_time(20)
        await harness.kill()
        world.host("net-1")
        await world.pass_time(15)
        host_has = world.shares().get("net-1", 0)
        assert host_has <= 2, "it counts ours as a worker while our timestamps are fresh"
        await world.until(all_of(world, "net-1"), 120)
        await world.until(world.caught_up, 30, write=False)


# --- both at once -------------------------------------------------------------------------------------------


async def test_a_lease_that_was_stolen_is_lost_and_not_written_again(world: World) -> None:
    """.NET steals from who has too much until all have the same; ours gives way and takes nothing back."""
    async with world.ours() as harness:
        await world.until(all_of(world, "ours"), 20)
        await world.pass_time(20)
        host = world.host("net-1")
        await world.until(lambda: world.shares() == {"ours": 2, "net-1": 2}, 120)
        assert len(host.stolen) >= 2
        await world.pass_time(8)
        assert len(harness.engine.leases.held) == 2  # type: ignore[union-attr]
        handed = {token: list(owners) for token, owners in world.judge.owners.items()}
        await world.pass_time(120)
        assert world.shares() == {"ours": 2, "net-1": 2}, "they stand still"
        assert dict(world.judge.owners) == handed
        assert host.lost == [], "nothing of ours was written under a lease of its"
        await host.stop()
        await world.until(all_of(world, "ours"), 15)
        await world.until(world.caught_up, 30, write=False)


async def test_what_a_stranger_holds_is_not_divided() -> None:
    """It would count for the shares of our members, and some would hold more than theirs of the rest."""
    view = LeaseView(FakeWorker("bill", ["0", "1", "2"], FakeClock()), 1.0)
    lease = records.created("5")
    view.leases = {
        "0": ("v0", replace(lease, owner="net-1", foreign=True)),
        "1": ("v1", replace(lease, owner="net-2", foreign=True)),
        "2": ("v2", replace(lease, owner="a")),
    }
    view.silent = frozenset("1")
    found = view.division({"a": 1}, lambda _member: False)
    assert {name: slot.owner for name, slot in found.slots.items()} == {"1": None, "2": "a"}
    assert view.owner("0", lambda _member: True) == "net-1", "it cannot be buried"
    assert set(view.strangers()) == {"0", "1"}


async def test_a_mixed_fleet_comes_to_rest() -> None:
    """Nobody takes back what was taken: each of .NET's has its share by its formula, ours divide the rest."""
    world = World(partitions=10)
    await world.open()
    async with world.ours("a", 1), world.ours("b", 2):
        await world.until(lambda: sorted(Counter(world.owners().values()).values()) == [5, 5], 60)
        world.host("net-1")
        await world.until(lambda: world.shares() == {"ours": 7, "net-1": 3}, 200)
        await world.pass_time(40)
        handed = {token: list(owners) for token, owners in world.judge.owners.items()}
        await world.pass_time(200)
        assert {token: list(owners) for token, owners in world.judge.owners.items()} == handed
        assert sorted(Counter(world.owners().values()).values()) == [3, 3, 4]
        await world.until(world.caught_up, 30, write=False)
    await world.end()


async def test_a_stolen_lease_without_any_change_is_noticed_by_a_look(world: World) -> None:
    async with world.ours() as harness:
        await world.until(all_of(world, "ours"), 20, write=False)
        await world.pass_time(20, write=False)
        host = world.host("net-1")
        await world.until(lambda: len(host.stolen) == 1, 30, write=False)
        [(token, _)] = host.stolen
        await world.pass_time(6, write=False)
        held = harness.engine.leases.held  # type: ignore[union-attr]
        assert f"bill/{token}" not in held
        lost = [fact.detail for fact in harness.facts if fact.name == "lease_lost"]
        assert lost == [{"partition": token, "why": "taken"}]


async def test_two_replicas_of_ours_and_two_hosts_in_turn(world: World) -> None:
    """A deployment of .NET is replaced by one of ours, pod by pod."""
    first, second = world.host("net-1"), world.host("net-2")
    await world.until(lambda: world.shares() == {"net-1": 2, "net-2": 2}, 120)
    async with world.ours("a", 1):
        await world.pass_time(20)
        await first.stop()
        await world.pass_time(30)
        async with world.ours("b", 2):
            await second.stop()
            await world.until(all_of(world, "ours"), 30)
            owners = set(world.owners().values())
            await world.until(lambda: len(set(world.owners().values())) == 2, 60)
            assert None not in owners
            await world.until(world.caught_up, 30, write=False)


# --- splits and merges --------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["net", "ours"])
async def test_a_split_and_a_merge_go_from_one_to_the_other(world: World, who: str) -> None:
    """One of them sees the range move; the other goes on with what it has made of it."""
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60)
    if who == "net":
        first, _ = world.feed.split("1")
        await world.until(lambda: first in world.owners() and "1" not in world.owners(), 60)
        await host.stop()
    else:
        await host.stop()
        world.feed.split("1")
    async with world.ours():
        await world.until(lambda: len(world.judge.items()) == 5 and all_of(world, "ours")(), 60)
        await world.pass_time(5)
        world.feed.merge("2", "3")
        await world.until(lambda: {"2", "3"}.isdisjoint(world.owners()) and all_of(world, "ours")(), 60)
        assert sum("-" in token for token in world.owners()) == 2, "merged ranges keep their bounds"
        await world.pass_time(10)
    host = world.host("net-2")
    await world.until(all_of(world, "net-2"), 60)
    await world.until(world.caught_up, 30, write=False)
    assert world.repeated() == 0


async def test_a_split_that_dotnet_left_half_done_is_completed(world: World) -> None:
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60)
    await host.stop()
    parent = dict(world.judge.items()["1"])
    first, second = world.feed.split("1")
    bounds = {one.id: (one.low, one.high) for one in world.feed.partitions}
    child = host.fresh(first, 0, *bounds[first], parent["ContinuationToken"], parent["properties"])
    host._create(child)  # and there it died
    async with world.ours():
        await world.until(lambda: second in world.owners() and "1" not in world.owners(), 30)
        await world.until(all_of(world, "ours"), 30)
        await world.until(world.caught_up, 30, write=False)
        assert world.repeated() == 0


async def test_a_child_that_a_living_host_holds_is_left_to_it(world: World) -> None:
    """It was never checkpointed, so it looks unworked; a split of ours that wrote it would take it from its owner."""
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60, write=False)
    await host.stop()
    first, second = world.feed.split("1")
    bounds = {one.id: (one.low, one.high) for one in world.feed.partitions}
    child = host.fresh(first, 0, *bounds[first], None, {})
    host._create(child | {"Owner": "net-2", "timestamp": stamp(world.clock.now() + 60)})
    etag = world.judge.items()[first]["_etag"]
    async with world.ours():
        await world.until(lambda: second in world.owners() and "1" not in world.owners(), 30, write=False)
        await world.pass_time(20, write=False)
        assert (world.owners()[first], world.judge.items()[first]["_etag"]) == ("net-2", etag)


# --- the lease's own fence ----------------------------------------------------------------------------------


async def test_every_lease_is_written_when_nothing_changes(world: World) -> None:
    async with world.ours():
        await world.until(all_of(world, "ours"), 20, write=False)
        etags: defaultdict[str, list[float]] = defaultdict(list)
        last: dict[str, str] = {}
        for _ in range(120):
            await world.pass_time(1, write=False)
            for token, item in world.judge.items().items():
                if last.get(token) != item["_etag"]:
                    last[token] = item["_etag"]
                    etags[token].append(world.clock.now())
        for moments in etags.values():
            gaps = [b - a for a, b in pairwise(moments)]
            assert min(gaps[1:]) >= 13
            assert max(gaps) <= 17


async def test_a_lease_whose_writes_fail_is_fenced_by_itself_and_resumed(world: World) -> None:
    async with world.ours() as harness:
        await world.until(all_of(world, "ours"), 20)
        await world.pass_time(5)
        broken = f"{world.prefix}..2"
        world.directs[0].refuse = lambda method, id: 429 if method == "PUT" and id == broken else 0
        await world.pass_time(40)
        assert "2" in harness.engine.feeds[0].parts, "for 45 s the last good write is trusted"
        await world.pass_time(8)
        assert set(harness.engine.feeds[0].parts) == {"0", "1", "3"}
        assert [fact.detail for fact in harness.facts if fact.name == "leases_forgotten"] == [{"why": "fenced"}]
        epoch = world.judge.items()["2"]["properties"]["tidemill.epoch"]
        world.directs[0].refuse = lambda _method, _id: 0
        await world.until(lambda: "2" in harness.engine.feeds[0].parts, 10)
        assert int(world.judge.items()["2"]["properties"]["tidemill.epoch"]) == int(epoch) + 1
        await world.until(world.caught_up, 30, write=False)


async def test_one_that_cannot_be_written_holds_up_no_other(world: World) -> None:
    """Two lapse; one of them can be written again, and new ones can be claimed, while the other still fails."""
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60)
    async with world.ours() as harness:
        await world.until(lambda: harness.engine.leases is not None, 1)
        await host.stop()
        await world.until(all_of(world, "ours"), 20)
        broken = {f"{world.prefix}..{n}" for n in "23"}
        world.directs[0].refuse = lambda method, id: 429 if method == "PUT" and id in broken else 0
        parts = harness.engine.feeds[0].parts
        await world.until(lambda: set(parts) == {"0", "1"}, 60)
        broken.remove(f"{world.prefix}..3")
        await world.until(lambda: set(parts) == {"0", "1", "3"}, 10)
        world.feed.split("0")
        await world.until(lambda: {"4", "5"} <= set(parts), 20)
        broken.clear()
        await world.until(lambda: set(parts) == {"1", "2", "3", "4", "5"}, 10)
        await world.until(world.caught_up, 30, write=False)


async def test_nothing_starts_and_nothing_is_sent_under_a_fence_that_has_passed(world: World) -> None:
    """Compared where it counts, before any timer has told."""
    async with world.ours() as harness:
        await world.until(all_of(world, "ours"), 20)
        await world.pass_time(3)
        await world.until(world.caught_up, 30, write=False)
        part = harness.engine.feeds[0].parts["2"]
        part.hold.fence.deadline = world.clock.monotonic()
        before = world.judge.items()["2"]["_etag"]
        calls: list[Call] = []
        dispatch = harness.engine.feeds[0]._dispatch
        hand_over = dispatch._hands.submit
        dispatch._hands.submit = lambda made: (calls.extend(made), hand_over(made))[1]  # type: ignore[method-assign]
        ids = [id for id in world.written if world.feed.of(world.feed.epk([id])).id == "2"]
        handled = {id: len(world.seen[id]) for id in ids}
        world.write(50)
        part.hold.mark(part.hold.lease.cursor.replace('|"', '|"9'))
        flushed = asyncio.create_task(part.hold.flush())
        await world.clock.advance(0.2)
        assert world.judge.items()["2"]["_etag"] == before
        assert {id: len(world.seen[id]) for id in ids} == handled, "nothing was started"
        await world.clock.advance(5)
        assert not flushed.result()
        assert ids
        assert "2" in harness.engine.feeds[0].parts, "remembered and resumed, under another token"
        assert all(len(world.seen[id]) == handled[id] + 1 for id in ids), "handled once, and not before"
        fences = {call.items[0].partition: call.fence for call in calls}  # type: ignore[union-attr]
        assert fences["2"] is harness.engine.feeds[0].parts["2"].hold.fence, "and compared by the handlers' side"
        assert fences["2"].above is harness.engine.feeds[0].fence


# --- starts -------------------------------------------------------------------------------------------------


async def test_what_came_between_bootstrap_and_takeover_is_not_skipped(world: World) -> None:
    """.NET leaves the token null until the first change; ours begins where .NET would have."""
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60, write=False)
    await host.stop()
    assert {lease["ContinuationToken"] for lease in world.judge.items().values()} == {None}
    await world.pass_time(30)
    async with world.ours():
        await world.until(all_of(world, "ours"), 10, write=False)
        await world.until(world.caught_up, 20, write=False)


async def test_a_start_from_the_beginning_stays_one(world: World) -> None:
    world.start = "beginning"
    world.write()
    host = world.host("net-1")
    await world.until(all_of(world, "net-1"), 60)
    await world.until(world.caught_up, 30, write=False)
    await host.stop()
    async with world.ours():
        await world.until(all_of(world, "ours"), 10)
        await world.until(world.caught_up, 20, write=False)
        assert world.repeated() == 0


# --- any weather --------------------------------------------------------------------------------------------


async def test_nothing_is_worked_by_both_for_longer_than_a_look_takes(world: World) -> None:
    """.NET steals without asking, and both work the partition until ours has looked: 5 s, as its rules have it."""
    async with world.ours():
        await world.until(all_of(world, "ours"), 20)
        world.host("net-1")
        both = 0
        for _ in range(90):
            counts = {id: len(entries) for id, entries in world.seen.items()}
            await world.pass_time(1)
            new = [{who for who, _ in entries[counts.get(id, 0) :]} for id, entries in world.seen.items()]
            both = both + 1 if any(len(who) == 2 for who in new) else 0
            assert both <= 6
        assert world.shares() == {"ours": 2, "net-1": 2}
        assert world.repeated() <= 2 * 8 * 6


WEATHER = ("ours", "net", "stop ours", "kill ours", "stop net", "kill net", "split", "merge", "lossy", "fair")


def clear(world: World) -> None:
    for asked in world.directs:
        asked.lose, asked.refuse = (lambda _method, _id: False), (lambda _method, _id: 0)


@pytest.mark.parametrize("seed", range(8))
async def test_in_any_weather_nothing_is_lost_and_no_token_goes_back(seed: int) -> None:
    """Replicas and hosts come, go and die in any order; ranges are split and merged. In the end all was handled."""
    random = Random(seed)
    world = World()
    await world.open()
    world.host("net-0")
    await world.until(all_of(world, "net-0"), 60)
    async with AsyncExitStack() as stack:
        ours: list[tuple[Harness, AsyncExitStack]] = []
        for step in range(14):
            await world.pass_time(random.uniform(5, 40))
            match random.choice(WEATHER):
                case "ours" if len(ours) < 3:
                    inner = await stack.enter_async_context(AsyncExitStack())
                    ours.append((await inner.enter_async_context(world.ours(f"ours-{step}", step)), inner))
                case "net" if len(world.hosts) < 3:
                    world.host(f"net-{step + 1}")
                case "stop ours" if ours:
                    await ours.pop()[1].aclose()
                case "kill ours" if ours:
                    await ours.pop()[0].kill()
                case "stop net" if world.hosts:
                    await world.hosts.pop(random.choice(sorted(world.hosts))).stop()
                case "kill net" if world.hosts:
                    await world.hosts.pop(random.choice(sorted(world.hosts))).kill()
                case "lossy" if ours:
                    for asked in world.directs:
                        asked.lose = lambda _method, _id: random.random() < 0.1
                        asked.refuse = lambda _method, _id: 429 if random.random() < 0.1 else 0
                case "fair":
                    clear(world)
                case "split":
                    world.feed.split(random.choice(world.feed.partitions).id)
                case "merge" if len(world.feed.partitions) > 4:
                    n = random.randrange(len(world.feed.partitions) - 1)
                    world.feed.merge(world.feed.partitions[n].id, world.feed.partitions[n + 1].id)
        clear(world)
        last = await stack.enter_async_context(AsyncExitStack())
        await last.enter_async_context(world.ours("last", 99))
        for name in sorted(world.hosts):
            await world.hosts.pop(name).stop()
        await world.until(lambda: set(world.shares()) == {"ours"}, 150)
        await world.until(world.caught_up, 150, write=False)
        await world.pass_time(100, write=False)
        assert set(world.shares()) == {"ours"}, "nothing of the dead is left"
    await world.end()
