"""Replicas whose leases are those of .NET's processor, as processes over the double of Cosmos DB."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.cosmos.aio import ContainerProxy, CosmosClient

from tests.acceptance.processes import Fleet, until
from tests.acceptance.test_cosmos_replicas import APP, Double, Load, disorder, missing, seen
from tests.acceptance.test_cosmos_replicas import database as database
from tests.acceptance.test_cosmos_replicas import double as double
from tests.doubles.cosmos.server import KEY
from tests.doubles.cosmos.state import rid_of
from tidemill.adapters.cosmos import Cosmos
from tidemill.adapters.cosmos.dotnet import stamp
from tidemill.engine.clock import SystemClock

OPTIONS = "&leases=dotnet&processors=seen:Counting"

pytestmark = pytest.mark.slow


@pytest.fixture
async def leases(double: Double, database: Cosmos) -> AsyncIterator[ContainerProxy]:
    """The lease container, as somebody else sees it."""
    async with CosmosClient(double.endpoint, KEY) as client:
        yield client.get_database_client("shop").get_container_client("tidemill")


def dump(double: Double) -> dict[str, dict[str, Any]]:
    items = double.ask("dump", container="tidemill")["items"]
    return {item["id"].partition("..")[2]: item for item in items if ".." in item["id"]}


def prefixes(double: Double) -> list[str]:
    """P of each processor whose leases are complete."""
    ids = [str(item["id"]) for item in double.ask("dump", container="tidemill")["items"]]
    return [id.removesuffix(".info") for id in ids if id.endswith(".info")]


async def test_splits_and_kills_under_load(tmp_path: Path, double: Double, database: Cosmos) -> None:
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = double.url + OPTIONS
        replicas = [fleet.start(f"r{n}") for n in range(2)]
        for replica in replicas:
            await replica.ready()
        load = Load(database)
        await until(lambda: len(seen(fleet)) > 30, 30)
        await until(lambda: len(prefixes(double)) == 1, 10, lambda: f"{list(dump(double))}")
        assert prefixes(double)[0].startswith(f"Counting127.0.0.1_{rid_of('shop')}_")
        await asyncio.to_thread(double.ask, "split", id="1")
        await asyncio.sleep(3)
        replicas[0].kill()
        await asyncio.to_thread(double.ask, "merge", a="2", b="3")
        await fleet.start("r2").ready()
        await asyncio.sleep(3)
        last = await load.stop()
        await until(lambda: seen(fleet) == last, 60, lambda: f"{missing(fleet, last)}\n{replicas[1].tail()}")
        assert disorder(fleet, 1) == 0
        await until(lambda: sum("-" in token for token in dump(double)) == 2, 30)
        codes = [await replica.stop() for replica in fleet.replicas if replica.process.poll() is None]
        assert codes == [0] * 2
        items = dump(double)
        assert {item["Owner"] for item in items.values()} == {None}
        assert {item["ContinuationToken"][0] for item in items.values()} == {'"'}
        assert {(item["version"], item["Mode"]) for item in items.values()} == {
            (0, "Incremental Feed"),
            (1, "Incremental Feed"),
        }


async def test_a_living_stranger_is_left_alone_and_shown(
    tmp_path: Path, double: Double, database: Cosmos, leases: ContainerProxy
) -> None:
    """A .NET host holds one partition: the others are worked, it is shown to people, and followed when it stops."""
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = double.url + OPTIONS
        first = fleet.start("first")
        await first.ready()
        await until(lambda: len(dump(double)) == 4, 30)
        assert await first.stop() == 0
        item = dump(double)["2"] | {"Owner": "net-1", "timestamp": stamp(SystemClock().now())}
        await leases.upsert_item(item)
        second = fleet.start("second")
        await second.ready()
        await until(lambda: "a host that is no member of ours holds a partition" in second.tail(), 20, second.tail)
        await until(lambda: all(i["Owner"] for i in dump(double).values()), 20)
        assert dump(double)["2"]["Owner"] == "net-1"
        line = [sys.executable, "-m", "tidemill", "status", APP, "--json"]
        env = {**os.environ, **fleet.environ("cli", 0, {})}
        shown = await asyncio.to_thread(subprocess.run, line, env=env, capture_output=True, text=True, timeout=30)
        owners = {part["name"]: part["owner"] for part in json.loads(shown.stdout)["partitions"]}
        assert owners["2"] == "net-1"
        await leases.upsert_item(dump(double)["2"] | {"Owner": None})
        await until(lambda: dump(double)["2"]["Owner"] not in (None, "net-1"), 15)
        assert await second.stop() == 0


async def test_a_lease_of_java_is_one_line_and_exit_2(
    tmp_path: Path, double: Double, database: Cosmos, leases: ContainerProxy
) -> None:
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = double.url + OPTIONS
        first = fleet.start("first")
        await first.ready()
        await until(lambda: len(dump(double)) == 4, 30)
        assert await first.stop() == 0
        await leases.upsert_item(dump(double)["2"] | {"ContinuationToken": "eyJWIjoxfQ=="})
        second = fleet.start("second")
        assert await second.ended() == 2
        lines = [line for line in second.log.read_text().splitlines() if line.strip()]
        assert "its continuation is that of Java's processor" in lines[-1]
        assert "Traceback" not in second.log.read_text()
