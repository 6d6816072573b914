"""Housekeeping: what is behind everybody goes, what somebody still needs stays, one replica at a time."""

from __future__ import annotations

from random import Random
from typing import Any

from tidemill import App, Change, Reject
from tidemill.engine.housekeeping import DAY, Housekeeper
from tidemill.model import Fact, Page
from tidemill.testing.harness import Harness


def feeds() -> tuple[App, Any]:
    app = App("test")
    things = app.collection("things", dict, id="id", partitions=2)

    @app.on_change(things, name="fast")
    async def fast(change: Change[dict[str, Any]]) -> None: ...

    @app.on_change(things, name="slow")
    async def slow(change: Change[dict[str, Any]]) -> None: ...

    return app, things


def keeper(harness: Harness, app: App, facts: list[Fact]) -> Housekeeper:
    return Housekeeper(app.declared(), harness.places, clock=harness.clock, random=Random(0), observer=facts.append)


async def kept(harness: Harness) -> int:
    feed = harness.engine.feeds[0].feed
    pages = await feed.read({p: await feed.start(p, "beginning") for p in await feed.partitions()}, 1000, 0.0)
    return sum(len(page.changes) for page in pages.values() if isinstance(page, Page))


async def test_what_all_workers_have_passed_is_trimmed() -> None:
    app, things = feeds()
    async with Harness(app) as harness:
        for n in range(20):
            await things.put({"id": f"{n}"})
        await harness.advance("5s")
        assert await kept(harness) == 20
        facts: list[Fact] = []
        await keeper(harness, app, facts).turn()
        assert await kept(harness) == 0
        assert facts[-1].detail == {"changes": 20, "letters": 0}


async def test_what_the_slowest_needs_stays() -> None:
    app, things = feeds()
    async with Harness(app, workers=["fast"]) as harness:
        for n in range(20):
            await things.put({"id": f"{n}"})
        await harness.advance("5s")
        await keeper(harness, app, []).turn()
        assert await kept(harness) == 20  # "slow" has not even begun


async def test_retention_spares_nobody() -> None:
    app, things = feeds()
    async with Harness(app, workers=["fast"]) as harness:
        await things.put({"id": "old"})
        await harness.advance("5s")
        harness.clock.jump(8 * DAY)
        await keeper(harness, app, []).turn()
        assert await kept(harness) == 0


async def test_old_dead_letters_go_and_parked_bodies_stay() -> None:
    app = App("test")
    things = app.collection("things", dict, id="id")
    jobs = app.queue("jobs", dict)

    @app.on_message(jobs)
    async def work(job: dict[str, Any]) -> None:
        raise Reject("no")

    @app.on_change(things)
    async def watch(change: Change[dict[str, Any]]) -> None:
        raise Reject("no")

    async with Harness(app) as harness:
        await jobs.send({"n": 1})
        await things.put({"id": "a"})
        await harness.advance("5s")
        letters = harness.places.main.dead_letters()
        assert sum((await letters.count("")).values()) == 2
        harness.clock.jump(31 * DAY)
        await keeper(harness, app, []).turn()
        assert [source.split("/")[0] for source in await letters.count("")] == ["feed"]


async def test_one_replica_takes_the_turn() -> None:
    app, _ = feeds()
    async with Harness(app) as harness:
        facts: list[Fact] = []
        for _ in range(3):
            harness.engine.spawn("housekeeping", keeper(harness, app, facts).run())
        await harness.advance("10m")
        turns = [fact for fact in facts if fact.name == "housekeeping"]
        assert 5 <= len(turns) <= 10


async def test_what_a_worker_of_another_release_needs_stays() -> None:
    app, things = feeds()
    older, _ = feeds()
    older._workers.pop("slow")  # the release before it had only "fast"
    async with Harness(app) as harness:
        await harness.advance("5s")
        await harness.kill()
        database, clock = harness.places.main, harness.clock
    async with Harness(older, database=database, clock=clock, replica="older") as harness:
        await harness.advance("20s")
        for n in range(20):
            await things.put({"id": f"{n}"})
        await harness.advance("5s")
        await keeper(harness, older, []).turn()
        assert await kept(harness) == 20
