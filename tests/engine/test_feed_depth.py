"""The rarer ways of a feed worker: crashes, controls, expiry, stalls, moves, fences, skipped and halted parked keys."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import pytest
from pydantic import BaseModel

from tidemill import App, Backoff, Change, Context, Reject, Retry, Snooze
from tidemill.core.park import MAX_KEYS, Index, Parked
from tidemill.engine.work import Stuck
from tidemill.model import Moved, Page, Swap
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness


class Thing(BaseModel):
    id: str
    key: str
    n: int


class Lab:
    """One feed worker; `act(change, context)` is what its handler does."""

    def __init__(self, *, partitions: int = 2, **options: Any) -> None:
        self.app = App("test")
        self.things = self.app.collection("things", Thing, id="id", key="key", partitions=partitions)
        self.seen: defaultdict[str, list[int]] = defaultdict(list)
        self.act: Any = None
        self.app.on_change(self.things, name="watch", **options)(self._watch)

    async def _watch(self, change: Change[Thing], context: Context) -> None:
        if self.act is not None:
            await self.act(change.value, context)
        self.seen[change.value.key].append(change.value.n)

    async def put(self, key: str, *numbers: int) -> None:
        for n in numbers:
            await self.things.put(Thing(id=f"{key}-{n}", key=key, n=n))


async def control(harness: Harness, key: str, **value: Any) -> None:
    await harness.places.shared_store().swap([Swap(f"control/{key}", None, {"format": 1, **value})])


async def test_a_change_that_ends_its_process_is_parked_and_its_neighbours_pass() -> None:
    lab = Lab(concurrency=4)
    clock: FakeClock | None = None
    database = None
    begun = 0

    async def act(thing: Thing, context: Context) -> None:
        nonlocal begun
        if thing.n == 7:
            begun += 1
            await harness.clock.sleep(36_000)

    lab.act = act
    for life in range(9):
        async with Harness(lab.app, database=database, clock=clock, replica=f"r{life}") as harness:
            database, clock = harness.places.main, harness.clock
            if not life:
                for n in range(20):
                    await lab.put(f"k{n}", n)
            await harness.advance("6s")
            await harness.kill()
    assert begun <= 6
    assert {key for key, seen in lab.seen.items() if seen} == {f"k{n}" for n in range(20) if n != 7}
    [(source, count)] = (await database.dead_letters().count("feed/")).items()
    [letter] = await database.dead_letters().page(source, -1, 10)
    assert (count, letter.reason) == (1, "the process ended during it")


async def test_pause_and_resume() -> None:
    lab = Lab()
    async with Harness(lab.app) as harness:
        await harness.advance("3s")
        await control(harness, "worker/watch", wish="pause")
        await harness.advance("2s")
        await lab.put("a", 1)
        await harness.advance("10s")
        assert lab.seen == {}
        store = harness.places.shared_store()
        [record] = await store.get(["control/worker/watch"])
        assert record is not None
        await store.swap([Swap(record.key, record.version, None)])
        await harness.advance("3s")
        assert lab.seen == {"a": [1]}


async def test_reset_reads_again_under_a_new_epoch() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await lab.put("a", 1, 2, 3)
        await harness.advance("5s")
        [part] = harness.engine.feeds[0].parts.values()
        before = part.hold.token[0]
        await control(harness, f"feed/watch/{part.name}/r", wish="reset", cursor="0")
        await harness.advance("5s")
        assert lab.seen == {"a": [1, 2, 3, 1, 2, 3]}
        [part] = harness.engine.feeds[0].parts.values()
        assert part.hold.token[0] > before
        assert await harness.places.shared_store().scan("control/", "control/", 10) == []


async def test_expiry_is_loud_and_goes_on() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app, workers=[]) as harness:
        await lab.put("a", 1, 2)
        database, clock = harness.places.main, harness.clock
    async with Harness(lab.app, database=database, clock=clock, replica="r2") as harness:
        await harness.advance("2s")
        await harness.kill()
    lab.seen.clear()
    async with Harness(lab.app, workers=[], database=database, clock=clock, replica="r3") as harness:
        await lab.put("a", 3)
        clock.jump(100.0)
        await database.feed(lab.things.spec).trim({}, 50.0)
        await lab.put("a", 4)
    async with Harness(lab.app, database=database, clock=clock, replica="r4") as harness:
        await harness.advance("30s")
        assert lab.seen == {"a": [4]}
        assert any(fact.name == "expired" for fact in harness.facts)


async def test_a_stuck_replica_starts_nothing_until_it_ticks_again() -> None:
    lab = Lab(partitions=4)
    async with Harness(lab.app) as harness:
        await harness.advance("5s")
        assert len(harness.engine.feeds[0].parts) == 4
        harness.engine._stuck = lambda: Stuck(6.0)
        await harness.advance("5s")
        assert harness.engine.stalled
        await lab.put("a", 1)
        await harness.advance("5s")
        assert lab.seen == {}
        harness.engine._stuck = lambda: Stuck(0.0)
        await harness.advance("20s")
        assert lab.seen == {"a": [1]}


async def test_a_partition_that_moved_is_worked_off_and_handed_on() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await lab.put("a", 1)
        await harness.advance("3s")
        worker = harness.engine.feeds[0]
        [part] = worker.parts.values()
        await lab.put("a", 2)
        worker._arrived(part.name, part.lanes.read_to, Moved({"left": "0", "right": "0"}))
        await harness.advance("3s")
        records = await harness.places.shared_store().scan("lease/watch/", "lease/watch/", 10)
        assert {record.key.rpartition("/")[2] for record in records} >= {"left", "right"}
        assert part.closed


async def test_a_lost_partition_is_forgotten_and_its_results_ignored() -> None:
    lab = Lab(partitions=1)
    release = asyncio.Event()

    async def act(thing: Thing, context: Context) -> None:
        if not release.is_set():
            await release.wait()

    lab.act = act
    async with Harness(lab.app) as harness:
        await lab.put("a", 1)
        await harness.advance("3s")
        worker = harness.engine.feeds[0]
        [part] = worker.parts.values()
        assert part.calls == 1
        worker.lost(part.name, "test")
        worker.lost(part.name, "again")
        release.set()
        await harness.clock.settle()
        assert worker.parts == {}
        assert part.closed
        assert await worker.quiet("unknown", 0.0) is not False


async def test_snoozes_and_retries_hold_the_key_in_place() -> None:
    lab = Lab(partitions=1, retry=Backoff(attempts=5, first=1))
    tries: list[tuple[int, int]] = []

    async def act(thing: Thing, context: Context) -> None:
        tries.append((thing.n, context.attempt))
        if len(tries) == 1:
            raise Snooze(2)
        if len(tries) == 2:
            raise Retry(3)

    lab.act = act
    async with Harness(lab.app) as harness:
        await lab.put("a", 1, 2)
        await harness.advance("20s")
        assert tries == [(1, 1), (1, 1), (1, 2), (2, 1)]
        assert lab.seen == {"a": [1, 2]}


@pytest.mark.parametrize("on_poison", ["skip", "halt"])
async def test_a_parked_head_that_fails_for_good_is_skipped_or_halts(on_poison: str) -> None:
    lab = Lab(partitions=1, retry=Backoff(attempts=3, first=30, factor=1, jitter=1.0), on_poison=on_poison)

    async def act(thing: Thing, context: Context) -> None:
        if thing.key == "bad" and thing.n == 1:
            raise ValueError

    lab.act = act
    async with Harness(lab.app) as harness:
        await lab.put("bad", 1, 2)
        for n in range(40):
            await lab.put("good", n)
            await harness.advance("15s")
        [part] = harness.engine.feeds[0].parts.values()
        if on_poison == "skip":
            assert lab.seen["bad"] == [2]
            assert part.journal.index.keys == {}
        else:
            assert part.halted
            assert part.hold.lease.state == "halted"
            assert lab.seen["bad"] == []


async def test_a_full_park_stops_reading_and_drops_nothing() -> None:
    lab = Lab(partitions=1)
    async with Harness(lab.app) as harness:
        await harness.advance("3s")
        [part] = harness.engine.feeds[0].parts.values()
        part.journal.index = Index(1, {f"k{n}": Parked(n, n, 1, 10, "parked") for n in range(MAX_KEYS)})
        assert part.room() == 0
        await harness.advance("2s")  # a read that was under way is over
        await lab.put("a", 1)
        await harness.advance("5s")
        assert lab.seen == {}


async def test_a_conflict_in_a_transaction_is_a_failure_and_a_lost_lease_ends_it() -> None:
    app = App("test")
    things = app.collection("things", Thing, id="id", key="key", partitions=1)
    out = app.collection("out", dict, id="id")
    tries = 0

    @app.on_change(things, retry=Backoff(attempts=5, first=1))
    async def watch(change: Change[Thing], context: Context) -> None:
        nonlocal tries
        tries += 1
        context.transaction.put(out, {"id": "x"}, etag="no such etag" if tries == 1 else None)

    async with Harness(app) as harness:
        await things.put(Thing(id="a", key="a", n=1))
        await harness.advance("20s")
        assert tries == 2
        assert await out.get("x") is not None
        worker = harness.engine.feeds[0]
        [part] = worker.parts.values()
        [record] = await harness.places.shared_store().get([part.hold.key])
        assert record is not None
        await harness.places.shared_store().swap(
            [Swap(record.key, record.version, {**record.value, "epoch": 99, "nonce": "other"})]
        )
        await things.put(Thing(id="b", key="a", n=2))
        await harness.advance("1s")
        assert any(fact.name == "partition_lost" for fact in harness.facts)


async def test_batches_park_skip_and_come_again() -> None:
    app = App("test")
    things = app.collection("things", Thing, id="id", key="key", partitions=1)
    seen: defaultdict[str, list[int]] = defaultdict(list)

    @app.on_change(things, batch=10, name="watch")
    async def watch(changes: list[Change[Thing]]) -> list[Any]:
        from tidemill import Dead, Done, Later

        verdicts: list[Any] = []
        for change in changes:
            thing = change.value
            if thing.key == "dead":
                verdicts.append(Dead("never"))
            elif thing.key == "late" and len(seen["tries"]) < 2:
                seen["tries"].append(thing.n)
                verdicts.append(Later(20.0, "later", attempt=False))
            else:
                seen[thing.key].append(thing.n)
                verdicts.append(Done())
        return verdicts

    async with Harness(app) as harness:
        for n in range(4):
            for key in ("good", "dead", "late"):
                await things.put(Thing(id=f"{key}{n}", key=key, n=n))
        await harness.advance("2m")
        assert seen["good"] == [0, 1, 2, 3]
        assert seen["late"][-4:] == [0, 1, 2, 3] or seen["late"] == [0, 1, 2, 3]
        [part] = harness.engine.feeds[0].parts.values()
        assert part.journal.index.keys["dead"].count == 4


async def test_reject_of_a_page_larger_than_the_read_ahead_keeps_order() -> None:
    lab = Lab(partitions=1)

    async def act(thing: Thing, context: Context) -> None:
        if thing.key == "bad":
            raise Reject("no")

    lab.act = act
    async with Harness(lab.app) as harness:
        values = [Thing(id=f"{n}", key="bad" if n % 10 == 0 else "good", n=n) for n in range(2_500)]
        await lab.things.put_many(values)
        await harness.advance("1m")
        assert lab.seen["good"] == [n for n in range(2_500) if n % 10]
        [part] = harness.engine.feeds[0].parts.values()
        assert part.journal.index.keys["bad"].count == 250
        pages = await harness.engine.feeds[0].feed.read({part.name: part.lanes.mark}, 10, 0.0)
        page = pages[part.name]
        assert isinstance(page, Page)
        assert page.changes == ()


@pytest.mark.parametrize("killed", [True, False])
async def test_who_follows_the_dead_alone_takes_over_at_once(killed: bool) -> None:
    lab = Lab()
    async with Harness(lab.app) as harness:
        await lab.put("a", 1)
        await harness.idle()
        database, clock = harness.places.main, harness.clock
        if killed:
            await harness.kill()
    async with Harness(lab.app, database=database, clock=clock, replica="next") as harness:
        began = clock.monotonic()
        await clock.run_until(lambda: len(harness.engine.feeds[0].parts) == 2, 10.0)
        waited = clock.monotonic() - began
        assert waited <= 0.1 if killed else 0.9 <= waited <= 2.0
