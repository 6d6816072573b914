"""What reads the leases of .NET's processor from outside reads ours: .NET's estimator and KEDA's scaler.

Neither runs here. Their arithmetic is written down anew from their sources' rules, over the double, and must come to
our own lag on leases that we have written.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from tests.doubles.cosmos import feed
from tests.doubles.cosmos.direct import HOST, account_of, direct
from tests.doubles.cosmos.state import Container, Fault, Item
from tidemill.adapters.cosmos import Cosmos
from tidemill.core import lease as leases
from tidemill.core.lease import from_value, key_of
from tidemill.model import CollectionSpec, Moved, Page, Record, Swap
from tidemill.testing.clock import FakeClock

ORDERS = CollectionSpec("orders", workers=("bill",))


# --- the readers --------------------------------------------------------------------------------------------


def session_lsn(page: feed.Page) -> int:
    """The global LSN of `<range>:<version>#<global LSN>…`."""
    return int(str(feed.session(page.partition)["x-ms-session-token"]).partition(":")[2].split("#")[1])


def first_page(container: Container, lease: Item, etag: str) -> feed.Page:
    """One item from where the lease stands: by the id of its range, or by its bounds."""
    headers = {"A-IM": "Incremental Feed", "x-ms-max-item-count": "1", "If-None-Match": etag}
    if lease.get("version", 0) == 0:
        return feed.page(container, headers | {"x-ms-documentdb-partitionkeyrangeid": lease["LeaseToken"]})
    bounds = lease["FeedRange"]["Range"]
    low, high = bounds["min"], bounds["max"]
    within = [one for one in container.partitions if one.low < high and low < one.high]
    if len(within) != 1:
        raise Fault(410, "several ranges", 1002)
    more = {"x-ms-start-epk": low, "x-ms-end-epk": high, "x-ms-read-key-type": "EffectivePartitionKeyRange"}
    return feed.page(container, headers | more | {"x-ms-documentdb-partitionkeyrangeid": within[0].id})


def estimated(container: Container, lease: Item) -> int:
    """.NET's estimator for one lease: the newest LSN less what lies before the first that was not read."""
    if lease["ContinuationToken"] is None:
        return 1
    try:
        page = first_page(container, lease, lease["ContinuationToken"])
    except Fault:
        return 1
    return max(session_lsn(page) - (page.items[0]["_lsn"] - 1), 0) if page.items else 0


@dataclass(frozen=True)
class Metric:
    """What KEDA's scaler says: the metric, and whether it is to keep one replica at least."""

    value: int
    active: bool


def scaler(leases: Container, container: Container, processor: str, threshold: int = 100) -> Metric:
    """KEDA's azure-cosmosdb scaler. Raises `ValueError` for what it calls an error of the scaler."""
    prefix = f"{processor}{HOST.partition('.')[0]}."
    items = [item for one in leases.partitions for item in leases.all(one)]
    found = [item for item in items if item["id"].startswith(prefix) and ".." in item["id"]]
    total = active = 0
    never = moved = False
    for lease in found:
        if lease.get("version", 0) not in (0, 1):
            raise ValueError(f"unknown lease version {lease['version']}")
        token = lease["ContinuationToken"]
        if token is None:
            never = True
            continue
        if not token.startswith('"'):
            token = json.loads(base64.b64decode(token))["Continuation"]["Continuation"][0]["token"]
        if lease.get("version") == 1 and not {"min", "max"} <= set(lease["FeedRange"]["Range"]):
            raise ValueError("malformed FeedRange")
        try:
            page = first_page(container, lease, token)
        except Fault:  # 410: read once more, then keep a replica
            moved = True
            continue
        lag = session_lsn(page) - page.items[0]["_lsn"] + 1 if page.items else 0
        total, active = total + lag, active + (lag > 0)
    total, active = total + never, active + never
    return Metric(min(total, active * threshold), bool(active) or moved)


# --- the world ----------------------------------------------------------------------------------------------


