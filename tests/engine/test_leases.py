"""Leases under a fake clock: shares, hand-over, fence, lost replies, splits; and a fleet in bad weather."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.engine.fleet import FakeWorker, Fleet, Replica
from tidemill.core import lease as records
from tidemill.core.lease import Lease, from_value, key_of
from tidemill.engine.hold import Hold
from tidemill.model import Stale, Swap

QUOTA = [5, 5, 6]


async def stored(fleet: Fleet, partition: str, worker: str = "bill") -> Lease | None:
    [record] = await fleet.judge.get([key_of(worker, partition)])
    return from_value(record.value) if record else None


async def settled(fleet: Fleet, *names: str) -> None:
    """These replicas, started, with their shares."""
    await fleet.start(*names)
    await fleet.until(fleet.complete)
    await fleet.pass_time(5)


def moved(fleet: Fleet, since: float) -> list[str]:
    return [h.key for h in fleet.judge.handovers if h.at > since]


def hold_of(replica: Replica, partition: str) -> Hold:
    return replica.worker.holds[partition]


# --- shares -------------------------------------------------------------------------------------------------


async def test_sixteen_partitions_over_three() -> None:
    async with Fleet() as fleet:
        await fleet.start("a", "b", "c")
        assert await fleet.until(fleet.complete) <= 3
        assert sorted(fleet.shares().values()) == QUOTA
        assert len(fleet.judge.handovers) == 16, "everything was claimed once, by who should have it"


async def test_a_stable_fleet_changes_no_owner_for_ten_minutes() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b", "c")
        since = fleet.clock.monotonic()
        await fleet.pass_time(600)
        assert moved(fleet, since) == []
        assert int((await stored(fleet, "00") or Lease("0")).cursor) > 500


async def test_who_joins_gets_its_share_and_little_moves() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b", "c")
        since = fleet.clock.monotonic()
        await fleet.start("d")
        await fleet.until(lambda: sorted(fleet.shares().values()) == [4, 4, 4, 4])
        await fleet.pass_time(60)
        assert len(set(moved(fleet, since))) == 4
        assert len(moved(fleet, since)) == 8, "each was released once and claimed once"


async def test_who_leaves_hands_over_within_the_time_of_a_bell() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b", "c")
        leaving = fleet.replicas["a"].stop()
        assert await fleet.until(leaving.done) <= 3
        assert await fleet.until(fleet.complete) <= 1
        assert sorted(fleet.shares().values()) == [8, 8]
        leases = [await stored(fleet, p) for p in fleet.workers["bill"]]
        assert all(lease is not None and lease.crashes == 0 for lease in leases)


async def test_who_dies_is_relieved_after_its_burial_and_not_before() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b", "c")
        dead = fleet.replicas["a"].membership.member
        lost = {p: await stored(fleet, p) for p in fleet.replicas["a"].worker.holds}
        fleet.replicas["a"].kill()
        waited = await fleet.until(fleet.complete)
        assert 8 < waited <= 16, "TTL + 1 s (I7)"
        buried = next(at for at, r in fleet.judge.past[f"member/{dead}"] if r and r.value["state"] == "buried")
        for partition, before in lost.items():
            after = await stored(fleet, partition)
            assert before is not None
            assert after is not None
            assert (after.crashes, after.epoch) == (1, before.epoch + 1)
            taken = [h.at for h in fleet.judge.handovers if h.key == key_of("bill", partition)][-1]
            assert buried <= taken <= buried + 2


async def test_progress_clears_the_crashes() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b")
        fleet.replicas["a"].kill()
        await fleet.until(fleet.complete)
        await fleet.pass_time(5)
        leases = [await stored(fleet, p) for p in fleet.workers["bill"]]
        assert {lease.crashes for lease in leases if lease} == {0}


async def test_feeds_of_one_partition_are_shared_as_well() -> None:
    async with Fleet(workers={f"w{n}": ["0"] for n in range(6)}) as fleet:
        await settled(fleet, "a")
        await fleet.start("b", "c")
        await fleet.until(lambda: sorted(fleet.shares().values()) == [2, 2, 2])


async def test_a_rolling_update_loses_and_doubles_nothing() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a0", "b0", "c0")
        for name in "abc":
            await fleet.start(f"{name}1")
            await fleet.pass_time(5)
            leaving = fleet.replicas[f"{name}0"].stop()
            await fleet.until(leaving.done)
        await fleet.until(lambda: sorted(fleet.shares().values()) == QUOTA)
        await fleet.pass_time(30)
        assert set(fleet.shares()) == {"a1", "b1", "c1"}


async def test_what_does_not_get_quiet_is_kept() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        stubborn = {"00", "01", "02"}
        fleet.replicas["a"].worker.never_quiet = set(stubborn)
        for partition in stubborn:
            hold_of(fleet.replicas["a"], partition).busy = True
        await fleet.start("b")
        await fleet.until(lambda: fleet.shares() == {"a": 8, "b": 8})
        assert stubborn <= fleet.replicas["a"].worker.holds.keys(), "quiet ones go first"
        assert fleet.replicas["a"].said("lease_kept") == 0


async def test_what_does_not_get_quiet_at_all_is_tried_later() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        worker = fleet.replicas["a"].worker
        worker.never_quiet = set(worker.names)
        await fleet.start("b")
        await fleet.pass_time(27)
        assert fleet.shares() == {"a": 16}
        assert fleet.replicas["a"].said("lease_kept") == 16, "each was tried once, and will be again later"
        worker.never_quiet = set()
        await fleet.until(lambda: fleet.shares() == {"a": 8, "b": 8}, 120)


async def test_a_replica_that_stands_still_gives_its_share() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b")
        fleet.replicas["a"].leases.stall(True)
        await fleet.until(lambda: fleet.shares() == {"b": 16})
        fleet.replicas["a"].leases.stall(False)
        await fleet.until(lambda: fleet.shares() == {"a": 8, "b": 8})


async def test_what_the_computed_owner_does_not_claim_is_taken_by_anybody() -> None:
    async with Fleet() as fleet:
        await fleet.add("idle").membership.join()
        idle = fleet.replicas["idle"]
        idle.tasks.append(asyncio.create_task(idle.membership.run()))  # a member that never claims
        await fleet.start("b")
        await fleet.until(lambda: len(fleet.replicas["b"].works) == 16, 8)


async def test_a_drain_keeps_what_still_runs() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b")
        replica = fleet.replicas["a"]
        running = sorted(replica.worker.holds)[0]
        replica.worker.never_quiet = {running}
        task = asyncio.create_task(replica.leases.drain(fleet.clock.monotonic() + 25))
        await fleet.pass_time(20)
        assert list(replica.worker.holds) == [running]
        assert replica.leases.held == [f"bill/{running}"]
        assert replica.said("lease_kept") == 0
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        replica.worker.never_quiet = set()
        await replica.leases.release_quiet()
        assert replica.leases.held == []
        await fleet.until(fleet.complete)


# --- fence and burial ---------------------------------------------------------------------------------------


async def test_an_outage_of_the_store_moves_nothing() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b", "c")
        since, before = fleet.clock.monotonic(), {p: await stored(fleet, p) for p in fleet.workers["bill"]}
        for replica in fleet.replicas.values():
            replica.machine.away = True
        await fleet.pass_time(12)
        assert fleet.shares() == {}, "trust has ended for all"
        for replica in fleet.replicas.values():
            replica.machine.away = False
        assert await fleet.until(fleet.complete) <= 3
        assert moved(fleet, since) == []
        for partition, old in before.items():
            new = await stored(fleet, partition)
            assert old is not None
            assert new is not None
            assert (new.owner, new.epoch) == (old.owner, old.epoch + 1)
            assert new.nonce != old.nonce


async def test_a_fence_forgets_everything_at_once_and_writes_nothing() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        replica = fleet.replicas["a"]
        holds = list(replica.worker.holds.values())
        replica.machine.away = True
        await fleet.until(lambda: not replica.membership.check())
        assert all(hold.lost for hold in holds)
        assert not replica.worker.holds
        assert not await holds[0].flush()
        holds[0].mark("1000000")
        assert not await holds[0].flush()


async def test_who_was_frozen_through_its_burial_writes_nothing_more() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b")
        frozen = fleet.replicas["a"]
        holds = dict(frozen.worker.holds)
        for hold in holds.values():
            hold.mark(str(int(hold.wanted.cursor) + 1))
        frozen.freeze()
        await fleet.until(lambda: len(fleet.replicas["b"].works) == 16)
        frozen.thaw()
        await fleet.pass_time(0.5)
        assert all(hold.lost for hold in holds.values())
        await fleet.until(lambda: fleet.shares() == {"a": 8, "b": 8})


async def test_a_stale_checkpoint_is_refused_and_ends_the_hold() -> None:
    """As if fence and burial had failed: another owner's claim stands, and the old owner's swap meets it."""
    async with Fleet() as fleet:
        await settled(fleet, "a")
        hold = hold_of(fleet.replicas["a"], "03")
        [record] = await fleet.judge.inner.get([hold.key])
        assert record is not None
        taken = records.claim(from_value(record.value), "thief", "n", buried=True)
        await fleet.judge.inner.swap([Swap(hold.key, record.version, taken.to_value())])
        hold.mark("999")
        assert not await hold.flush()
        assert hold.lost
        assert ("taken", "03") in fleet.replicas["a"].worker.log
        assert await stored(fleet, "03") == taken


async def test_the_fence_is_compared_before_each_send() -> None:
    """No timer has told yet that the deadline has passed."""
    async with Fleet() as fleet:
        await settled(fleet, "a")
        replica = fleet.replicas["a"]
        hold, before = hold_of(replica, "03"), await stored(fleet, "03")
        hold.mark("999")
        replica.membership.fence.deadline = fleet.clock.monotonic()
        assert not await hold.flush()
        assert hold.lost
        assert await stored(fleet, "03") == before


async def test_a_claim_that_is_answered_after_the_fence_is_only_remembered() -> None:
    async with Fleet() as fleet:
        await fleet.start("a")
        replica = fleet.replicas["a"]
        replica.machine.latency = lambda key: 0.2 if key.startswith("lease/bill/0") else 0.0
        await fleet.clock.run_until(lambda: "lease/bill/00" in fleet.judge.past)
        replica.freeze()
        await fleet.clock.advance(12)
        replica.thaw()
        await fleet.pass_time(5)
        assert len(replica.works) == 16
        assert {hold.token[0] for hold in replica.worker.holds.values()} == {2}
        assert len(replica.worker.log) == 16, "nothing was begun under the first token"


async def test_a_claim_of_a_former_life_is_not_ours() -> None:
    async with Fleet() as fleet:
        await fleet.start("a")
        replica = fleet.replicas["a"]
        replica.machine.latency = lambda key: 60.0 if key.startswith("lease/bill/0") else 0.0
        await fleet.clock.run_until(lambda: "lease/bill/00" in fleet.judge.past)
        former = replica.membership.member
        replica.machine.latency = lambda _key: 0.0
        await fleet.start("b")
        await fleet.pass_time(1)
        [record] = await fleet.judge.get([f"member/{former}"])
        assert record is not None
        assert await fleet.replicas["b"].membership.bury(former, record.version)
        await fleet.until(lambda: len(fleet.replicas["b"].works) == 16)
        await fleet.pass_time(10)
        assert replica.membership.member != former
        assert fleet.shares() == {"b": 16}
        await fleet.until(lambda: fleet.shares() == {"a": 8, "b": 8})


async def test_a_drain_through_an_outage_releases_afterwards() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b")
        replica = fleet.replicas["a"]
        replica.machine.away = True
        leaving = replica.stop()
        await fleet.pass_time(12)
        assert not replica.works
        assert len(replica.leases.held) == 8
        replica.machine.away = False
        await fleet.until(leaving.done)
        await fleet.until(fleet.complete, 3)
        leases = [await stored(fleet, p) for p in fleet.workers["bill"]]
        assert {lease.crashes for lease in leases if lease} == {0}


async def test_what_was_taken_from_us_is_seen_even_if_we_write_nothing() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        hold = hold_of(fleet.replicas["a"], "03")
        hold.busy = True
        await fleet.pass_time(2)
        [record] = await fleet.judge.inner.get([hold.key])
        assert record is not None
        taken = records.claim(from_value(record.value), "thief", "n", buried=True)
        await fleet.judge.inner.swap([Swap(hold.key, record.version, taken.to_value())])
        await fleet.until(lambda: hold.lost, 17)


async def test_a_slow_beginning_is_not_overtaken() -> None:
    async with Fleet() as fleet:
        fleet.add("a").worker.begins_in = 6.0
        await fleet.replicas["a"].start()
        await fleet.pass_time(3)
        await fleet.start("b")
        await fleet.pass_time(2)
        fleet.replicas["a"].membership.fence.deadline = fleet.clock.monotonic()  # forgotten, then resumed at once
        await fleet.until(lambda: fleet.shares() == {"a": 8, "b": 8})


# --- writing ------------------------------------------------------------------------------------------------


async def test_checkpoints_are_coalesced_and_written_once_a_second_at_most() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        hold = hold_of(fleet.replicas["a"], "03")
        hold.busy = True  # nobody else marks it
        await fleet.pass_time(2)
        writes = len(fleet.judge.past[hold.key])
        for n in range(100):
            hold.mark(str(10_000 + n))
        await fleet.clock.advance(1.0)
        assert len(fleet.judge.past[hold.key]) == writes + 1
        assert hold.lease.cursor == "10099"
        assert not hold.dirty
        await fleet.clock.advance(10.0)
        assert len(fleet.judge.past[hold.key]) == writes + 1, "what did not change is not written"


async def test_flush_waits_for_the_newest_state() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        replica = fleet.replicas["a"]
        hold = hold_of(replica, "03")
        hold.busy = True
        replica.machine.latency = lambda _key: 1.5
        hold.mark("5000", running_one=7)
        first = asyncio.create_task(hold.flush())
        await fleet.clock.advance(0.1)
        hold.mark("5001", running_one=8, state="halted")
        second = asyncio.create_task(hold.flush())
        await fleet.clock.advance(5)
        assert (first.result(), second.result()) == (True, True)
        lease = await stored(fleet, "03")
        assert lease is not None
        assert (lease.cursor, lease.running_one, lease.state) == ("5001", 8, "halted")


async def test_lost_replies_lose_no_lease() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b", "c")
        since = fleet.clock.monotonic()
        for replica in fleet.replicas.values():
            replica.machine.lose_replies = 0.3
        await fleet.pass_time(120)
        assert moved(fleet, since) == []
        assert all(r.said("lease_lost") == 0 for r in fleet.replicas.values())


async def test_a_claim_whose_reply_was_lost_is_resumed() -> None:
    async with Fleet() as fleet:
        await fleet.start("a")
        await fleet.pass_time(0.5)
        fleet.replicas["a"].machine.lose_replies = 1.0
        await fleet.clock.run_until(lambda: "lease/bill/00" in fleet.judge.past)
        assert fleet.shares() == {}
        fleet.replicas["a"].machine.lose_replies = 0.0
        await fleet.until(fleet.complete)
        lease = await stored(fleet, "00")
        assert lease is not None
        assert (lease.epoch, lease.crashes) == (2, 0)


async def test_a_reset_goes_back_under_a_new_token() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        hold = hold_of(fleet.replicas["a"], "03")
        await fleet.pass_time(10)
        hold.busy = True
        epoch, nonce = hold.token
        assert await hold.reset("1")
        assert hold.token[0] == epoch + 1
        assert hold.token[1] != nonce
        lease = await stored(fleet, "03")
        assert lease is not None
        assert (lease.cursor, lease.epoch) == ("1", epoch + 1)


async def test_unknown_fields_of_a_lease_are_kept() -> None:
    async with Fleet() as fleet:
        value = {**records.created("5").to_value(), "colour": "blue"}
        await fleet.judge.swap([Swap(key_of("bill", "03"), None, value)])
        await settled(fleet, "a")
        await fleet.pass_time(5)
        lease = await stored(fleet, "03")
        assert lease is not None
        assert lease.extra == {"colour": "blue"}
        assert int(lease.cursor) > 5


# --- splits -------------------------------------------------------------------------------------------------


async def split(fleet: Fleet, replica: Replica, copied: list[str]) -> bool:
    """Partition 03 becomes 03a and 03b."""
    for each in fleet.replicas.values():
        each.worker.names = sorted([*(n for n in each.worker.names if n != "03"), "03a", "03b"])
        each.worker.starts = {"03a": "999999", "03b": "999999"}  # "now": whoever starts there, loses changes
    hold = hold_of(replica, "03")
    hold.busy = True
    hold.mark("700")

    async def copy() -> None:
        copied.extend([p for p in ("03", "03a", "03b") if await stored(fleet, p)])

    return await hold.split({"03a": "701", "03b": "702"}, copy)


@pytest.mark.parametrize("lose", [0.0, 0.5])
async def test_children_begin_where_the_parent_ended(lose: float) -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b")
        replica = next(r for r in fleet.replicas.values() if "03" in r.worker.holds)
        copied: list[str] = []
        replica.machine.lose_replies = lose
        task = asyncio.create_task(split(fleet, replica, copied))
        await fleet.until(task.done)
        replica.machine.lose_replies = 0.0
        assert task.result()
        assert copied == ["03", "03a", "03b"], "the parent goes last"
        assert await stored(fleet, "03") is None
        await fleet.until(lambda: sum(fleet.shares().values()) == 17)
        cursors = [await stored(fleet, child) for child in ("03a", "03b")]
        assert all(lease is not None and 701 <= int(lease.cursor) < 900 for lease in cursors)
        assert ("moved", "03") in replica.worker.log


async def test_a_split_that_died_halfway_is_done_again() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a", "b")
        replica = next(r for r in fleet.replicas.values() if "03" in r.worker.holds)
        other = next(r for r in fleet.replicas.values() if r is not replica)
        for each in fleet.replicas.values():
            each.worker.names = sorted([*(n for n in each.worker.names if n != "03"), "03a", "03b"])
            each.worker.starts = {"03a": "999999", "03b": "999999"}
        child = records.created("500", parents=("03",))
        await fleet.judge.swap([Swap(key_of("bill", "03a"), None, child.to_value())])
        replica.kill()
        await fleet.until(lambda: "03" in other.worker.holds)
        await fleet.pass_time(20)
        assert await stored(fleet, "03a") == child, "no child is claimed while the parent is there"
        assert await stored(fleet, "03b") is None, "none is created from its own start"
        task = asyncio.create_task(split(fleet, other, []))
        await fleet.until(task.done)
        await fleet.until(lambda: len(other.works) == 17)
        lease = await stored(fleet, "03a")
        assert lease is not None
        assert int(lease.cursor) >= 701


async def test_a_child_of_two_parents_is_for_people_to_decide() -> None:
    async with Fleet() as fleet:
        await settled(fleet, "a")
        hold = hold_of(fleet.replicas["a"], "03")
        hold.busy = True
        foreign = records.created("1", parents=("07",))
        await fleet.judge.swap([Swap(key_of("bill", "merged"), None, foreign.to_value())])
        assert not await hold.split({"merged": "9"})
        assert await stored(fleet, "03") is not None
        assert await stored(fleet, "merged") == foreign


# --- bad weather --------------------------------------------------------------------------------------------


async def weather(fleet: Fleet, random: Random) -> None:
    """Something happens to somebody."""
    living = [r for r in fleet.replicas.values() if not r.machine.dead and r.leaving is None]
    replica = random.choice(living)
    machine = replica.machine
    match random.choice(["freeze", "away", "slow", "lossy", "old", "kill", "leave", "join", "fair"]):
        case "freeze":
            replica.freeze()
        case "away":
            machine.away = True
        case "slow":
            machine.latency = lambda _key: random.choice([0.01, 0.1, 1.0, 4.0])
        case "lossy":
            machine.lose_replies = machine.refuse = 0.2
        case "old":
            machine.old_reads = 5.0
        case "kill" if len(living) > 1:
            replica.kill()
        case "leave" if len(living) > 1:
            replica.stop()
        case "join" if len(living) < 5:
            await fleet.start(f"r{len(fleet.replicas)}")
        case _:
            clear(replica)


def clear(replica: Replica) -> None:
    replica.thaw()
    replica.machine.away = False
    replica.machine.latency = lambda _key: 0.0
    replica.machine.lose_replies = replica.machine.refuse = replica.machine.old_reads = 0.0


@pytest.mark.parametrize("seed", range(8))
async def test_in_any_weather_one_owner_and_in_fair_weather_all_is_owned(seed: int) -> None:
    random = Random(seed)
    async with Fleet(seed=seed, workers={"bill": [f"{n:02}" for n in range(7)]}) as fleet:
        await fleet.start("r0", "r1", "r2")
        for _ in range(40):
            await fleet.pass_time(random.uniform(0.1, 12))
            await weather(fleet, random)
        for replica in fleet.replicas.values():
            clear(replica)
        await fleet.until(fleet.complete, 60)
        await fleet.pass_time(40)
        shares = fleet.shares().values()
        assert fleet.complete()
        assert max(shares) - min(shares) <= 1
        since = fleet.clock.monotonic()
        await fleet.pass_time(60)
        assert moved(fleet, since) == []


async def test_the_store_of_these_tests_refuses_what_is_stale() -> None:
    async with Fleet() as fleet:
        worker = FakeWorker("bill", ["00"], fleet.clock)
        value = records.created(await worker.start("00")).to_value()
        await fleet.judge.swap([Swap("lease/bill/00", None, value)])
        [result] = await fleet.judge.swap([Swap("lease/bill/00", None, value)])
        assert isinstance(result, Stale)
