"""The change feed of Cosmos DB on the double: splits and merges, the traps of the client, all versions and deletes."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
from collections.abc import AsyncIterator, Mapping

import pytest
from azure.cosmos.aio import ContainerProxy, CosmosClient

from tests.doubles.cosmos.server import Rule, Server
from tests.servers.cosmos import cosmos as cosmos
from tests.servers.cosmos import url_of
from tidemill.adapters.cosmos import Cosmos
from tidemill.engine.clock import SystemClock
from tidemill.errors import BadOption, ConfigurationError, Unavailable
from tidemill.model import CollectionSpec, Delete, Lag, Logged, Moved, Page, Put, TableSpec
from tidemill.ports import Feed

ORDERS = CollectionSpec("orders", fields=("n",))


async def opened(server: Server, options: str = "") -> Cosmos:
    database = Cosmos.from_url(url_of(server, options), SystemClock())
    await database.open([ORDERS], [])
    return database


@pytest.fixture
async def database(cosmos: Server) -> AsyncIterator[Cosmos]:
    made = await opened(cosmos)
    yield made
    await made.close()


def put(id: str, n: int, key: str | None = None) -> Put:
    return Put("orders", id, key or id, json.dumps({"n": n}).encode())


async def starts(feed: Feed, at: str = "beginning") -> dict[str, str]:
    return {name: await feed.start(name, at) for name in await feed.partitions()}  # type: ignore[arg-type]


async def follow(feed: Feed, cursors: dict[str, str], limit: int = 100) -> list[Logged]:
    """Everything up to the end, going on as the children where a partition has moved."""
    found: list[Logged] = []
    news = True
    while news:
        news = False
        for name, page in (await feed.read(dict(cursors), limit, 0.0)).items():
            if isinstance(page, Moved):
                del cursors[name]
                cursors |= page.children
                news = True
            else:
                assert isinstance(page, Page)
                cursors[name] = page.cursor
                found += page.changes
                news = news or page.more
    return found


def newest(changes: list[Logged]) -> Mapping[str, int]:
    """The last value of each document, and that none went back."""
    seen: dict[str, int] = {}
    for change in changes:
        n = json.loads(change.body or b"")["n"]
        assert n >= seen.get(change.document, n), f"{change.document} went back"
        seen[change.document] = n
    return seen


async def test_a_split_goes_on_as_its_children(cosmos: Server, database: Cosmos) -> None:
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    await documents.write([put(f"d{n}", 1) for n in range(40)])
    cursors = await starts(feed)
    before = await follow(feed, cursors)
    await documents.write([put(f"d{n}", 2) for n in range(0, 40, 2)])
    first, second = cosmos.account.container("shop", "orders").split("1")
    await documents.write([put(f"d{n}", 3) for n in range(0, 40, 3)])
    moved = (await feed.read({"1": cursors["1"]}, 100, 0.0))["1"]
    assert isinstance(moved, Moved)
    assert sorted(moved.children) == sorted([first, second]) == ["4", "5"]
    after = await follow(feed, cursors)
    assert sorted(cursors) == ["0", "2", "3", "4", "5"] == list(await feed.partitions())
    assert {change.document for change in after} == {f"d{n}" for n in range(40) if n % 2 == 0 or n % 3 == 0}
    wanted = {f"d{n}": 3 if n % 3 == 0 else 2 if n % 2 == 0 else 1 for n in range(40)}
    assert newest([*before, *after]) == wanted


async def test_a_split_in_the_middle_of_a_read_brings_no_page_of_one_child(cosmos: Server, database: Cosmos) -> None:
    """The client goes on with the first child by itself, and its etag would be taken for the parent's."""
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    cursors = await starts(feed)
    await documents.write([put(f"d{n}", n) for n in range(60)])
    cosmos.account.container("shop", "orders").split("2")  # nobody has looked since
    answers = await feed.read(cursors, 1, 0.0)
    assert isinstance(answers["2"], Moved)
    assert newest(await follow(feed, cursors, 3)) == {f"d{n}": n for n in range(60)}


