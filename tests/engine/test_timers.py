"""Timers over replicas: each occurrence once, never two at once, never early, whatever dies or is not answered."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from random import Random

import pytest
import pytest_asyncio

from tests.engine.timer_fleet import START, Fleet, Hands, Started, early, overlaps, timer
from tidemill.app.worker import Cron, Every
from tidemill.core.backoff import Backoff
from tidemill.core.member import Identity
from tidemill.core.timer import Control, Timer, control_key, from_value, pause, resume, run_now
from tidemill.engine.membership import Membership
from tidemill.engine.timers import Timers
from tidemill.engine.work import NORMAL, End, Ended, Failed
from tidemill.errors import ConfigurationError
from tidemill.model import Dead, Done, Later, Record, Swap

NAMES = ("a", "b", "c", "d", "e")


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    yield fleet
    await fleet.close()


def times(fleet: Fleet, name: str = "") -> list[float]:
    """The occurrences that were started, in order, as seconds since the start."""
    return [round(each.at - START, 6) for each in fleet.started if not name or each.replica == name]


async def timer_record(fleet: Fleet) -> Timer:
    return from_value((await fleet.record()).value)


async def wish(fleet: Fleet, control: Control) -> None:
    store, key = fleet.store.store, control_key("tick")
    [before] = await store.get([key])
    [after] = await store.swap([Swap(key, before.version if before else None, control.to_value("w"))])
    assert isinstance(after, Record)


# --- once for all -------------------------------------------------------------------------------------------


async def test_each_occurrence_runs_once_for_all_replicas(fleet: Fleet) -> None:
    for name in NAMES:
        fleet.join(name, timer(Every(1.0)))
    await fleet.clock.advance(30.5)
    assert times(fleet) == [float(n) for n in range(1, 31)]
    assert len({each.replica for each in fleet.started}) == 1, "the preferred replica runs them all"
    assert all(each.wall - each.at < 0.01 and not each.past_due for each in fleet.started)
    assert not overlaps(fleet.started)


async def test_the_others_come_half_a_second_later(fleet: Fleet) -> None:
    for name in NAMES:
        fleet.join(name, timer(Every(5.0)))
    await fleet.clock.advance(5.2)
    preferred = fleet.started[0].replica
    fleet.kill(preferred)  # not buried: it holds nothing, and looks alive for 14 s
    await fleet.clock.advance(5.5)
    late = fleet.started[1]
    assert late.replica != preferred
    assert 0.5 <= late.wall - late.at < 0.8
    assert times(fleet) == [5.0, 10.0]


async def test_sixty_occurrences_with_two_deaths(fleet: Fleet) -> None:
    """The holder is killed twice in the middle of a run; with misfire "all" each occurrence is accounted for."""
    fleet.seconds = lambda _: 0.3
    for name in NAMES:
        fleet.join(name, timer(Every(1.0, misfire="all")))
    for after in (10, 12):
        await fleet.clock.advance(after)
        assert await fleet.clock.run_until(lambda: fleet.running() is not None)
        await fleet.clock.advance(0.1)
        victim = fleet.running()
        assert victim is not None
        await fleet.kill_and_bury(victim.replica)
    await fleet.clock.run_until(lambda: fleet.clock.now() >= START + 60 and fleet.running() is None)
    await fleet.clock.advance(5)
    counts = Counter(each.at for each in fleet.started if each.at <= START + 60)
    assert sorted(counts) == [START + n for n in range(1, 61)]
    assert sorted(counts.values(), reverse=True)[:3] == [2, 2, 1]
    assert [each.attempt for each in fleet.started if counts[each.at] == 2] == [1, 2, 1, 2]
    assert all(each.attempt == 1 for each in fleet.started if counts[each.at] == 1)
    assert len(fleet.told("timer_repeated")) == 2
    assert not early(fleet.started)
    assert not overlaps(fleet.started)
    assert [each.at for each in fleet.started] == sorted(each.at for each in fleet.started)


async def test_at_most_once_is_lost_with_its_owner(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 2.0
    for name in NAMES:
        fleet.join(name, timer(Every(30.0, once="at_most", misfire="all")))
    await fleet.clock.advance(31)
    victim = fleet.running()
    assert victim is not None
    await fleet.kill_and_bury(victim.replica)
    await fleet.clock.advance(3)
    assert times(fleet) == [30.0]
    [lost] = fleet.told("timer_lost")
    assert lost.worker == "tick"
    assert lost.detail["at"] == START + 30
    assert (await timer_record(fleet)).state == "done"
    await fleet.clock.advance(30)
    assert times(fleet) == [30.0, 60.0]


async def test_an_owner_that_only_looks_dead_keeps_its_run(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 100.0
    for name in ("a", "b"):
        fleet.join(name, timer(Every(10.0)))
    await fleet.clock.advance(60)
    assert times(fleet) == [10.0]
    await fleet.clock.advance(51)
    assert times(fleet) == [10.0, 110.0]


async def test_a_cron_timer_runs_at_its_time(fleet: Fleet) -> None:
    fleet.join("a", timer(Cron("5 14 * * *", "Europe/Berlin")), timer(Cron("20 */2 12 * * *"), name="often"))
    await fleet.clock.advance(400)
    assert [each.at - START for each in fleet.started] == [20, 140, 260, 300, 380]


def test_a_schedule_that_cannot_be_read_is_told_before_anything_runs(fleet: Fleet) -> None:
    with pytest.raises(ConfigurationError, match="99"):
        fleet.join("a", timer(Cron("99 * * * *")))


# --- replicas on their own ----------------------------------------------------------------------------------


async def test_a_timer_of_each_replica_needs_no_store(fleet: Fleet) -> None:
    tasks = []
    for name in ("a", "b"):
        hands = Hands(fleet, name)
        worker = timer(Every(1.0, per_replica=True))
        timers = Timers([worker], None, None, hands, clock=fleet.clock, random=Random(1), observer=fleet.facts.append)
        tasks.append(asyncio.get_running_loop().create_task(timers.run()))
    await fleet.clock.advance(10.5)
    assert times(fleet, "a") == times(fleet, "b") == [float(n) for n in range(1, 11)]
    for task in tasks:
        task.cancel()
    with pytest.raises(TypeError, match="store"):
        Timers([timer(Every(1))], None, None, Hands(fleet, "c"), clock=fleet.clock, random=Random(1), observer=print)


async def test_a_timer_of_each_replica_runs_while_the_store_is_away(fleet: Fleet) -> None:
    fleet.join("a", timer(Every(1.0, per_replica=True), name="mine"), timer(Every(1.0)))
    fleet.store.away = True
    fleet.store.slow = 30.0
    await fleet.clock.advance(20.5)
    assert times(fleet) == [float(n) for n in range(1, 21)]


async def test_an_overlong_run_of_a_replica_is_not_overlapped(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 2.5
    fleet.join("a", timer(Every(1.0, per_replica=True)))
    await fleet.clock.advance(12)
    assert times(fleet) == [1.0, 3.0, 6.0, 8.0, 11.0]
    assert not overlaps(fleet.started)


async def test_idle_timers_cost_one_read_a_second(fleet: Fleet) -> None:
    fleet.join("a", *(timer(Cron("0 3 * * *"), name=f"nightly{n}") for n in range(200)))
    await fleet.clock.advance(5)
    gets, swaps = fleet.store.gets, fleet.store.swaps
    await fleet.clock.advance(100)
    assert fleet.store.swaps == swaps == 1, "two hundred first records in one batch"
    assert fleet.store.gets - gets <= 101


# --- failures and verdicts ----------------------------------------------------------------------------------


async def test_a_failed_run_is_tried_again_until_it_succeeds(fleet: Fleet) -> None:
    async def handler(started: Started) -> End:
        return Ended(Done()) if started.attempt == 3 else Failed("boom")

    fleet.handler = handler
    fleet.join("a", timer(Every(60.0)))
    await fleet.clock.advance(90)
    assert [(each.at - START, each.attempt) for each in fleet.started] == [(60, 1), (60, 2), (60, 3)]
    assert [round(b.start - (a.end or 0), 3) for a, b in pairwise(fleet.started)] == [0.1, 0.3]
    assert not fleet.told("timer_failed")


async def test_a_run_that_goes_on_failing_is_given_up_and_told(fleet: Fleet) -> None:
    async def handler(_: Started) -> End:
        return Failed("boom")

    fleet.handler = handler
    fleet.join("a", timer(Every(60.0)))
    await fleet.clock.advance(90)
    assert [each.attempt for each in fleet.started] == [1, 2, 3]
    [failed] = fleet.told("timer_failed")
    assert failed.detail["error"] == "boom"
    assert (await timer_record(fleet)).error == "boom"
    await fleet.clock.advance(60)
    assert len(fleet.started) == 6, "the next occurrence begins anew"


async def test_retries_end_when_the_next_occurrence_is_due(fleet: Fleet) -> None:
    async def handler(_: Started) -> End:
        return Failed("boom")

    fleet.handler = handler
    fleet.join("a", timer(Every(2.0), retry=Backoff(attempts=50, first=0.9, factor=1.0, jitter=1.0)))
    await fleet.clock.advance(4.5)
    assert [(each.at - START, each.attempt) for each in fleet.started] == [(2, 1), (2, 2), (4, 1)]


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        (Later(3.0, "busy"), [(60, 1), (60, 2)]),
        (Later(3.0, "not yet", attempt=False), [(60, 1), (60, 1)]),
        (Dead("never"), [(60, 1)]),
    ],
)
async def test_verdicts(fleet: Fleet, verdict: Later | Dead, expected: list[tuple[float, int]]) -> None:
    async def handler(_: Started) -> End:
        return Ended(verdict if len(fleet.started) == 1 else Done())

    fleet.handler = handler
    fleet.join("a", timer(Every(60.0)))
    await fleet.clock.advance(90)
    assert [(each.at - START, each.attempt) for each in fleet.started] == expected
    assert bool(fleet.told("timer_failed")) == isinstance(verdict, Dead)


async def test_what_may_run_at_most_once_is_not_tried_again(fleet: Fleet) -> None:
    async def handler(_: Started) -> End:
        return Failed("boom")

    fleet.handler = handler
    fleet.join("a", timer(Every(60.0, once="at_most")))
    await fleet.clock.advance(90)
    assert times(fleet) == [60.0]


# --- the store ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("once", ["at_least", "at_most"])
async def test_lost_replies_and_old_reads_neither_repeat_nor_lose(seed: int, once: str) -> None:
    fleet = Fleet(seed)
    fleet.store.lost, fleet.store.old, fleet.store.slow = 0.5, 5.0, 0.2
    for name in NAMES:
        trigger = Every(2.0, misfire="all", once="at_most" if once == "at_most" else "at_least")
        fleet.join(name, timer(trigger))
    await fleet.clock.advance(90)
    fleet.store.lost = fleet.store.old = 0.0
    await fleet.clock.advance(30)
    first = min(times(fleet))
    assert times(fleet) == [first + 2 * n for n in range(len(fleet.started))]
    assert first <= 10
    assert times(fleet)[-1] >= 116
    assert all(each.attempt == 1 for each in fleet.started)
    assert not early(fleet.started)
    assert not overlaps(fleet.started)
    await fleet.close()


async def test_a_store_that_comes_back_finds_its_timers(fleet: Fleet) -> None:
    fleet.join("a", timer(Every(1.0)))
    await fleet.clock.advance(3.5)
    fleet.store.away = True
    await fleet.clock.advance(20)
    assert times(fleet) == [1.0, 2.0, 3.0]
    fleet.store.away = False
    await fleet.clock.advance(3)
    assert times(fleet)[3:] in ([24.0, 25.0, 26.0], [23.0, 24.0, 25.0, 26.0])
    assert fleet.started[3].past_due


# --- the fence ----------------------------------------------------------------------------------------------


async def test_a_lapsed_fence_cancels_what_runs_and_starts_nothing(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 30.0 if len(fleet.started) == 1 else 0.1
    a = fleet.join("a", timer(Every(60.0)))
    await fleet.clock.advance(65)
    a.members.cut_off()
    await fleet.clock.advance(9.9)
    assert fleet.running() is not None
    await fleet.clock.advance(0.2)
    assert fleet.running() is None
    assert fleet.started[0].how == "Cancelled"
    await fleet.clock.advance(60)
    assert times(fleet) == [60.0]
    a.members.come_back()
    await fleet.clock.advance(1)
    assert [(each.at - START, each.attempt) for each in fleet.started] == [(60, 1), (60, 1), (120, 1)]


async def test_who_was_buried_does_not_go_on_with_what_another_took_over(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 20.0
    a = fleet.join("a", timer(Every(60.0)))
    await fleet.clock.advance(65)
    b = fleet.join("b", timer(Every(60.0)))
    a.members.lapse()
    await fleet.clock.advance(4)
    a.members.be_buried()
    await fleet.clock.advance(3)
    assert [(each.at - START, each.attempt) for each in fleet.started] == [(60, 1), (60, 2)]
    await fleet.clock.advance(30)
    assert len(fleet.started) == 2
    assert not overlaps(fleet.started)
    assert b.timers.idle
    assert a.timers.idle


async def test_a_success_that_ends_after_the_burial_is_still_written(fleet: Fleet) -> None:
    """A `def` handler cannot be cancelled: it ends well, and nobody has begun it again."""
    fleet.seconds = lambda _: 10.0
    a = fleet.join("a", timer(Every(60.0)))
    a.hands.deaf = True
    await fleet.clock.advance(65)
    fleet.store.away = True
    a.members.be_buried()
    await fleet.clock.advance(6)
    fleet.store.away = False
    await fleet.clock.advance(5)
    assert times(fleet) == [60.0]
    assert (await timer_record(fleet)).state == "done"


async def test_a_claim_whose_id_was_buried_before_the_answer_is_not_started(fleet: Fleet) -> None:
    a = fleet.join("a", timer(Every(10.0)))
    await fleet.clock.advance(9)
    fleet.store.slow = 3.0
    await fleet.clock.advance(1.05)
    assert (await timer_record(fleet)).state == "done", "the claim is under way"
    a.members.be_buried()
    fleet.store.slow = 0.0
    await fleet.clock.advance(10)
    assert [each.at - START for each in fleet.started].count(10) == 1
    assert not overlaps(fleet.started)


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_each_occurrence_runs_and_never_two_at_once(seed: int) -> None:
    """Deaths, lapsed fences, burials, joins, lost replies, old reads, a clock that is set: two minutes of it."""
    fleet, chance = Fleet(seed), Random(seed)
    fleet.seconds = lambda _: chance.random() * 1.2
    fleet.store.lost, fleet.store.old, fleet.store.slow = 0.2, 5.0, 0.1
    worker = timer(Every(1.0, misfire="all"))
    for name in NAMES:
        fleet.join(name, worker)
    harm = 0
    for n in range(24):
        await fleet.clock.advance(chance.random() * 10)
        victim = fleet.running() or Started(chance.choice(sorted(fleet.replicas)), 0, 0, False, 0, 0)
        match chance.choice(["kill", "lapse", "bury", "clock", "nothing"]):
            case "kill":
                harm += 1
                member = fleet.kill(victim.replica)
                fleet.join(f"new{n}", worker)
                await fleet.clock.advance(5)
                fleet.bury(member)
            case "lapse" | "bury" as how:
                harm += 1
                members = fleet.replicas[victim.replica].members
                members.lapse()
                await fleet.clock.advance(4)
                members.be_buried() if how == "bury" else members.come_back()
            case "clock":
                fleet.clock.jump(chance.uniform(-3, 3))
    fleet.store.lost = fleet.store.old = fleet.store.slow = 0.0
    fleet.seconds = lambda _: 0.01
    await fleet.clock.advance(60)
    assert await fleet.clock.run_until(lambda: fleet.running() is None)
    counts = Counter(each.at for each in fleet.started)
    assert sorted(counts) == [START + n for n in range(int(min(counts) - START), int(max(counts) - START) + 1)]
    assert max(counts) >= fleet.clock.now() - 4
    assert len(fleet.started) - len(counts) <= harm
    assert {each.at for each in fleet.started if each.how == "Ended"} == set(counts)
    assert not early(fleet.started)
    assert not overlaps(fleet.started)
    await fleet.close()


async def test_with_real_members_a_dead_holder_is_followed_within_seconds_of_its_burial() -> None:
    fleet = Fleet(seconds=lambda _: 5.0)
    worker = timer(Every(20.0))
    tasks: dict[str, list[asyncio.Task[None]]] = {}
    hands: dict[str, Hands] = {}
    for name in NAMES:
        chance = Random(name)
        membership = Membership(
            fleet.memory.store(),
            None,
            clock=fleet.clock,
            random=chance,
            profile=NORMAL,
            identity=Identity(name, ("timers",)),
            observer=fleet.facts.append,
        )
        hands[name] = Hands(fleet, name)
        timers = Timers(
            [worker],
            fleet.store,
            membership,
            hands[name],
            clock=fleet.clock,
            random=chance,
            observer=fleet.facts.append,
        )
        await membership.join()
        loop = asyncio.get_running_loop()
        tasks[name] = [loop.create_task(membership.run()), loop.create_task(timers.run())]
    await fleet.clock.advance(22)
    holder = fleet.running()
    assert holder is not None
    hands[holder.replica].kill()
    for task in tasks.pop(holder.replica):
        task.cancel()
    await fleet.clock.advance(18)
    assert [(each.at - START, each.attempt) for each in fleet.started][:2] == [(20, 1), (20, 2)]
    assert holder.end is not None
    assert 14 - 5.5 <= fleet.started[1].start - holder.end <= 14 + 2.5, "counted from its last renewal"
    await fleet.clock.advance(30)
    assert [each.at - START for each in fleet.started] == [20, 20, 40, 60]
    assert not overlaps(fleet.started)
    for task in [task for each in tasks.values() for task in each]:
        task.cancel()


# --- clocks -------------------------------------------------------------------------------------------------


async def test_a_clock_that_goes_back_reruns_nothing_and_starts_nothing_early(fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.join(name, timer(Every(1.0)))
    await fleet.clock.advance(5.5)
    fleet.clock.jump(-3.0)
    await fleet.clock.advance(6)
    assert times(fleet) == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    assert not early(fleet.started)


async def test_a_clock_that_goes_back_between_claim_and_start_waits(fleet: Fleet) -> None:
    fleet.join("a", timer(Every(10.0)))
    await fleet.clock.advance(9)
    fleet.store.slow = 2.0
    await fleet.clock.advance(1.05)
    fleet.clock.jump(-5.0)
    await fleet.clock.advance(3)
    assert not fleet.started
    await fleet.clock.advance(4)
    assert times(fleet) == [10.0]
    assert not early(fleet.started)


@pytest.mark.parametrize(("misfire", "count"), [("once", 1), ("all", 100), ("skip", 0)])
async def test_a_clock_that_jumps_ahead_is_a_misfire(fleet: Fleet, misfire: str, count: int) -> None:
    fleet.seconds = lambda _: 0.01
    named = {"once": Every(60.0), "all": Every(60.0, misfire="all"), "skip": Every(60.0, misfire="skip")}[misfire]
    fleet.join("a", timer(named))
    await fleet.clock.advance(30)
    fleet.clock.jump(6_010.0)
    await fleet.clock.advance(10)
    assert len(fleet.started) == count
    assert sum(each.past_due for each in fleet.started) >= count - 1
    missed = sum(fact.count for fact in fleet.told("timer_missed"))
    assert count + missed == 100


# --- schedules and controls ---------------------------------------------------------------------------------


async def test_a_new_schedule_takes_over_in_a_rolling_update(fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.join(name, timer(Every(1.0, misfire="all")))
    await fleet.clock.advance(10.3)
    fleet.join("c", timer(Every(5.0, misfire="all")))
    await fleet.clock.advance(10.5)
    assert times(fleet) == [*(float(n) for n in range(1, 11)), 15.0, 20.0]
    fleet.join("d", timer(Every(5.0, misfire="all")))
    for old in ("a", "b"):
        fleet.bury(fleet.kill(old))
    await fleet.clock.advance(10)
    assert times(fleet)[12:] == [25.0, 30.0]
    assert len(fleet.told("timer_rescheduled")) == 1


async def test_a_schedule_that_is_rolled_back_comes_back(fleet: Fleet) -> None:
    fleet.join("a", timer(Every(1.0)))
    await fleet.clock.advance(2.3)
    fleet.join("b", timer(Every(3600.0)))
    await fleet.clock.advance(5)
    assert times(fleet) == [1.0, 2.0]
    fleet.bury(fleet.kill("b"))
    await fleet.clock.advance(4)
    assert times(fleet)[2:] in ([8.0, 9.0, 10.0, 11.0], [9.0, 10.0, 11.0])


async def test_a_new_schedule_does_not_interrupt_what_runs(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 4.0
    fleet.join("a", timer(Every(10.0)))
    await fleet.clock.advance(11)
    fleet.join("b", timer(Every(2.0)))
    await fleet.clock.advance(2)
    assert len(fleet.started) == 1
    await fleet.clock.advance(6)
    assert times(fleet) == [10.0, 14.0, 18.0]
    assert fleet.started[0].how == "Ended"
    assert not fleet.told("timer_overtaken")
    assert not overlaps(fleet.started)


async def test_pause_and_resume(fleet: Fleet) -> None:
    for name in ("a", "b"):
        fleet.join(name, timer(Every(1.0, misfire="all")))
    await fleet.clock.advance(5.5)
    paused = pause(Control(), fleet.clock.now())
    await wish(fleet, paused)
    await fleet.clock.advance(10)
    assert len(fleet.started) <= 6, "seen within a second"
    count = len(fleet.started)
    await wish(fleet, resume(paused, fleet.clock.now()))
    await fleet.clock.advance(3)
    assert times(fleet)[count:] == [16.0, 17.0, 18.0]


async def test_run_now_runs_once_for_all_replicas(fleet: Fleet) -> None:
    for name in NAMES:
        fleet.join(name, timer(Every(3600.0)))
    await fleet.clock.advance(5)
    await wish(fleet, run_now(Control(), "first"))
    await fleet.clock.advance(3)
    assert len(fleet.started) == 1
    assert 0 <= fleet.started[0].at - START - 5 <= 1.2
    await fleet.clock.advance(3600 - 8.5)
    assert len(fleet.started) == 1
    await fleet.clock.advance(2)
    assert times(fleet)[1:] == [3600.0]


async def test_run_now_reaches_each_replica_of_a_timer_of_each_replica(fleet: Fleet) -> None:
    await wish(fleet, run_now(Control(), "old"))
    for name in ("a", "b"):
        fleet.join(name, timer(Every(3600.0, per_replica=True)))
    await fleet.clock.advance(5)
    assert not fleet.started, "wished for before they lived"
    await wish(fleet, run_now(Control(), "new"))
    await fleet.clock.advance(3)
    assert sorted(each.replica for each in fleet.started) == ["a", "b"]


# --- drain --------------------------------------------------------------------------------------------------


async def test_stop_claims_nothing_more_and_lets_run_what_runs(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 1.5
    a = fleet.join("a", timer(Every(5.0)))
    await fleet.clock.advance(5.5)
    a.timers.stop()
    a.timers.stop()
    await fleet.clock.advance(0.5)
    assert a.timers.running == ["tick"]
    await fleet.clock.advance(10)
    assert a.task.done()
    assert a.timers.idle
    assert times(fleet) == [5.0]
    assert (await timer_record(fleet)).state == "done"


async def test_what_was_not_begun_goes_to_another_at_once(fleet: Fleet) -> None:
    a = fleet.join("a", timer(Every(5.0)))
    a.hands.holding = True
    await fleet.clock.advance(5.2)
    b = fleet.join("b", timer(Every(5.0)))
    await fleet.clock.advance(0.2)
    a.timers.stop()
    await fleet.clock.advance(1.5)
    assert a.task.done()
    assert [(each.replica, each.at - START, each.attempt) for each in fleet.started] == [("b", 5, 1)]
    assert b.timers.idle


async def test_a_stuck_replica_keeps_only_what_its_handlers_have_begun(fleet: Fleet) -> None:
    a = fleet.join("a", timer(Every(5.0)), timer(Every(5.0, per_replica=True), name="mine"))
    a.hands.holding = True
    await fleet.clock.advance(5.2)
    b = fleet.join("b", timer(Every(5.0)))
    a.timers.stall(True)
    await fleet.clock.advance(1.5)
    assert [(each.replica, each.at - START, each.attempt) for each in fleet.started] == [("b", 5, 1)]
    await fleet.clock.advance(10)
    assert {each.replica for each in fleet.started} == {"b"}
    fleet.bury(fleet.kill(b.name))
    a.hands.holding = False
    a.timers.stall(False)
    await fleet.clock.advance(4.8)
    assert times(fleet, "a") == [5.0, 15.0, 20.0, 20.0], "its own goes on where it was, the shared one as it is due"
    assert not a.task.done()


async def test_what_a_drain_cuts_off_goes_back_with_its_attempt(fleet: Fleet) -> None:
    fleet.seconds = lambda each: 100.0 if each.replica == "a" else 0.1
    a = fleet.join("a", timer(Every(5.0)))
    await fleet.clock.advance(5.5)
    fleet.join("b", timer(Every(5.0)))
    a.timers.stop()
    await fleet.clock.advance(1)
    a.timers.cancel("the replica is stopping")
    await fleet.clock.advance(2)
    assert a.task.done()
    assert [(each.replica, each.attempt) for each in fleet.started][:2] == [("a", 1), ("b", 1)]
    assert not fleet.told("timer_lost")


async def test_a_retry_that_waits_goes_to_another_when_we_stop(fleet: Fleet) -> None:
    async def handler(started: Started) -> End:
        return Failed("boom") if started.replica == "a" else Ended(Done())

    fleet.handler = handler
    a = fleet.join("a", timer(Every(600.0), retry=Backoff(attempts=3, first=60.0)))
    await fleet.clock.advance(601)
    fleet.join("b", timer(Every(600.0)))
    a.timers.stop()
    await fleet.clock.advance(3)
    assert a.task.done()
    assert [(each.replica, each.attempt) for each in fleet.started] == [("a", 1), ("b", 2)]


async def test_a_claim_that_was_not_sent_when_we_stop_is_not_sent(fleet: Fleet) -> None:
    a = fleet.join("a", timer(Every(5.0)))
    await fleet.clock.advance(3.5)
    fleet.store.open.clear()
    await fleet.clock.advance(2)  # a read is under way, and the claim behind it
    a.timers.stop()
    fleet.store.open.set()
    await fleet.clock.advance(5)
    assert a.task.done()
    assert fleet.store.swaps == 1, "only the first record"
    assert not fleet.started


async def test_stop_before_start_is_legal(fleet: Fleet) -> None:
    a = fleet.join("a", timer(Every(5.0)))
    a.timers.stop()
    await fleet.clock.advance(20)
    assert a.task.done()
    assert not fleet.started