class World:
    """A feed with leases of ours."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.account = account_of(self.clock)
        self.database: Cosmos
        self.database, _ = direct(self.account, self.clock, "leases=dotnet")
        self._n = 0

    async def open(self) -> None:
        await self.database.open([ORDERS], [])
        self.container = self.account.container("shop", "orders")
        self.leases = self.account.container("shop", "tidemill")
        self.feed = self.database.feed(ORDERS)

    def write(self, count: int) -> None:
        for _ in range(count):
            self._n += 1
            id = f"d{self._n}"
            self.container.write([id], {"id": id, "_key": id}, how="create")

    async def lease(self, at: Any = "now") -> None:
        """One lease for each partition, as the engine creates and claims it."""
        for partition in await self.feed.partitions():
            created = leases.created(await self.feed.start(partition, at), source="orders")
            await self.put(partition, None, leases.claim(created, "me", "n", buried=False).to_value())

    async def put(self, partition: str, version: str | None, value: Any) -> None:
        [result] = await self.database.store().swap([Swap(key_of("bill", partition), version, value)])
        assert isinstance(result, Record)

    async def records(self) -> Mapping[str, Record]:
        found = await self.database.store().scan("lease/bill/", "", 100)
        return {record.key.removeprefix("lease/bill/"): record for record in found}

    async def read(self, limit: int) -> None:
        """One page of each partition, and a checkpoint; what has moved goes on as its children."""
        for partition, record in (await self.records()).items():
            lease = from_value(record.value)
            page = (await self.feed.read({partition: lease.cursor}, limit, 0.0))[partition]
            if isinstance(page, Page):
                await self.put(partition, record.version, leases.checkpoint(lease, page.cursor).to_value())
            elif isinstance(page, Moved):
                for child, cursor in page.children.items():
                    await self.put(child, None, leases.created(cursor, source="orders").to_value())
                await self.database.store().swap([Swap(record.key, record.version, None)])

    def items(self) -> dict[str, Item]:
        found = [item for one in self.leases.partitions for item in self.leases.all(one)]
        return {item["LeaseToken"]: item for item in found if ".." in item["id"]}

    async def ours(self) -> dict[str, int]:
        """The lag as we tell it."""
        cursors = {name: from_value(record.value).cursor for name, record in (await self.records()).items()}
        return {name: lag.items for name, lag in (await self.feed.lag(cursors)).items()}

    def estimate(self) -> dict[str, int]:
        return {token: estimated(self.container, item) for token, item in self.items().items()}

    def metric(self, threshold: int = 100) -> Metric:
        return scaler(self.leases, self.container, "bill", threshold)


@pytest.fixture
async def world() -> World:
    made = World()
    await made.open()
    return made


# --- what they read -----------------------------------------------------------------------------------------


async def test_the_estimator_comes_to_our_lag(world: World) -> None:
    await world.lease()
    assert world.estimate() == dict.fromkeys("0123", 0)
    world.write(60)
    assert world.estimate() == await world.ours()
    assert sum(world.estimate().values()) == 60
    await world.read(5)
    assert world.estimate() == await world.ours()
    assert sum(world.estimate().values()) == 40
    for _ in range(5):
        await world.read(50)
    assert world.estimate() == await world.ours() == dict.fromkeys("0123", 0)


async def test_the_estimator_reads_bounds_after_a_merge(world: World) -> None:
    await world.lease()
    world.write(40)
    await world.read(2)
    world.container.merge("1", "2")
    assert [world.estimate()[token] for token in "12"] == [1, 1], "410: it says that there is something"
    await world.read(2)
    assert sorted("-" in token for token in world.items()) == [False, False, True, True]
    world.write(8)
    estimate = world.estimate()
    assert estimate == await world.ours()
    assert min(estimate.values()) > 0


async def test_a_lease_from_the_beginning_counts_as_one_until_its_first_page(world: World) -> None:
    """Its token is null, as .NET would have it; ours knows more."""
    world.write(40)
    await world.lease("beginning")
    assert world.estimate() == dict.fromkeys("0123", 1)
    assert sum((await world.ours()).values()) == 40
    await world.read(2)
    assert world.estimate() == await world.ours()


async def test_keda_counts_our_leases(world: World) -> None:
    assert world.metric() == Metric(0, active=False), "no lease yet"
    await world.lease()
    assert world.metric() == Metric(0, active=False)
    world.write(60)
    assert world.metric() == Metric(60, active=True)
    assert world.metric(threshold=5) == Metric(4 * 5, active=True), "never more replicas than leases with a lag"
    await world.read(5)
    assert world.metric() == Metric(40, active=True)
    assert sum((await world.ours()).values()) == 40


async def test_keda_counts_what_was_never_checkpointed_as_one(world: World) -> None:
    world.write(40)
    await world.lease("beginning")
    assert world.metric() == Metric(1, active=True)


async def test_keda_keeps_a_replica_while_a_range_moves(world: World) -> None:
    await world.lease()
    world.container.split("3")
    assert world.metric() == Metric(0, active=True)
    await world.read(5)
    assert sorted(world.items()) == ["0", "1", "2", "4", "5"]
    assert world.metric() == Metric(0, active=False)
    world.container.merge("1", "2")
    await world.read(5)
    world.write(20)
    assert world.metric().value == sum(world.estimate().values()) == sum((await world.ours()).values())


async def test_records_of_ours_are_no_leases_to_them(world: World) -> None:
    await world.lease()
    before = world.metric()
    await world.database.store().swap([Swap(key, None, {"n": 1}) for key in ("member/a", "bell/feeds", "park/bill/0")])
    assert world.metric() == before
    assert len(world.items()) == 4