async def test_a_merge_is_read_on_under_the_old_bounds(cosmos: Server, database: Cosmos) -> None:
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    container = cosmos.account.container("shop", "orders")
    cursors = await starts(feed)
    await documents.write([put(f"d{n}", 1) for n in range(40)])
    one = await feed.read({"1": cursors["1"]}, 100, 0.0)  # the two stand at different places
    page = one["1"]
    assert isinstance(page, Page)
    cursors["1"] = page.cursor
    bounds = [(one.low, one.high) for one in container.partitions[1:3]]
    container.merge("1", "2")
    await documents.write([put(f"d{n}", 2) for n in range(0, 40, 2)])
    rest = await follow(feed, cursors)
    assert sorted(cursors) == sorted(["0", "3", *(f"{low}-{high}" for low, high in bounds)])
    assert newest([*page.changes, *rest]) == {f"d{n}": 2 if n % 2 == 0 else 1 for n in range(40)}
    twice = [change.id for change in [*page.changes, *rest]]
    assert len(set(twice)) == len(twice)
    merged = container.partitions[1].id
    container.split(merged)  # and apart again, in the middle: where they were merged
    await documents.write([put(f"d{n}", 3) for n in range(40)])
    assert newest(await follow(feed, cursors)) == {f"d{n}": 3 for n in range(40)}
    assert sorted(cursors) == sorted(["0", "3", *(f"{low}-{high}" for low, high in bounds)]), "bounds stay bounds"
    container.split(container.partitions[1].id)
    await documents.write([put(f"d{n}", 4) for n in range(40)])
    assert newest(await follow(feed, cursors)) == {f"d{n}": 4 for n in range(40)}
    assert len(cursors) == 5


async def test_a_start_now_is_kept_before_the_first_change(cosmos: Server, database: Cosmos) -> None:
    """Whoever restarts before the first change goes on from where "now" was."""
    cursors = await starts(database.feed(ORDERS), "now")
    await database.documents(ORDERS).write([put("early", 1)])
    await database.close()
    again = await opened(cosmos)
    assert newest(await follow(again.feed(ORDERS), cursors)) == {"early": 1}
    await again.close()


async def test_an_empty_page_has_its_place(cosmos: Server, database: Cosmos) -> None:
    """On 304 the client tells no token: the place is in the headers, and a range without changes has one, too."""
    feed = database.feed(ORDERS)
    cursors = await starts(feed)
    assert all(text.endswith("|beginning") for text in cursors.values())
    assert await follow(feed, cursors) == []
    assert all(text.endswith('|"0"') for text in cursors.values())


async def test_ranges_read_at_once_have_each_their_own_place(cosmos: Server, database: Cosmos) -> None:
    """The client keeps the headers of its last answer in one place for all requests."""
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    await documents.write([put(f"d{n}", n) for n in range(200)])
    for _ in range(5):
        cursors = await starts(feed)
        found: list[Logged] = []
        for _ in range(60):
            pages, _ = await asyncio.gather(feed.read(cursors, 5, 0.0), documents.write([put("away", 1, "k")]))
            for name, page in pages.items():
                assert isinstance(page, Page)
                cursors[name] = page.cursor
                found += page.changes
            if not any(isinstance(page, Page) and page.more for page in pages.values()):
                break
        ids = [change.document for change in found if change.document != "away"]
        assert sorted(ids) == sorted(f"d{n}" for n in range(200))
        partitions = cosmos.account.container("shop", "orders").partitions
        ends = {one.id: one.lsn for one in partitions}
        assert {name: int(text.split('"')[1]) <= ends[name] for name, text in cursors.items()} == dict.fromkeys(
            ends, True
        )


