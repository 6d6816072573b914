"""Three replicas of a feed in Cosmos DB (its double): ranges are split and merged under load, replicas are killed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from tests.acceptance.processes import Fleet, Replica, until
from tests.servers.cosmos_process import Double
from tests.servers.cosmos_process import double as double
from tidemill.adapters.cosmos import Cosmos
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Put

APP = "tests.acceptance.cosmos_apps.dividing:app"
COUNTERS = CollectionSpec("counters")
DOCUMENTS = 60

pytestmark = pytest.mark.slow


@pytest.fixture
async def database(double: Double) -> AsyncIterator[Cosmos]:
    made = Cosmos.from_url(double.url, SystemClock())
    await made.open([COUNTERS], [])
    yield made
    await made.close()


class Load:
    """Counters that are raised for as long as it runs; what was written last of each."""

    def __init__(self, database: Cosmos) -> None:
        self._documents = database.documents(COUNTERS)
        self.last: dict[str, int] = {}
        self._going = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        n = 0
        while self._going:
            n += 1
            names = [f"c{i}" for i in range(DOCUMENTS) if (i + n) % 3]
            body = {name: json.dumps({"id": name, "n": n}).encode() for name in names}
            await self._documents.write([Put("counters", name, name, body[name]) for name in names])
            self.last |= dict.fromkeys(names, n)
            await asyncio.sleep(0.05)

    async def stop(self) -> Mapping[str, int]:
        self._going = False
        await self._task
        return self.last


def seen(fleet: Fleet) -> dict[str, int]:
    """The newest of each counter that a handler saw; nobody saw one go back within one process."""
    newest: dict[str, int] = {}
    mine: dict[tuple[int, str], int] = {}
    for line in fleet.journal.lines("seen"):
        name, n = line.words[1], int(line.words[2])
        newest[name] = max(newest.get(name, 0), n)
        mine[(line.process, name)] = max(mine.get((line.process, name), 0), n)
    return newest


def disorder(fleet: Fleet, crashes: int) -> int:
    """Counters that went back. A replica that takes over begins at the last checkpoint: once for each crash that is
    no disorder but a repetition, so what counts is going back within the work of one process."""
    worst: dict[tuple[int, str], int] = {}
    back = 0
    for line in fleet.journal.lines("seen"):
        at = (line.process, line.words[1])
        n = int(line.words[2])
        back += n < worst.get(at, 0)
        worst[at] = max(worst.get(at, 0), n)
    return back


async def test_splits_merges_and_kills_under_load(tmp_path: Path, double: Double, database: Cosmos) -> None:
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = double.url
        replicas = [fleet.start(f"r{n}") for n in range(3)]
        for replica in replicas:
            await replica.ready()
        load = Load(database)
        await shake(fleet, double, replicas)
        last = await load.stop()
        await until(lambda: seen(fleet) == last, 60, lambda: f"{missing(fleet, last)}\n{replicas[1].tail()}")
        assert len(last) == DOCUMENTS
        assert disorder(fleet, 2) == 0
        workers = {line.process for line in fleet.journal.lines("seen")}
        assert len(workers) >= 4, "three, and those that came for the killed"
        codes = [await replica.stop() for replica in fleet.replicas if replica.process.poll() is None]
        assert codes == [0] * 3


async def shake(fleet: Fleet, double: Double, replicas: list[Replica]) -> None:
    """A split, a kill, a merge, a kill, a split of what was merged."""
    await asyncio.sleep(3)
    children = await asyncio.to_thread(double.ask, "split", id="1")
    await asyncio.sleep(4)
    replicas[0].kill()
    await fleet.start("r3").ready()
    await asyncio.sleep(2)
    a, b = children["children"]
    child = await asyncio.to_thread(double.ask, "merge", a=b, b="2")
    await asyncio.sleep(4)
    replicas[1].kill()
    await fleet.start("r4").ready()
    await asyncio.to_thread(double.ask, "split", id=child["child"])
    await asyncio.sleep(4)
    assert a != b


def missing(fleet: Fleet, last: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    found = seen(fleet)
    return {name: (found.get(name, 0), n) for name, n in last.items() if found.get(name) != n}


async def test_a_restart_before_the_first_change_skips_nothing(
    tmp_path: Path, double: Double, database: Cosmos
) -> None:
    """Stopped before anything was written, what is written then is there for who comes next."""
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = double.url
        one = fleet.start("one")
        await one.ready()
        await asyncio.sleep(3)
        assert await one.stop() == 0
        body = json.dumps({"id": "c", "n": 1}).encode()
        await database.documents(COUNTERS).write([Put("counters", "c", "c", body)])
        await fleet.start("two").ready()
        await until(lambda: seen(fleet) == {"c": 1}, 30)
