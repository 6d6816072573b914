"""What is known to lose or repeat changes in clients and processors of Cosmos DB, and that we do not have it.

Each test names the trap. Others of the list stand where their subject is: a split that becomes a queue of children
inside the client, headers shared by all requests of a client, places of empty pages, a start at a time that cannot be
resumed, a start "now" that moves with a restart (`test_cosmos_feed.py`); writes that meet themselves
(`test_cosmos_writes.py`); two owners of one lease (the engine's fence, `tests/engine/test_leases.py`).
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator

import pytest
from azure.core.exceptions import AzureError
from azure.cosmos.aio import CosmosClient

from tests.adapters.test_cosmos_feed import follow, newest, opened, put, starts
from tests.doubles.cosmos.server import Rule, Server
from tests.servers.cosmos import cosmos as cosmos
from tidemill.adapters.cosmos import Cosmos
from tidemill.errors import Unavailable
from tidemill.model import CollectionSpec, Commit, Page, Put, Record, Stale, Swap

ORDERS = CollectionSpec("orders", fields=("n",))
FEED = "GET feed"


@pytest.fixture
async def database(cosmos: Server) -> AsyncIterator[Cosmos]:
    made = await opened(cosmos)
    yield made
    await made.close()


async def test_ranges_that_were_not_read_yet_go_on_after_a_restart(cosmos: Server, database: Cosmos) -> None:
    """A token of the client over several ranges holds no etag for those not read yet, and it cannot read that again.
    Ours are of one range each."""
    await database.documents(ORDERS).write([put(f"d{n}", n) for n in range(40)])
    async with CosmosClient(cosmos.endpoint, cosmos.key) as client:
        container = client.get_database_client("shop").get_container_client("orders")
        pages = container.query_items_change_feed(start_time="Beginning", max_item_count=5).by_page()
        page = await anext(pages)
        assert [item async for item in page]
        token = json.loads(base64.b64decode(str(pages.continuation_token)))  # type: ignore[attr-defined]
        assert None in [one["token"] for one in token["continuation"]["continuation"]]
        again = container.query_items_change_feed(continuation=base64.b64encode(json.dumps(token).encode()).decode())
        with pytest.raises((ValueError, AzureError)):
            assert [item async for item in again]
    cursors = await starts(database.feed(ORDERS))
    page0 = (await database.feed(ORDERS).read({"0": cursors["0"]}, 5, 0.0))["0"]
    assert isinstance(page0, Page)
    cursors["0"] = page0.cursor
    restarted = await opened(cosmos)
    rest = await follow(restarted.feed(ORDERS), cursors)
    assert newest([*page0.changes, *rest]) == {f"d{n}": n for n in range(40)}
    await restarted.close()


async def test_a_first_page_that_fails_is_read_again(cosmos: Server, database: Cosmos) -> None:
    """.NET's processor lost the page when the first one failed and the process restarted: no place was written yet."""
    feed = database.feed(ORDERS)
    cursors = await starts(feed, "now")
    await database.documents(ORDERS).write([put("a", 1), put("b", 1), put("c", 1)])
    cosmos.rules.append(Rule(FEED, 500, count=50))
    with pytest.raises(Unavailable):
        await feed.read(cursors, 10, 0.0)
    cosmos.rules.clear()
    restarted = await opened(cosmos)
    assert set(newest(await follow(restarted.feed(ORDERS), dict(cursors)))) == {"a", "b", "c"}
    assert set(newest(await follow(feed, cursors))) == {"a", "b", "c"}
    await restarted.close()


@pytest.mark.parametrize("after_ms", [1, 60_000], ids=["short", "long"])
async def test_429_between_pages_skips_none(cosmos: Server, database: Cosmos, after_ms: int) -> None:
    """Java's processor skipped a page when it was throttled, and sizes of pages change on the way."""
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    await documents.write([put(f"d{n}", n) for n in range(60)])
    cursors = await starts(feed)
    found = []
    for limit in (1, 7, 3, 2, 5, 1, 100, 100):
        cosmos.rules.append(Rule(FEED, 429, 3200, after_ms=after_ms))
        try:
            pages = await feed.read(cursors, limit, 0.0)
        except Unavailable:
            assert after_ms > 2_000
            pages = await feed.read(cursors, limit, 0.0)
        for name, page in pages.items():
            assert isinstance(page, Page)
            cursors[name] = page.cursor
            found += page.changes
    assert sorted(change.document for change in found) == sorted(f"d{n}" for n in range(60)), "each once"


async def test_a_checkpoint_that_is_throttled_moves_nothing(cosmos: Server, database: Cosmos) -> None:
    """Java went on behind a page whose checkpoint had got 429. Here reading moves no place but the one it returns: as
    long as the old one is in the store, the same changes come again."""
    store, feed = database.store(), database.feed(ORDERS)
    cursors = await starts(feed)
    (record,) = await store.swap([Swap("lease", None, {"cursors": cursors})])
    assert isinstance(record, Record)
    await database.documents(ORDERS).write([put("a", 1), put("b", 2)])
    first = await follow(feed, dict(cursors))
    cosmos.rules.append(Rule("dbs/shop/colls/tidemill/docs", 429, 3200, after_ms=60_000))
    with pytest.raises(Unavailable, match="throughput is used up"):
        await store.swap([Swap("lease", record.version, {"cursors": {}})])
    (kept,) = await store.get(["lease"])
    assert kept == record
    assert await follow(feed, dict(cursors)) == first