async def test_a_feed_from_a_time_goes_on_after_a_restart(cosmos: Server, database: Cosmos) -> None:
    """The client cannot read its own token of a reading that began at a time."""
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    await documents.write([put("old", 1)])
    cosmos.account.ahead += 3600
    await documents.write([put("new", 2)])
    since = cosmos.account.clock() - 1800
    cursors = {name: await feed.start(name, since) for name in await feed.partitions()}
    assert newest(await follow(feed, cursors)) == {"new": 2}
    again = await opened(cosmos)
    await again.documents(ORDERS).write([put("newer", 3)])
    assert newest(await follow(again.feed(ORDERS), cursors)) == {"newer": 3}
    await again.close()


async def test_a_transaction_is_on_one_page(cosmos: Server, database: Cosmos) -> None:
    """Items of one LSN have places of their own within it, the same at each reading."""
    container = cosmos.account.container("shop", "orders")
    for n in range(6):
        container.write(["k"], {"id": f"d{n}", "_key": "k", "n": n}, how="create")
    partition = container.of(container.epk(["k"]))
    for item in partition.items.values():
        item["_lsn"] = 3
    feed = database.feed(ORDERS)
    page = (await feed.read({partition.id: await feed.start(partition.id, "beginning")}, 2, 0.0))[partition.id]
    assert isinstance(page, Page)
    assert len(page.changes) == 6
    orders = {change.document: change.order for change in page.changes}
    assert len(set(orders.values())) == 6
    assert [change.cursor is None for change in page.changes] == [True] * 5 + [False]
    partition.items.pop(next(at for at, item in partition.items.items() if item["id"] == "d0"))
    page = (await feed.read({partition.id: await feed.start(partition.id, "beginning")}, 2, 0.0))[partition.id]
    assert isinstance(page, Page)
    assert {change.document: change.order for change in page.changes} == {k: v for k, v in orders.items() if k != "d0"}


async def test_lag_is_that_of_the_estimator(cosmos: Server, database: Cosmos) -> None:
    """The newest LSN of the session token less the first that was not read, plus one."""
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    cursors = await starts(feed)
    assert set((await feed.lag(cursors)).values()) == {Lag(0, 0.0)}
    await documents.write([put("d", n) for n in range(7)])
    partition = cosmos.account.container("shop", "orders").of(cosmos.account.container("shop", "orders").epk(["d"]))
    assert (await feed.lag(cursors))[partition.id].items == 1, "only the newest version is left of seven"
    await documents.write([put("e", 1, "d"), put("f", 1, "d")])
    lags = await feed.lag(cursors)
    assert lags[partition.id].items == 3
    assert sum(lag.items for lag in lags.values()) == 3


async def test_all_versions_and_deletes(cosmos: Server) -> None:
    database = await opened(cosmos, "&mode=all")
    assert {"versions", "deletes"} <= database.features
    feed, documents = database.feed(ORDERS), database.documents(ORDERS)
    with pytest.raises(ConfigurationError, match="start='beginning': with mode=all a feed begins now"):
        await feed.start("0", "beginning")
    cursors = await starts(feed, "now")
    await documents.write([put("a", 1), put("a", 2), Delete("orders", "a", "a"), put("b", 1)])
    found = sorted(await follow(feed, cursors), key=lambda change: (change.document, change.order))
    told = [(c.kind, c.document, c.key, c.body and json.loads(c.body)["n"]) for c in found]
    assert told == [("put", "a", "a", 1), ("put", "a", "a", 2), ("delete", "a", "a", None), ("put", "b", "b", 1)]
    assert len({change.id for change in found}) == 4
    cosmos.account.container("shop", "orders").ttl = 5
    cosmos.account.ahead += 10
    (gone,) = await follow(feed, cursors)
    assert (gone.kind, gone.document, gone.key) == ("delete", "b", "b"), "what has expired is a delete, too"
    await database.close()


