"""Pausing, resuming, resetting and renaming feed workers, on the real engine over the reference backend."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest

from tests.engine.test_feed_depth import Lab, Thing
from tidemill import Backoff, Context, operations
from tidemill.adapters.memory import Memory
from tidemill.app.worker import Worker
from tidemill.core import lease
from tidemill.core.lease import Lease
from tidemill.core.member import Member, key_of
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError, Refused, Unavailable
from tidemill.model import Record, Swap, Swapped
from tidemill.operations import Renamed, Resumed
from tidemill.operations.records import scan
from tidemill.operations.rename import rename_feed
from tidemill.ports import Store
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness

ZERO, ONE = "0000", "0001"
"""The partitions of the reference backend."""


def worker_of(lab: Lab, name: str = "watch") -> Worker:
    [found] = [worker for worker in lab.app.declared().workers if worker.name == name]
    return found


async def keys(home: Places, prefix: str) -> list[str]:
    return [record.key async for record in scan(home.shared_store(), prefix)]


# --- pause and resume ---------------------------------------------------------------------------------------


async def test_a_paused_feed_reads_nothing_until_it_is_resumed() -> None:
    lab = Lab()
    async with Harness(lab.app) as harness:
        await harness.advance("3s")
        assert await operations.pause_feed(harness.places, worker_of(lab))
        assert not await operations.pause_feed(harness.places, worker_of(lab)), "it is paused already"
        await harness.advance("2s")
        await lab.put("a", 1)
        await harness.advance("10s")
        assert lab.seen == {}
        [state] = await operations.feeds(harness.places, lab.app.declared())
        assert state.paused
        resumed = await operations.resume_feed(harness.places, worker_of(lab), random=Random(1))
        assert resumed == Resumed(was_paused=True)
        await harness.advance("3s")
        assert lab.seen == {"a": [1]}


async def test_resume_frees_a_halted_partition() -> None:
    lab = Lab(partitions=1, on_poison="halt", retry=Backoff(attempts=1))
    broken = True

    async def act(thing: Thing, context: Context) -> None:
        if broken:
            raise RuntimeError("no")

    lab.act = act
    async with Harness(lab.app) as harness:
        await lab.put("a", 1, 2)
        await harness.advance("5s")
        [part] = harness.engine.feeds[0].parts.values()
        assert part.halted
        broken = False
        resumed = await operations.resume_feed(harness.places, worker_of(lab), random=Random(1))
        assert resumed == Resumed(was_paused=False, halted=(part.name,))
        await harness.advance("5s")
        assert lab.seen == {"a": [1, 2]}
        assert part.hold.lease.state == "running"
        assert await keys(harness.places, "control/") == []


async def test_a_wish_for_what_nobody_holds_waits() -> None:
    lab = Lab(partitions=1, on_poison="halt")
    async with Harness(lab.app, workers=[]) as harness:
        halted = Lease("0", None, epoch=3, state="halted", source="things")
        await harness.places.shared_store().swap([Swap(lease.key_of("watch", ZERO), None, halted.to_value())])
        await lab.put("a", 1)
        resumed = await operations.resume_feed(harness.places, worker_of(lab), random=Random(1))
        assert (resumed.halted, resumed.unheld) == ((ZERO,), (ZERO,))
        [state] = await operations.feeds(harness.places, lab.app.declared())
        assert state.wishes == (f"{ZERO}: resume",)
        database, clock = harness.places.main, harness.clock
    async with Harness(lab.app, database=database, clock=clock, replica="r2") as harness:
        await harness.advance("10s")
        assert lab.seen == {"a": [1]}


# --- reset --------------------------------------------------------------------------------------------------


async def test_a_plan_counts_what_would_come_again() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await lab.put("a", 1, 2, 3)
        await harness.advance("5s")
        [step] = await operations.plan_reset(harness.places, worker_of(lab), None, "beginning")
        assert (step.partition, step.again, step.passed, step.holder) == (ZERO, 3, 0, "test")
        assert lab.seen == {"a": [1, 2, 3]}, "a plan does nothing"
        assert await keys(harness.places, "control/") == []


async def test_a_plan_counts_what_would_be_passed_over() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await harness.advance("3s")
        await operations.pause_feed(harness.places, worker_of(lab))
        await harness.advance("2s")
        await lab.put("a", 1, 2, 3)
        [step] = await operations.plan_reset(harness.places, worker_of(lab), ZERO, "now")
        assert (step.again, step.passed) == (0, 3)


@pytest.mark.parametrize(("to", "expected"), [("beginning", [1, 2, 3, 1, 2, 3, 4]), ("now", [1, 2, 3, 4])])
async def test_reset(to: str, expected: list[int]) -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await lab.put("a", 1, 2, 3)
        await harness.advance("5s")
        at = "beginning" if to == "beginning" else "now"
        steps = await operations.plan_reset(harness.places, worker_of(lab), None, at)  # type: ignore[arg-type]
        await operations.reset(harness.places, worker_of(lab), steps, random=Random(1))
        await harness.advance("5s")
        await lab.put("a", 4)
        await harness.advance("5s")
        assert lab.seen == {"a": expected}
        assert await keys(harness.places, "control/") == []


async def test_a_reset_to_a_time() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await lab.put("a", 1)
        await harness.advance("60s")
        since = harness.clock.now()
        await harness.advance("1s")
        await lab.put("a", 2)
        await harness.advance("5s")
        steps = await operations.plan_reset(harness.places, worker_of(lab), None, since)
        assert [step.again for step in steps] == [1]
        await operations.reset(harness.places, worker_of(lab), steps, random=Random(1))
        await harness.advance("5s")
        assert lab.seen == {"a": [1, 2, 2]}


async def test_what_a_transaction_had_finished_comes_again_after_a_reset() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await lab.put("a", 1)
        await harness.advance("5s")
        row = Swap("finished/lease/watch/0000/1", None, {"format": 1})
        await harness.places.shared_store().swap([row])
        steps = await operations.plan_reset(harness.places, worker_of(lab), None, "beginning")
        await operations.reset(harness.places, worker_of(lab), steps, random=Random(1))
        await harness.advance("5s")
        assert lab.seen == {"a": [1, 1]}
        assert await keys(harness.places, "finished/") == []


async def test_a_partition_that_is_not_there() -> None:
    lab = Lab(partitions=2)
    async with Harness(lab.app, workers=[]) as harness:
        with pytest.raises(
            ConfigurationError, match="partition '7' is none of 'things': its partitions are 0000, 0001"
        ):
            await operations.plan_reset(harness.places, worker_of(lab), "7", "now")


# --- rename -------------------------------------------------------------------------------------------------


class Renaming(Lab):
    """The same feed under another name."""

    def __init__(self, name: str, partitions: int = 2) -> None:
        super().__init__(partitions=partitions, retry=Backoff(attempts=1))
        self.app.on_change(self.things, name=name, retry=Backoff(attempts=1))(self._watch)


async def before(clock: FakeClock | None = None) -> tuple[Memory, FakeClock]:
    """`watch` has worked a1 and b1, has parked the key `bad`, and is gone."""
    lab = Lab(partitions=2, retry=Backoff(attempts=1))

    async def act(thing: Thing, context: Context) -> None:
        if thing.key == "bad":
            raise RuntimeError("no")

    lab.act = act
    async with Harness(lab.app) as harness:
        await lab.put("a", 1)
        await lab.put("bad", 1, 2)
        await lab.put("b", 1)
        await harness.advance("10s")
        database, now = harness.places.main, harness.clock
        assert isinstance(database, Memory)
    return database, now


async def frozen(database: Memory) -> list[str]:
    """The leases that nobody may claim."""
    return [record.key for record in await database.store().scan("lease/", "", 100) if record.value["parents"]]


async def after(database: Memory, clock: FakeClock, *, replay: bool) -> Renaming:
    """Work on as `look`; what it gets."""
    lab = Renaming("look")
    async with Harness(lab.app, database=database, clock=clock, workers=["look"], replica="later") as harness:
        if replay:
            await operations.replay(harness.places, operations.Selection("feed/look"), random=Random(2))
        await lab.put("a", 2)
        await harness.advance("30s")
    return lab


async def rename(database: Memory, clock: FakeClock, store: Store | None = None, *, dry_run: bool = False) -> Renamed:
    lab = Renaming("look")
    async with Harness(lab.app, database=database, clock=clock, workers=[], replica="renamer") as harness:
        home = harness.places
        if store is not None:
            home = Places(Broken(database, store), home.queues, home.sources, Broken(database, store))
        return await rename_feed(
            home, "watch", worker_of(lab, "look"), random=Random(3), now=clock.now(), dry_run=dry_run
        )


class Broken(Memory):
    """The same memory through another store."""

    def __init__(self, memory: Memory, store: Store) -> None:
        self.__dict__.update(memory.__dict__)
        self._broken = store

    def store(self) -> Store:  # type: ignore[override]
        return self._broken


class Crash(Exception):
    """The process has ended."""


class Breaking:
    """A store under a process that ends after so many swaps: before or after the last one takes effect."""

    def __init__(self, inner: Store, swaps: int, *, effect: bool) -> None:
        self.inner = inner
        self.left = swaps
        self.effect = effect

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        return await self.inner.get(keys)

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        return await self.inner.scan(prefix, after, limit)

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        self.left -= 1
        if self.left < 0:
            if self.effect:
                await self.inner.swap(swaps)
            raise Crash
        return await self.inner.swap(swaps)


async def test_a_rename_moves_cursors_and_parked_keys() -> None:
    database, clock = await before()
    plan = await rename(database, clock, dry_run=True)
    assert plan == Renamed(partitions=2, keys=1, letters=2)
    assert await rename(database, clock) == plan
    lab = await after(database, clock, replay=True)
    assert lab.seen == {"a": [2], "bad": [1, 2]}
    assert [record.key for record in await database.store().scan("lease/watch/", "", 10)] == []
    assert [record.key for record in await database.store().scan("park/watch/", "", 10)] == []
    assert await database.dead_letters().count("feed/watch") == {}


@pytest.mark.parametrize("effect", [True, False])
async def test_a_rename_that_was_interrupted_goes_on(effect: bool) -> None:
    """Whichever write was the last: the new name cannot work before, and gets everything after the second try."""
    swaps = 0
    while True:
        database, clock = await before()
        try:
            await rename(database, clock, Breaking(database.store(), swaps, effect=effect))
        except Crash:
            swaps += 1
        else:
            break
        if await database.store().scan("lease/watch/", "", 10) or await frozen(database):
            assert (await rename(database, clock)).again == (swaps > 1 or effect)
        lab = await after(database, clock, replay=True)
        assert lab.seen == {"a": [2], "bad": [1, 2]}, f"after {swaps} swaps"
        assert [record.key for record in await database.store().scan("lease/watch/", "", 10)] == []
    assert swaps > 8


async def test_nobody_takes_what_is_being_renamed() -> None:
    database, clock = await before()
    with pytest.raises(Crash):
        await rename(database, clock, Breaking(database.store(), 4, effect=True))
    lab = Renaming("look")
    async with Harness(lab.app, database=database, clock=clock, replica="both") as harness:
        await lab.put("a", 2)
        await harness.advance("30s")
        assert [feed.parts for feed in harness.engine.feeds] == [{}, {}]
        states = await operations.feeds(harness.places, lab.app.declared())
        assert {part.state for state in states for part in state.partitions} == {"renaming"}
    assert lab.seen == {}


async def test_a_worker_that_is_worked_is_not_renamed() -> None:
    database, clock = await before()
    store = database.store()
    await store.swap([Swap(key_of("m1"), None, Member("m1", "pod-1", ("feeds",)).to_value())])
    [record] = await store.get([lease.key_of("watch", ONE)])
    assert record is not None
    await store.swap([Swap(record.key, record.version, {**record.value, "owner": "m1"})])
    with pytest.raises(Refused, match="pod-1 holds partition 0001 of 'watch': stop it first"):
        await rename(database, clock)
    found = [lease.from_value(record.value) for record in await store.scan("lease/", "lease/", 10)]
    assert [(one.owner, one.parents, dict(one.extra)) for one in found] == [(None, (), {}), ("m1", (), {})]


async def test_a_name_that_has_begun_is_not_written_over() -> None:
    database, clock = await before()
    await database.store().swap([Swap(lease.key_of("look", ONE), None, Lease("0", source="things").to_value())])
    with pytest.raises(Refused, match=r"'look' has begun \(partition 0001\)"):
        await rename(database, clock)


async def test_a_name_that_begins_meanwhile_undoes_it() -> None:
    database, clock = await before()

    class Racing(Breaking):
        async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
            if swaps[0].key == lease.key_of("look", ONE) and swaps[0].version is None:
                await self.inner.swap([Swap(swaps[0].key, None, Lease("0", source="things").to_value())])
            return await self.inner.swap(swaps)

    with pytest.raises(Refused, match="while it was renamed; nothing was moved"):
        await rename(database, clock, Racing(database.store(), 0, effect=False))
    found = {r.key: lease.from_value(r.value) for r in await database.store().scan("lease/", "lease/", 10)}
    assert sorted(found) == ["lease/look/0001", "lease/watch/0000", "lease/watch/0001"]
    assert all(one.parents == () and one.extra == {} for one in found.values())


async def test_there_must_be_something_to_rename() -> None:
    database = Memory(clock := FakeClock())
    with pytest.raises(Refused, match="nothing is known of a feed worker 'watch'"):
        await rename(database, clock)


async def test_a_store_that_does_not_answer_is_told() -> None:
    database, clock = await before()

    class Away(Breaking):
        async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
            raise Unavailable

    with pytest.raises(Unavailable):
        await rename(database, clock, Away(database.store(), 0, effect=False))
