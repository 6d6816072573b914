"""Members under a fake clock: renewal, fence, burial, coming back, leaving, bells, the claims of the dead."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from random import Random

import pytest

from tests.engine.fleet import Fleet, Replica
from tidemill.core.member import Member, key_of
from tidemill.engine.bells import Bells
from tidemill.engine.work import FAST
from tidemill.model import Record, Swap


class Heard:
    """A listener that writes down what it hears, and whether trust held at that moment."""

    def __init__(self, replica: Replica) -> None:
        self.log: list[tuple[str, bool]] = []
        self.also: Callable[[], None] = lambda: None
        self._replica = replica
        replica.membership.listen(self)

    def fenced(self) -> None:
        self._note("fenced")

    def resumed(self) -> None:
        self._note("resumed")

    def buried(self) -> None:
        self._note("buried")

    def _note(self, what: str) -> None:
        self.log.append((what, self._replica.membership.fence.holds(self._replica.machine.monotonic())))
        self.also()


def members_only() -> Fleet:
    return Fleet(workers={})


async def stored(fleet: Fleet, member: str) -> Record | None:
    [record] = await fleet.judge.get([key_of(member)])
    return record


async def state(fleet: Fleet, member: str) -> str | None:
    record = await stored(fleet, member)
    return str(record.value["state"]) if record else None


# --- renewal and fence --------------------------------------------------------------------------------------


async def test_a_member_lives_as_long_as_it_renews() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(600)
        for replica in fleet.replicas.values():
            assert len(replica.membership.members("feeds")) == 2
            assert replica.said("fenced") == replica.said("member_buried") == 0


async def test_renewals_come_every_five_seconds_or_so() -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(600)
        writes = fleet.judge.past[key_of(fleet.replicas["a"].membership.member)]
        gaps = [later - earlier for (earlier, _), (later, _) in pairwise(writes)]
        assert 4.5 <= min(gaps) <= max(gaps) <= 5.5
        assert max(gaps) - min(gaps) > 0.2, "without jitter a fleet renews in step"


async def test_tries_that_fail_come_at_5_8_and_9_5() -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(1)
        replica = fleet.replicas["a"]
        good = replica.membership.fence.deadline - 10
        replica.machine.refuse = 1.0
        await fleet.clock.advance(good + 9.9 - fleet.clock.monotonic())
        tries = [moment - good for moment in replica.machine.refused]
        assert tries[0] == pytest.approx(5, abs=0.7)
        assert tries[1:] == pytest.approx([8, 9.5])


async def test_late_reply_after_a_freeze_is_fenced_before_it_extends() -> None:
    """The good reply of a renewal may be the first thing that runs after a freeze: it must not hide the gap."""
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(1)
        replica = fleet.replicas["a"]
        heard = Heard(replica)
        deadline = replica.membership.fence.deadline
        replica.machine.latency = lambda _key: 0.4
        await fleet.clock.run_until(lambda: fleet.judge.past[key_of(replica.membership.member)][-1][0] > deadline - 7)
        replica.freeze()  # committed, the reply is on its way
        await fleet.clock.advance(deadline + 0.5 - fleet.clock.monotonic())
        assert heard.log == []
        replica.thaw()
        await fleet.clock.advance(0)
        assert heard.log == [("fenced", False), ("resumed", True)]


@pytest.mark.parametrize("replies_first", [True, False])
async def test_after_a_freeze_longer_than_the_fence_a_new_renewal_must_succeed(replies_first: bool) -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        replica = fleet.replicas["a"]
        heard = Heard(replica)
        await fleet.pass_time(3)
        replica.machine.replies_first = replies_first
        replica.freeze()
        await fleet.clock.advance(13)
        replica.thaw()
        await fleet.pass_time(3)
        assert heard.log == [("resumed", True), ("fenced", False), ("resumed", True)]
        assert replica.said("buried") == 0


async def test_the_fence_is_told_at_its_deadline_when_the_store_hangs() -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(1)
        replica = fleet.replicas["a"]
        heard = Heard(replica)
        deadline = replica.membership.fence.deadline
        replica.machine.latency = lambda _key: 1_000.0
        await fleet.clock.advance(deadline - fleet.clock.monotonic() - 0.01)
        assert heard.log == []
        await fleet.clock.advance(0.02)
        assert heard.log == [("fenced", False)]


async def test_an_outage_for_all_buries_nobody() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b", "c")
        await fleet.pass_time(20)
        ids = {r.membership.member for r in fleet.replicas.values()}
        for seconds in (12, 60):
            for replica in fleet.replicas.values():
                replica.machine.away = True
            await fleet.pass_time(seconds)
            assert all(not r.membership.check() for r in fleet.replicas.values())
            for replica in fleet.replicas.values():
                replica.machine.away = False
            await fleet.pass_time(20)
            assert {r.membership.member for r in fleet.replicas.values()} == ids
            assert all(r.membership.state == "live" for r in fleet.replicas.values())


async def test_lost_replies_are_recognised_as_our_own() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(5)
        replica = fleet.replicas["a"]
        member = replica.membership.member
        replica.machine.lose_replies = 0.4
        await fleet.pass_time(300)
        assert replica.membership.member == member
        assert replica.said("buried") == 0


async def test_a_lost_reply_extends_from_its_own_send() -> None:
    """The renewal that committed was sent at 5 s; its reply was lost; the one at 8 s finds it."""
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(1)
        replica = fleet.replicas["a"]
        first = replica.membership.fence.deadline - 10
        replica.machine.lose_replies = 1.0
        await fleet.clock.run_until(lambda: len(replica.machine.lost) > 0)
        [sent] = replica.machine.lost
        assert replica.membership.fence.deadline == first + 10
        replica.machine.lose_replies = 0.0
        replica.machine.latency = lambda _key: 1.0
        await fleet.clock.advance(first + 8.9 - fleet.clock.monotonic())
        assert replica.membership.fence.deadline == first + 10
        await fleet.clock.advance(0.2)
        assert replica.membership.fence.deadline == sent + 10


async def test_slow_replies_do_not_end_trust() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(5)
        for replica in fleet.replicas.values():
            replica.machine.latency = lambda _key: 2.9
        await fleet.pass_time(300)
        for replica in fleet.replicas.values():
            assert replica.said("fenced") == replica.said("buried") == 0


async def test_a_lost_reply_of_the_first_write_makes_no_second_member() -> None:
    async with members_only() as fleet:
        replica = fleet.add("a")
        replica.machine.lose_replies = 1.0
        await replica.start()
        await fleet.pass_time(3)
        assert not replica.membership.check()
        replica.machine.lose_replies = 0.0
        await fleet.pass_time(20)
        assert replica.membership.state == "live"
        assert [k for k in fleet.judge.past if k.startswith("member/")] == [key_of(replica.membership.member)]


async def test_trust_counts_from_the_first_try_to_join() -> None:
    """The reply of the first try was lost: others may have watched the record since then."""
    async with members_only() as fleet:
        replica = fleet.add("a")
        deadlines: list[float] = []
        heard = Heard(replica)
        heard.also = lambda: deadlines.append(replica.membership.fence.deadline)
        replica.machine.lose_replies = 1.0
        began = fleet.clock.monotonic()
        await replica.start()
        await fleet.clock.advance(3.5)
        replica.machine.lose_replies = 0.0
        await fleet.clock.advance(1)
        assert heard.log == [("resumed", True)]
        assert deadlines == [began + 10]
        assert replica.membership.fence.deadline > began + 13, "it renews at once"


# --- burial -------------------------------------------------------------------------------------------------


async def test_who_waits_for_the_dead_says_so_once() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(20)
        assert fleet.replicas["a"].said("waiting") == 0
        dead = fleet.replicas["b"].membership.member
        fleet.replicas["b"].kill()
        await fleet.until(lambda: fleet.replicas["a"].membership.is_buried(dead))
        [told] = [fact for fact in fleet.replicas["a"].facts if fact.name == "waiting"]
        assert told.detail["replica"] == "b"
        assert 5 <= float(str(told.detail["seconds"])) <= 7
        await fleet.pass_time(20)
        assert fleet.replicas["a"].said("waiting") == 1


async def test_who_stops_renewing_is_buried_after_14_seconds_and_not_before() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(30)
        dead = fleet.replicas["b"].membership.member
        fleet.replicas["b"].kill()
        written = fleet.judge.past[key_of(dead)][-1][0]
        await fleet.until(lambda: fleet.replicas["a"].membership.is_buried(dead))
        assert 14 <= fleet.clock.monotonic() - written <= 16
        assert await state(fleet, dead) == "buried"
        assert [m.id for m in fleet.replicas["a"].membership.members()] == [fleet.replicas["a"].membership.member]


async def test_the_fast_profile_is_faster() -> None:
    async with Fleet(workers={}, profile=FAST) as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(60)
        assert fleet.replicas["a"].said("fenced") == 0
        dead = fleet.replicas["b"].membership.member
        fleet.replicas["b"].kill()
        assert await fleet.until(lambda: fleet.replicas["a"].membership.is_buried(dead)) <= 7


async def test_a_burial_that_comes_after_a_renewal_is_stale() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(1)
        victim = fleet.replicas["b"].membership
        seen = await stored(fleet, victim.member)
        assert seen is not None
        await fleet.pass_time(6)  # it renews
        assert not await fleet.replicas["a"].membership.bury(victim.member, seen.version)
        assert await state(fleet, victim.member) == "live"
        assert not fleet.replicas["a"].membership.is_buried(victim.member)


async def test_a_renewal_that_comes_after_a_burial_is_stale_for_ever() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(1)
        replica = fleet.replicas["b"]
        heard, former = Heard(replica), replica.membership.member
        seen = await stored(fleet, former)
        assert seen is not None
        assert await fleet.replicas["a"].membership.bury(former, seen.version)
        await fleet.pass_time(7)
        assert [what for what, _ in heard.log] == ["buried", "resumed"]
        assert heard.log[0] == ("buried", False)
        assert replica.membership.member != former
        assert replica.membership.state == "live"
        assert (await state(fleet, former), await state(fleet, replica.membership.member)) == ("buried", "live")


async def test_who_was_frozen_too_long_comes_back_as_somebody_else() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(10)
        replica = fleet.replicas["b"]
        heard, former = Heard(replica), replica.membership.member
        replica.freeze()
        await fleet.pass_time(30)
        replica.thaw()
        await fleet.pass_time(5)
        assert [what for what, _ in heard.log][-2:] == ["buried", "resumed"]
        assert replica.membership.member != former
        assert await state(fleet, former) == "buried"


async def test_the_container_before_me_is_buried_at_once() -> None:
    async with Fleet(workers={}, pods={"old": "uid", "new": "uid"}) as fleet:
        await fleet.start("old")
        await fleet.pass_time(10)
        dead = fleet.replicas["old"].membership.member
        fleet.replicas["old"].kill()
        await fleet.start("new")
        assert await fleet.until(lambda: fleet.replicas["new"].membership.is_buried(dead)) <= 1


class Locks:
    """A presence as lock files give it."""

    def __init__(self) -> None:
        self.held: set[str] = set()
        self.ever: set[str] = set()

    async def hold(self, member: str) -> None:
        self.held.add(member)
        self.ever.add(member)

    async def drop(self, member: str) -> None:
        self.held.discard(member)

    async def gone(self, members: Sequence[str]) -> Sequence[str]:
        return [m for m in members if m in self.ever and m not in self.held]


async def test_who_has_lost_its_lock_file_is_buried_at_once() -> None:
    locks = Locks()
    async with Fleet(workers={}, presence=locks) as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(10)
        dead = fleet.replicas["b"].membership.member
        fleet.replicas["b"].kill()
        locks.held.discard(dead)
        assert await fleet.until(lambda: fleet.replicas["a"].membership.is_buried(dead)) <= 1.5
        assert fleet.replicas["a"].membership.member in locks.held


async def test_who_comes_back_shows_only_its_new_id() -> None:
    locks = Locks()
    async with Fleet(workers={}, presence=locks) as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(2)
        former = fleet.replicas["b"].membership.member
        seen = await stored(fleet, former)
        assert seen is not None
        assert await fleet.replicas["a"].membership.bury(former, seen.version)
        await fleet.pass_time(7)
        assert locks.held == {r.membership.member for r in fleet.replicas.values()}
        assert former not in locks.held


async def test_an_owner_without_a_record_is_buried_and_a_living_one_is_not() -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(2)
        membership = fleet.replicas["a"].membership
        assert await membership.certainly_buried("nobody")
        assert await state(fleet, "nobody") == "buried"
        assert membership.is_buried("nobody")
        late = fleet.add("b")
        await late.membership.join()  # not seen by a yet
        assert not await membership.certainly_buried(late.membership.member)
        assert await state(fleet, late.membership.member) == "live"
        assert not await membership.certainly_buried(membership.member)


async def test_old_reads_bury_nobody_who_lives() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b", "c")
        for replica in fleet.replicas.values():
            replica.machine.old_reads = 5.0
        await fleet.pass_time(300)
        for replica in fleet.replicas.values():
            assert replica.said("buried") == 0
            assert len(replica.membership.members()) == 3


async def test_tombstones_go_when_they_are_old_and_nothing_names_them() -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        membership = fleet.replicas["a"].membership
        named = {"named"}
        membership.naming(lambda: named)
        await fleet.pass_time(1)
        for dead in ("named", "forgotten"):
            assert await membership.certainly_buried(dead)
        await fleet.clock.advance(3_500)
        assert await state(fleet, "forgotten") == "buried"
        await fleet.clock.advance(200)
        assert await state(fleet, "forgotten") is None
        assert await state(fleet, "named") == "buried"
        named.clear()
        await fleet.clock.advance(100)
        assert await state(fleet, "named") is None


# --- draining, leaving, weight ------------------------------------------------------------------------------


async def test_who_drains_is_no_longer_counted_and_still_lives() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(2)
        draining = fleet.replicas["b"].membership
        task = asyncio.create_task(draining.draining())
        await fleet.pass_time(1)
        assert task.done()
        for replica in fleet.replicas.values():
            assert draining.member not in [m.id for m in replica.membership.members()]
        await fleet.pass_time(60)
        assert await state(fleet, draining.member) == "live"


async def test_leaving_deletes_the_record_and_is_the_last_call() -> None:
    locks = Locks()
    async with Fleet(workers={}, presence=locks) as fleet:
        await fleet.start("a")
        await fleet.pass_time(2)
        replica = fleet.replicas["a"]
        replica.machine.lose_replies = 0.5
        leaving = asyncio.create_task(replica.membership.leave())
        await fleet.clock.advance(10)
        assert leaving.done()
        assert await state(fleet, replica.membership.member) is None
        assert not replica.membership.check()
        assert not locks.held
        calls = fleet.judge.calls
        await fleet.clock.advance(30)
        assert fleet.judge.calls == calls
        await replica.membership.leave()  # once more changes nothing
        replica.machine.dead = True  # its services have ended by themselves, which is as it should be


async def test_leaving_while_a_renewal_is_on_its_way() -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(2)
        replica = fleet.replicas["a"]
        replica.machine.latency = lambda _key: 0.8
        renewals = len(fleet.judge.past[key_of(replica.membership.member)])
        await fleet.clock.run_until(lambda: replica.membership.fence.deadline - fleet.clock.monotonic() < 4.9)
        leaving = asyncio.create_task(replica.membership.leave())
        await fleet.clock.advance(5)
        assert leaving.done()
        assert len(fleet.judge.past[key_of(replica.membership.member)]) == renewals + 2, "a renewal, then the delete"
        assert await state(fleet, replica.membership.member) is None
        replica.machine.dead = True


async def test_leaving_before_joining_is_legal() -> None:
    async with members_only() as fleet:
        replica = fleet.add("a")
        await replica.membership.leave()
        assert fleet.judge.calls == 0


async def test_weight_can_be_laid_down_and_taken_up() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(2)

        def weight_seen() -> int:
            [found] = [
                m for m in fleet.replicas["b"].membership.members() if m.id == fleet.replicas["a"].membership.member
            ]
            return found.weight

        for weight, seen in ((0, 0), (None, 1)):
            task = asyncio.create_task(fleet.replicas["a"].membership.weigh(weight))
            await fleet.pass_time(2)
            assert task.done()
            assert weight_seen() == seen


async def test_another_profile_in_the_same_group_is_warned_of_once() -> None:
    async with members_only() as fleet:
        await fleet.start("a")
        await fleet.pass_time(2)
        odd = Member("odd", "odd-pod", ("feeds",), profile="fast")
        await fleet.judge.swap([Swap(key_of(odd.id), None, odd.to_value())])
        await fleet.pass_time(5)
        replica = fleet.replicas["a"]
        assert "odd-pod" in replica.membership.warnings[0]
        assert replica.said("profile_mismatch") == 1


# --- bells --------------------------------------------------------------------------------------------------


async def test_a_bell_is_heard_by_the_others_within_half_a_second() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(5)
        heard: list[str] = []
        for name, replica in fleet.replicas.items():
            replica.membership.on_ring("feeds", partial(heard.append, name))
        await fleet.replicas["a"].membership.ring("feeds")
        await fleet.clock.advance(0.5)
        assert heard == ["b"]


async def test_two_who_ring_at_once_hear_each_other() -> None:
    fleet = members_only()
    bells = [Bells(fleet.judge, Random(n)) for n in range(2)]
    heard: list[int] = []
    for number, bell in enumerate(bells):
        bell.on_ring("g", partial(heard.append, number))
        await bell.look()
    await asyncio.gather(*(bell.ring("g") for bell in bells))
    for bell in bells:
        await bell.look()
    assert sorted(heard) == [0, 1]
    [record] = await fleet.judge.get(["bell/g"])
    assert record is not None
    assert record.value["count"] == 2


async def test_a_ring_that_is_not_answered_is_sent_again() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        await fleet.pass_time(5)
        heard: list[float] = []
        fleet.replicas["b"].membership.on_ring("feeds", lambda: heard.append(fleet.clock.monotonic()))
        fleet.replicas["a"].machine.refuse = 1.0
        await fleet.replicas["a"].membership.ring("feeds")
        await fleet.pass_time(1)
        assert heard == []
        fleet.replicas["a"].machine.refuse = 0.0
        await fleet.pass_time(1.5)
        assert len(heard) == 1


# --- the claims of the dead ---------------------------------------------------------------------------------


async def test_the_claims_of_the_dead_are_freed_after_the_burial() -> None:
    async with members_only() as fleet:
        holders = {"unknown"}
        freed: list[str] = []

        async def free(owners: Sequence[str]) -> Sequence[str]:
            freed.extend(holders & set(owners))
            holders.difference_update(owners)
            return sorted(holders)

        for name in ("a", "b"):
            fleet.add(name)
            fleet.replicas[name].membership.frees(free)
            await fleet.replicas[name].start()
        await fleet.pass_time(2)
        assert freed == ["unknown"]  # no record at all: buried, then freed
        dead = fleet.replicas["b"].membership.member
        holders |= {dead, fleet.replicas["a"].membership.member}
        await fleet.pass_time(20)
        assert freed == ["unknown"]
        fleet.replicas["b"].kill()
        await fleet.until(lambda: dead in freed)
        assert holders == {fleet.replicas["a"].membership.member}


async def test_no_clock_of_the_wall_is_compared() -> None:
    async with members_only() as fleet:
        await fleet.start("a", "b")
        for jump in (-86_400.0, 86_400.0, 3_600.0):
            fleet.clock.jump(jump)
            await fleet.pass_time(30)
        for replica in fleet.replicas.values():
            assert replica.said("fenced") == replica.said("buried") == 0