async def test_the_feed_of_a_container_of_others(cosmos: Server, database: Cosmos) -> None:
    body = {"id": "invoices", "partitionKey": {"paths": ["/tenant", "/user"], "kind": "MultiHash", "version": 2}}
    container = cosmos.account.create("shop", body)
    table = TableSpec("bills", "invoices", "id", "tenant,user")
    await database.open([table], [])
    container.write(["t", 7], {"id": "i-1", "tenant": "t", "user": 7, "sum": 1.5, "_note": "mine"}, how="create")
    (change,) = await follow(database.feed(table), await starts(database.feed(table)))
    assert (change.document, change.key, change.kind) == ("i-1", '["t", 7]', "put")
    assert json.loads(change.body or b"") == {"id": "i-1", "tenant": "t", "user": 7, "sum": 1.5, "_note": "mine"}
    wrong = TableSpec("bills", "invoices", "id", "user")
    with pytest.raises(ConfigurationError, match=r"key='user': the partition key .* is tenant, user"):
        await database.open([wrong], [])
    with pytest.raises(ConfigurationError, match="id='number': in Cosmos DB the id of a document is its field id"):
        await database.open([TableSpec("bills", "invoices", "number", "tenant,user")], [])


async def test_throttled_for_long_is_told_with_the_cure(cosmos: Server, database: Cosmos) -> None:
    feed = database.feed(ORDERS)
    cursors = await starts(feed)
    cosmos.rules.append(Rule("GET dbs/shop/colls/orders/docs", 429, 3200, count=100, after_ms=1))
    with pytest.raises(Unavailable, match=r"throughput is used up \(429\); raise the RU/s"):
        await feed.read(cursors, 10, 0.0)
    cosmos.rules.clear()
    cosmos.rules.append(Rule("GET dbs/shop/colls/orders/docs", 429, 3200, count=1, after_ms=1))
    assert await follow(feed, cursors) == [], "once is waited for by the client"


async def test_a_cursor_that_is_none_is_refused(database: Cosmos) -> None:
    with pytest.raises(BadOption, match="'17' is no cursor of a feed in Cosmos DB"):
        await database.feed(ORDERS).read({"0": "17"}, 10, 0.0)


def test_what_is_used_of_the_client_beyond_its_documentation() -> None:
    """Looked at again with each release of azure-cosmos: these are private, and small."""
    from azure.core.pipeline.policies import CustomHookPolicy
    from azure.cosmos._change_feed.change_feed_state import ChangeFeedStateV2
    from azure.cosmos._session import SessionContainer
    from azure.cosmos.aio._cosmos_client import _build_connection_policy
    from azure.cosmos.aio._cosmos_client_connection_async import CosmosClientConnection
    from azure.cosmos.aio._global_endpoint_manager_async import _GlobalEndpointManager

    assert "collection_link" in inspect.signature(CosmosClientConnection._ReadPartitionKeyRanges).parameters
    assert inspect.iscoroutinefunction(CosmosClientConnection.GetDatabaseAccount)
    assert hasattr(ContainerProxy, "query_items_change_feed")
    assert hasattr(CosmosClient, "get_database_client")
    assert "raw_response_hook" in inspect.getsource(CustomHookPolicy)
    assert "preferred_locations" in inspect.getsource(_build_connection_policy)
    assert "refresh_needed" in inspect.getsource(_GlobalEndpointManager.refresh_endpoint_list)
    assert list(inspect.signature(SessionContainer.set_session_token).parameters)[1:] == [
        "client_connection", "response_result", "response_headers"
    ]  # fmt: skip
    assert "_UpdateSession" not in inspect.getsource(CosmosClientConnection.Batch), "then it need not be done by us"
    bounds = {"min": "", "max": "FF", "isMinInclusive": True, "isMaxInclusive": False}
    inner = {"v": "v2", "rid": "r", "continuation": [{"token": '"1"', "range": bounds}], "Range": bounds}
    token = {
        "v": "v2",
        "containerRid": "r",
        "mode": "LatestVersion",
        "startFrom": {"Type": "Now"},
        "continuation": inner,
    }
    state = ChangeFeedStateV2.from_continuation(
        "link", "r", json.loads(base64.b64decode(base64.b64encode(json.dumps(token).encode())))
    )
    assert state.to_dict()["continuation"]["continuation"][0]["token"] == '"1"'