async def test_a_checkpoint_is_one_request(cosmos: Server, database: Cosmos) -> None:
    """.NET keeps the old etag after a replace, so each checkpoint is 412, read, replace: three calls. The new etag is
    in the answer, and the next checkpoint goes by it. Only who was late reads what stands there."""
    store = database.store()
    (record,) = await store.swap([Swap("lease", None, {"n": 0})])
    await store.get(["lease"])  # the client looks up the partitions once
    before = dict(cosmos.counts)
    for n in range(1, 11):
        assert isinstance(record, Record)
        (record,) = await store.swap([Swap("lease", record.version, {"n": n})])
    spent = {kind: n - before.get(kind, 0) for kind, n in cosmos.counts.items() if n != before.get(kind, 0)}
    assert spent == {"PUT docs": 10}
    (late,) = await store.swap([Swap("lease", "old", {"n": 0})])
    assert isinstance(late, Stale)
    spent = {kind: n - before.get(kind, 0) for kind, n in cosmos.counts.items() if n != before.get(kind, 0)}
    assert spent == {"PUT docs": 11, "GET docs": 1}


async def test_an_idle_range_costs_one_request_a_question(cosmos: Server, database: Cosmos) -> None:
    """The client would follow the other ranges in the same token, and look up the partitions each time."""
    feed = database.feed(ORDERS)
    cursors = await starts(feed)
    await follow(feed, cursors)
    before = dict(cosmos.counts)
    await feed.read({"0": cursors["0"]}, 10, 0.0)
    spent = {kind: n - before.get(kind, 0) for kind, n in cosmos.counts.items() if n != before.get(kind, 0)}
    assert spent == {"GET feed": 1}


async def test_a_merged_partition_is_read_by_the_bounds_of_the_old(cosmos: Server, database: Cosmos) -> None:
    """By headers, on the service's side: a filter of ours would pay for the other half, too, and a page might be empty
    that is not the last."""
    container = cosmos.account.container("shop", "orders")
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    cursors = await starts(feed)
    old = {one.id: (one.low, one.high) for one in container.partitions}
    merged = container.merge("1", "2")
    await documents.write([put(f"d{n}", n) for n in range(40)])
    await follow(feed, cursors)
    cosmos.feeds.clear()
    await documents.write([put(f"d{n}", n + 1) for n in range(40)])
    assert len(await follow(feed, cursors, 1_000)) == 40
    asked = {
        (told.get("x-ms-start-epk"), told.get("x-ms-end-epk"))
        for told in cosmos.feeds
        if told["x-ms-documentdb-partitionkeyrangeid"] == merged
    }
    assert asked == {old["1"], old["2"]}
    assert {told.get("x-ms-read-key-type") for told in cosmos.feeds
            if told["x-ms-documentdb-partitionkeyrangeid"] == merged} == {"EffectivePartitionKeyRange"}  # fmt: skip


async def test_a_start_at_a_time_outlives_a_merge(cosmos: Server, database: Cosmos) -> None:
    """The merged partition has LSNs of its own, so older documents may stand behind the place: they are passed over,
    and none that is newer is (.NET's PR 5931)."""
    container = cosmos.account.container("shop", "orders")
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    await documents.write([put(f"old{n}", n) for n in range(20)])
    cosmos.account.ahead += 3_600
    since = cosmos.account.clock() - 1_800
    cursors = {name: await feed.start(name, since) for name in await feed.partitions()}
    await documents.write([put(f"new{n}", n) for n in range(20)])
    one = (await feed.read({"1": cursors["1"]}, 2, 0.0))["1"]
    assert isinstance(one, Page)
    cursors["1"] = one.cursor
    container.merge("1", "2")
    found = newest([*one.changes, *await follow(feed, cursors, 3)])
    assert found == {f"new{n}": n for n in range(20)}


async def test_transactions_are_never_cut(cosmos: Server, database: Cosmos) -> None:
    """A page of one change that falls into a transaction brings all of it: there is no etag between its items."""
    feed = database.feed(ORDERS)
    cursors = await starts(feed)
    for transaction in range(4):
        writes = tuple(
            Put("orders", f"t{transaction}-{n}", "k", json.dumps({"n": transaction}).encode()) for n in range(5)
        )
        await database.commit([Commit(writes)])
    sizes = []
    while True:
        pages = await feed.read(cursors, 1, 0.0)
        found = [page for page in pages.values() if isinstance(page, Page) and page.changes]
        cursors |= {name: page.cursor for name, page in pages.items() if isinstance(page, Page)}
        if not found:
            break
        sizes += [len(page.changes) for page in found]
        assert len({change.document.partition("-")[0] for change in found[0].changes}) == 1
    assert sizes == [5, 5, 5, 5]


async def test_reading_and_checkpointing_at_once_mixes_no_places(cosmos: Server, database: Cosmos) -> None:
    """The writes of leases use the same client, whose last headers hold their etags (issue 35328)."""
    feed, store = database.feed(ORDERS), database.store()
    await database.documents(ORDERS).write([put(f"d{n}", n) for n in range(60)])
    cursors = await starts(feed)
    found = []
    for n in range(20):
        pages, *_ = await asyncio.gather(
            feed.read(cursors, 3, 0.0), *(store.swap([Swap(f"lease-{n}-{m}", None, {})]) for m in range(5))
        )
        for name, page in pages.items():
            assert isinstance(page, Page)
            cursors[name] = page.cursor
            assert page.cursor.split("|")[1].strip('"').isdigit(), "an LSN, and no etag of a record"
            found += page.changes
    assert newest(found) == {f"d{n}": n for n in range(60)}
