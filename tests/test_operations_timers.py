"""Timers as an operator handles them: the records that are written, and what the engine makes of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from random import Random

import pytest
import pytest_asyncio

from tests.engine.timer_fleet import BURY_AFTER, START, Fleet, overlaps, timer
from tidemill import App, operations
from tidemill.adapters.memory import Memory
from tidemill.app.worker import Cron, Declared, Every, Worker
from tidemill.core import timer as records
from tidemill.core.timer import Control
from tidemill.engine.places import Places, places
from tidemill.errors import Refused
from tidemill.model import Record, Swap, Swapped
from tidemill.ports import Store
from tidemill.testing.clock import FakeClock


class Home(Places):
    """Places that consist of one store."""

    def shared_store(self) -> Store:
        assert isinstance(self.main, Kept)
        return self.main.kept


class Kept(Memory):
    def __init__(self, kept: Store) -> None:
        super().__init__(FakeClock())
        self.kept = kept


def at(store: Store) -> Places:
    home = Kept(store)
    return Home(home, {}, {}, home)


def declared(*workers: Worker) -> Declared:
    return Declared("avalon", None, (), (), workers, (), None)


@pytest_asyncio.fixture
async def fleet() -> AsyncIterator[Fleet]:
    fleet = Fleet()
    yield fleet
    await fleet.close()


def times(fleet: Fleet) -> list[float]:
    return [round(each.at - START, 6) for each in fleet.started]


# --- run now ------------------------------------------------------------------------------------------------


async def test_a_run_now_is_once_for_all_replicas_and_leaves_the_schedule(fleet: Fleet) -> None:
    tick, home = timer(Every(60.0)), at(fleet.store.store)
    for name in ("a", "b", "c"):
        fleet.join(name, tick)
    await fleet.clock.advance(5)
    await operations.run_timer(home, tick, random=Random(1))
    [state] = await operations.timers(home, declared(tick), fleet.clock.now())
    assert state.wished
    await fleet.clock.advance(3)
    assert [each.attempt for each in fleet.started] == [1]
    [state] = await operations.timers(home, declared(tick), fleet.clock.now())
    assert (state.wished, state.next) == (False, START + 60)
    await fleet.clock.advance(60)
    assert times(fleet)[1:] == [60.0]


async def test_each_wish_is_one_run(fleet: Fleet) -> None:
    tick, home = timer(Every(3600.0)), at(fleet.store.store)
    fleet.join("a", tick)
    for _ in range(3):
        await fleet.clock.advance(5)
        await operations.run_timer(home, tick, random=fleet.random)
    await fleet.clock.advance(5)
    assert len(fleet.started) == 3


async def test_a_wish_waits_for_what_runs(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 20.0
    tick, home = timer(Every(60.0)), at(fleet.store.store)
    for name in ("a", "b"):
        fleet.join(name, tick)
    await fleet.clock.advance(65)
    await operations.run_timer(home, tick, random=Random(1))
    await fleet.clock.advance(40)
    assert len(fleet.started) == 2
    assert not overlaps(fleet.started)


async def test_a_wish_is_served_while_the_timer_is_paused(fleet: Fleet) -> None:
    tick, home = timer(Every(2.0)), at(fleet.store.store)
    await operations.pause_timer(home, tick, fleet.clock.now(), random=Random(1))
    fleet.join("a", tick)
    await fleet.clock.advance(10)
    assert fleet.started == []
    await operations.run_timer(home, tick, random=Random(2))
    await fleet.clock.advance(10)
    assert len(fleet.started) == 1


async def test_a_run_now_outlives_who_began_it(fleet: Fleet) -> None:
    fleet.seconds = lambda started: 60.0 if started.attempt == 1 else 0.1
    tick, home = timer(Every(3600.0)), at(fleet.store.store)
    for name in ("a", "b"):
        fleet.join(name, tick)
    await fleet.clock.advance(5)
    await operations.run_timer(home, tick, random=Random(1))
    await fleet.clock.advance(3)
    running = fleet.running()
    assert running is not None
    await fleet.kill_and_bury(running.replica)
    await fleet.clock.advance(BURY_AFTER)
    assert [(each.attempt, each.how) for each in fleet.started] == [(1, "killed"), (2, "Ended")]


async def test_a_timer_of_each_replica_is_not_run_for_all(fleet: Fleet) -> None:
    with pytest.raises(Refused, match="timer 'tick' runs in each replica by itself: it cannot be run once for all"):
        await operations.run_timer(at(fleet.store.store), timer(Every(2.0, per_replica=True)), random=Random(1))


# --- pause and resume ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("misfire", ["skip", "once", "all"])
@pytest.mark.parametrize("per_replica", [False, True])
async def test_what_fell_into_a_pause_is_skipped(fleet: Fleet, misfire: str, per_replica: bool) -> None:
    tick, home = timer(Every(10.0, misfire=misfire, per_replica=per_replica)), at(fleet.store.store)  # type: ignore[arg-type]
    fleet.join("a", tick)
    await fleet.clock.advance(12)
    assert await operations.pause_timer(home, tick, fleet.clock.now(), random=Random(1))
    assert not await operations.pause_timer(home, tick, fleet.clock.now() + 1, random=Random(1))
    [state] = await operations.timers(home, declared(tick), fleet.clock.now())
    assert (state.paused, state.next) == (True, None)
    await fleet.clock.advance(50)
    assert await operations.resume_timer(home, tick, fleet.clock.now(), random=Random(1))
    assert not await operations.resume_timer(home, tick, fleet.clock.now(), random=Random(1))
    await fleet.clock.advance(20)
    assert times(fleet) == [10.0, 70.0, 80.0]


async def test_a_pause_outlives_a_restart_of_all(fleet: Fleet) -> None:
    tick, home = timer(Every(10.0)), at(fleet.store.store)
    fleet.join("a", tick)
    await fleet.clock.advance(12)
    await operations.pause_timer(home, tick, fleet.clock.now(), random=Random(1))
    await fleet.kill_and_bury("a")
    fleet.join("b", tick)
    await fleet.clock.advance(60)
    assert times(fleet) == [10.0]


# --- which there are ----------------------------------------------------------------------------------------


async def test_timers_are_listed_with_their_schedule() -> None:
    app = App("avalon")
    app.every("30s", per_replica=True, name="beat")(lambda: None)
    app.cron("0 3 * * *", tz="Europe/Berlin", name="nightly", misfire="skip")(lambda: None)
    home = places(app.declared(), Memory(FakeClock()))
    await home.open()
    now = 1_780_315_200.0
    one, two = await operations.timers(home, app.declared(), now)
    assert (one.name, one.per_replica, one.seen) == ("beat", True, None)
    assert (two.name, two.misfire, two.paused, two.wished) == ("nightly", "skip", False, False)
    assert two.next is not None
    assert 0 < two.next - now <= 86_400
    assert two.seen is not None
    assert two.seen.state == "never ran"


# --- rename -------------------------------------------------------------------------------------------------


async def ran(fleet: Fleet) -> Places:
    """`tick` has run twice and is paused."""
    tick, home = timer(Every(10.0)), at(fleet.store.store)
    fleet.join("a", tick)
    await fleet.clock.advance(22)
    await operations.pause_timer(home, tick, fleet.clock.now(), random=Random(1))
    await fleet.kill_and_bury("a")
    return home


async def test_a_renamed_timer_goes_on_where_it_was(fleet: Fleet) -> None:
    home, tock = await ran(fleet), timer(Every(10.0), name="tock")
    await operations.rename_timer(home, "tick", tock, random=Random(1))
    assert [record.key for record in await home.shared_store().scan("", "", 100)] == [
        "control/timer/tock",
        "timer/tock",
    ]
    fleet.join("b", tock)
    await fleet.clock.advance(30)
    assert times(fleet) == [10.0, 20.0]
    [state] = await operations.timers(home, declared(tock), fleet.clock.now())
    assert (state.paused, state.seen and state.seen.last) == (True, START + 20)


async def test_a_rename_that_was_interrupted_is_repeated(fleet: Fleet) -> None:
    class Breaking:
        def __init__(self, inner: Store, left: int) -> None:
            self.inner, self.left = inner, left

        async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
            return await self.inner.get(keys)

        async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
            return await self.inner.scan(prefix, after, limit)

        async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
            if self.left == 0:
                raise ConnectionError
            self.left -= 1
            return await self.inner.swap(swaps)

    tock = timer(Every(10.0), name="tock")
    for writes in range(5):
        here = Fleet()
        home = await ran(here)
        with pytest.raises(ConnectionError):
            await operations.rename_timer(at(Breaking(home.shared_store(), writes)), "tick", tock, random=Random(1))
        await operations.rename_timer(home, "tick", tock, random=Random(1))
        found = {record.key: record.value for record in await home.shared_store().scan("", "", 100)}
        assert sorted(found) == ["control/timer/tock", "timer/tock"], writes
        assert records.from_value(found["timer/tock"]).last == START + 20
        assert records.from_value(found["timer/tock"]).extra == {}
        await here.close()


async def test_what_runs_or_has_begun_is_not_renamed(fleet: Fleet) -> None:
    fleet.seconds = lambda _: 60.0
    home, tock = at(fleet.store.store), timer(Cron("* * * * *"), name="tock")
    with pytest.raises(Refused, match="nothing is known of a timer 'tick'"):
        await operations.rename_timer(home, "tick", tock, random=Random(1))
    fleet.join("a", timer(Every(10.0)))
    await fleet.clock.advance(12)
    with pytest.raises(Refused, match=r"timer 'tick' runs in a\.0 now: wait until it has ended"):
        await operations.rename_timer(home, "tick", tock, random=Random(1))
    fleet.join("b", tock)
    await fleet.clock.advance(5)
    with pytest.raises(Refused, match="timer 'tock' has begun"):
        await operations.rename_timer(home, "tick", tock, random=Random(1))


async def test_a_control_is_changed_over_whatever_stands_there(fleet: Fleet) -> None:
    """Somebody writes between our read and our swap: both wishes stand."""
    tick, store = timer(Every(10.0)), fleet.store.store

    class Racing:
        raced = False

        async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
            return await store.get(keys)

        async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
            return await store.scan(prefix, after, limit)

        async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
            if not self.raced:
                self.raced = True
                await operations.pause_timer(at(store), tick, 5.0, random=Random(2))
            return await store.swap(swaps)

    await operations.run_timer(at(Racing()), tick, random=Random(1))
    [record] = await store.get([records.control_key("tick")])
    assert record is not None
    control = records.control_of(record.value)
    assert control == Control(paused=True, since=5.0, run=control.run)
    assert control.run
