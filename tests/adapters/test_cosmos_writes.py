"""Writes to Cosmos DB on the double: lost answers, commits of one key, ids, keys of other shapes, 429, charges."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest

from tests.doubles.cosmos.server import Rule, Server
from tests.servers.cosmos import cosmos as cosmos
from tests.servers.cosmos import url_of
from tidemill.adapters.cosmos import Cosmos
from tidemill.adapters.cosmos.items import unfit_id
from tidemill.engine.clock import SystemClock
from tidemill.errors import BadOption, ConfigurationError, TooLarge, Unavailable, Unfit
from tidemill.model import (
    CollectionSpec,
    Commit,
    Committed,
    Conflicted,
    Delete,
    Expect,
    Finished,
    Gone,
    Message,
    Mismatch,
    Page,
    Put,
    Query,
    Stored,
    Swap,
    TableSpec,
)
from tidemill.ports import Metered

ORDERS = CollectionSpec("orders", fields=("n",))
DOCS = "dbs/shop/colls/orders/docs"


@pytest.fixture
async def database(cosmos: Server) -> AsyncIterator[Cosmos]:
    made = await opened(cosmos)
    yield made
    await made.close()


async def opened(server: Server, options: str = "") -> Cosmos:
    made = Cosmos.from_url(url_of(server, options), SystemClock())
    await made.open([ORDERS], [])
    return made


def put(id: str, n: int, key: str | None = None, expect: Expect | str = Expect.ANYTHING) -> Put:
    return Put("orders", id, key or id, json.dumps({"n": n}).encode(), expect)


def lost(server: Server, method: str, *, applied: bool = True, count: int = 1) -> None:
    """The next requests of this kind end without an answer."""
    server.rules.append(Rule(f"{method} {DOCS}", 0, count=count, applied=applied))


async def one(database: Cosmos, write: Put | Delete) -> object:
    (written,) = await database.documents(ORDERS).write([write])
    return written


async def etag(database: Cosmos, id: str, n: int) -> str:
    written = await one(database, put(id, n))
    assert isinstance(written, Stored)
    return written.etag


async def now(database: Cosmos, id: str) -> Stored | None:
    (found,) = await database.documents(ORDERS).get([id])
    return found


# --- lost answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [True, False], ids=["applied", "not applied"])
async def test_a_create_whose_answer_was_lost_is_no_conflict_with_itself(
    cosmos: Server, database: Cosmos, applied: bool
) -> None:
    """The client sends a write again when the connection ends, and gets 409 for the one that took effect."""
    lost(cosmos, "POST", applied=applied)
    written = await one(database, put("a", 1, expect=Expect.NOTHING))
    assert cosmos.counts["POST docs"] == 2, "the client did send it again"
    assert isinstance(written, Stored)
    assert written == await now(database, "a")


async def test_a_replace_whose_answer_was_lost_is_no_mismatch_with_itself(cosmos: Server, database: Cosmos) -> None:
    """And aiohttp sends a PUT again by itself, where no hook of the client sees it; then 412."""
    first = await etag(database, "a", 1)
    lost(cosmos, "PUT")
    written = await one(database, put("a", 2, expect=first))
    assert cosmos.counts["PUT docs"] == 2
    assert isinstance(written, Stored)
    assert (json.loads(written.body), written.etag != first) == ({"n": 2}, True)
    assert written == await now(database, "a")


async def test_an_equal_body_of_somebody_else_is_still_a_mismatch(cosmos: Server, database: Cosmos) -> None:
    """Same id, same etag before, same body: but it was not we, and no answer was lost."""
    other = await opened(cosmos)
    first = await etag(database, "a", 1)
    theirs = await one(other, put("a", 2, expect=first))
    assert await one(database, put("a", 2, expect=first)) == Mismatch("a", theirs)  # type: ignore[arg-type]
    assert await one(database, put("a", 2, expect=Expect.NOTHING)) == Mismatch("a", theirs)  # type: ignore[arg-type]
    await other.close()


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_lost_answer_and_somebody_elses_document_leave_it_open(
    cosmos: Server, database: Cosmos, method: str
) -> None:
    """Whether ours was written and overwritten, or never written, nobody can say: unknown, and to be asked again."""
    other = await opened(cosmos)
    first = await etag(database, "a", 1)
    await one(other, put("a", 2))
    lost(cosmos, method, applied=False)
    expect = Expect.NOTHING if method == "POST" else first
    with pytest.raises(Unavailable, match="orders a: an answer was lost; whether it was written is not known"):
        await one(database, put("a", 2, expect=expect))
    again = await one(database, put("a", 2, expect=expect))
    assert isinstance(again, Mismatch)
    await other.close()


async def test_throttled_once_is_no_lost_answer(cosmos: Server, database: Cosmos) -> None:
    """429 says that nothing was done: a refusal after it is a refusal."""
    await etag(database, "a", 1)
    cosmos.rules.append(Rule(f"POST {DOCS}", 429, 3200, after_ms=1))
    written = await one(database, put("a", 2, expect=Expect.NOTHING))
    assert isinstance(written, Mismatch)


async def test_a_delete_whose_answer_was_lost(cosmos: Server, database: Cosmos) -> None:
    """Without an etag it is gone, whoever did it; with one it is open whether that version was."""
    await etag(database, "a", 1)
    lost(cosmos, "DELETE")
    assert await one(database, Delete("orders", "a", "a")) == Gone("a")
    version = await etag(database, "b", 1)
    lost(cosmos, "DELETE")
    with pytest.raises(Unavailable, match="orders b: an answer was lost"):
        await one(database, Delete("orders", "b", "b", version))
    assert await one(database, Delete("orders", "b", "b", version)) == Mismatch("b", None)


async def test_a_delete_asks_where_writes_are_judged(cosmos: Server, database: Cosmos) -> None:
    """One request where the id is the key, and none that reads."""
    await etag(database, "a", 1)
    before = dict(cosmos.counts)
    assert await one(database, Delete("orders", "a")) == Gone("a")
    spent = {kind: n - before.get(kind, 0) for kind, n in cosmos.counts.items() if n != before.get(kind, 0)}
    assert spent == {"DELETE docs": 1}


async def test_the_word_of_a_write_is_in_no_body(cosmos: Server, database: Cosmos) -> None:
    await etag(database, "a", 1)
    (item,) = (item for part in cosmos.account.container("shop", "orders").partitions for item in part.items.values())
    assert len(item["_tidemill"]) == 12
    feed = database.feed(ORDERS)
    pages = await feed.read({name: await feed.start(name, "beginning") for name in await feed.partitions()}, 10, 0.0)
    bodies = [change.body for page in pages.values() if isinstance(page, Page) for change in page.changes]
    stored = await now(database, "a")
    assert stored is not None
    assert [*bodies, stored.body] == [b'{"n":1}'] * 2
    with pytest.raises(Unfit, match="the field '_tidemill' belongs to Cosmos DB or to Tidemill"):
        await one(database, Put("orders", "b", "b", b'{"_tidemill": 1}'))


# --- commits ------------------------------------------------------------------------------------------------


async def committed(database: Cosmos, *writes: Put | Delete) -> object:
    (result,) = await database.commit([Commit(writes)])
    return result


async def test_a_commit_is_one_request_and_one_transaction(cosmos: Server, database: Cosmos) -> None:
    feed = database.feed(ORDERS)
    cursors = {name: await feed.start(name, "beginning") for name in await feed.partitions()}
    await committed(database, *(put(f"d{n}", n, "k") for n in range(100)))
    assert cosmos.counts["POST batch"] == 1
    pages = await feed.read(cursors, 10, 0.0)
    (full,) = [page.changes for page in pages.values() if isinstance(page, Page) and page.changes]
    assert len(full) == 100, "a page never cuts a transaction"
    assert len({change.order >> 16 for change in full}) == 1


async def test_a_commit_whose_answer_was_lost(cosmos: Server, database: Cosmos) -> None:
    """It was applied as a whole if its items bear its word; if somebody overwrote them, it stays open."""
    cosmos.rules.append(Rule("POST batch", 0, applied=True))
    result = await committed(database, put("a", 1, "k", Expect.NOTHING), put("b", 1, "k"))
    assert cosmos.counts["POST batch"] == 2
    assert isinstance(result, Committed)
    assert result.written == tuple(await database.documents(ORDERS).get(["a", "b"]))
    cosmos.rules.append(Rule("POST batch", 0, applied=False))
    with pytest.raises(Unavailable, match="an answer was lost; whether the commit took effect is unknown"):
        await committed(database, put("a", 2, "k", Expect.NOTHING))
    assert isinstance(await committed(database, put("a", 2, "k", Expect.NOTHING)), Conflicted)


async def test_what_cannot_be_one_commit_is_refused_in_one_line(cosmos: Server, database: Cosmos) -> None:
    kept = put("kept", 1, "k")
    for bad, line in (
        (Commit((kept,), messages=(Message("q", "m", b"1"),)), "writes of documents only, not messages"),
        (Commit((kept,), swaps=(Swap("r", None, {}),)), "writes of documents only, not swaps"),
        (Commit((kept,), finished=(Finished("l", 1, "n", "c"),)), "writes of documents only, not finished changes"),
    ):
        with pytest.raises(ConfigurationError, match=line):
            await database.commit([Commit((kept,)), bad])
    await database.open([CollectionSpec("others")], [])
    for writes, line in (
        ((kept, put("a", 1, "j")), "under one key of one collection, not the keys 'j' and 'k'"),
        ((kept, Put("others", "a", "k", b"{}")), "not the collections 'orders' and 'others'"),
        (tuple(put(f"d{n}", 1, "k") for n in range(101)), "a commit of 101 writes: Cosmos DB takes 100 in one step"),
    ):
        with pytest.raises(BadOption, match=line):
            await database.commit([Commit((kept,)), Commit(writes)])
    large = tuple(Put("orders", f"d{n}", "k", json.dumps("x" * 700_000).encode()) for n in range(3))
    with pytest.raises(TooLarge, match="larger than Cosmos DB takes in one step"):
        await database.commit([Commit((kept,)), Commit(large)])
    await one(database, put("away", 1, "elsewhere"))
    with pytest.raises(BadOption, match="its documents stand under 'k' and 'elsewhere'"):
        await database.commit([Commit((kept,)), Commit((kept, put("away", 2, "k")))])
    assert await now(database, "kept") is None
    assert cosmos.counts["POST batch"] == 0


# --- ids and keys -------------------------------------------------------------------------------------------

UNFIT = {"": "is empty", ".": "mean other places", "..": "mean other places", "a/b": "contains '/'",
         "a\\b": "contains", "a?b": "contains '?'", "a#b": "contains '#'", "a ": "ends with a blank",
         "a\n": "contains", "a\x00b": "contains", "ü" * 512: "more than 1,023 bytes"}  # fmt: skip


@pytest.mark.parametrize("id", UNFIT, ids=repr)
async def test_an_id_that_cosmos_cannot_take(cosmos: Server, database: Cosmos, id: str) -> None:
    """Before anything is sent; such a document is never there, deleting it asks nobody ("docs/.." is a container)."""
    before = dict(cosmos.counts)
    assert UNFIT[id] in unfit_id(id)
    with pytest.raises(Unfit, match=r"^document .*: Cosmos DB takes no id that .*; choose another id$"):
        await one(database, put(id, 1, "k"))
    with pytest.raises(Unfit, match="Cosmos DB takes no id that"):
        await committed(database, put(id, 1, "k"))
    assert await now(database, id) is None
    assert await one(database, Delete("orders", id)) == Gone(id)
    assert cosmos.counts == before


@pytest.mark.parametrize("id", ["a b", "ü", "a+b", "a%2Fb", "a;b=c&d", "...", "'\"", "日本", "a:b@c", "x" * 1_023])
async def test_ids_that_look_odd_and_are_none(database: Cosmos, id: str) -> None:
    written = await one(database, put(id, 1, expect=Expect.NOTHING))
    assert isinstance(written, Stored)
    assert written == await now(database, id)
    assert isinstance(await one(database, put(id, 2, expect=written.etag)), Stored)
    assert isinstance(await committed(database, put(id, 3)), Committed)
    assert await one(database, Delete("orders", id)) == Gone(id)
    assert await now(database, id) is None


async def test_a_key_that_is_too_long(database: Cosmos) -> None:
    with pytest.raises(Unfit, match="its key has more than 2,048 bytes"):
        await one(database, put("a", 1, "k" * 2_049))


@pytest.mark.parametrize(
    ("path", "fields", "key"),
    [
        ("/no", {"no": 7}, "7"),
        ("/no", {"no": 7.5}, "7.5"),
        ("/no", {"no": True}, "true"),
        ("/no", {"no": None}, "null"),
        ("/no", {}, "null"),
        ("/at/city", {"at": {"city": "Rome"}}, "Rome"),
        ("/at/city", {"at": {}}, "null"),
        ("/no", {"no": "7"}, "7"),
    ],
)
async def test_documents_under_keys_of_other_shapes(
    cosmos: Server, database: Cosmos, path: str, fields: dict[str, object], key: str
) -> None:
    """A container of others: numbers, truths, null, nothing, a field within a field."""
    body = {"id": "bills", "partitionKey": {"paths": [path], "kind": "Hash", "version": 2}}
    container = cosmos.account.create("shop", body)
    bills = CollectionSpec("bills")
    await database.open([bills], [])
    documents, feed = database.documents(bills), database.feed(bills)
    item = {"id": "b", "n": 1, **fields}
    container.write(container.key_of(item), item, how="create")
    (found,) = await documents.get(["b"])
    assert found is not None
    assert (found.key, json.loads(found.body)) == (key, item)
    assert (await documents.query(Query(key=key))).documents == (found,)
    pages = await feed.read({name: await feed.start(name, "beginning") for name in await feed.partitions()}, 10, 0.0)
    changes = [change for page in pages.values() if isinstance(page, Page) for change in page.changes]
    assert [(change.document, change.key) for change in changes] == [("b", key)]
    body2 = json.dumps({**item, "n": 2}).encode()
    (written,) = await documents.write([Put("bills", "b", key, body2, found.etag)])
    if "null" not in key:
        assert isinstance(written, Stored)
    assert list(await documents.write([Delete("bills", "b")])) == [Gone("b")]
    assert list(await documents.get(["b"])) == [None]


async def test_documents_under_hierarchical_keys(cosmos: Server, database: Cosmos) -> None:
    body = {"id": "bills", "partitionKey": {"paths": ["/tenant", "/user"], "kind": "MultiHash", "version": 2}}
    container = cosmos.account.create("shop", body)
    bills = CollectionSpec("bills")
    await database.open([bills], [])
    documents = database.documents(bills)
    items = [{"id": f"b{n}", "tenant": "t", "user": n, "n": n} for n in range(4)]
    for item in items:
        container.write(container.key_of(item), item, how="create")
    (found,) = await documents.get(["b2"])
    assert found is not None
    assert found.key == '["t", 2]'
    assert (await documents.query(Query(key='["t", 2]'))).documents == (found,)
    again = Put("bills", "b2", '["t", 2]', json.dumps({**items[2], "n": 9}).encode(), found.etag)
    (written,) = await documents.write([again])
    assert isinstance(written, Stored)
    (result,) = await database.commit([Commit((Delete("bills", "b2", '["t", 2]', written.etag),))])
    assert result == Committed((Gone("b2"),))
    assert list(await documents.write([Delete("bills", "b1")])) == [Gone("b1")]
    assert [one is None for one in await documents.get(["b0", "b1", "b2", "b3"])] == [False, True, True, False]


async def test_an_order_that_the_container_has_no_index_for(cosmos: Server, database: Cosmos) -> None:
    """Containers of ours have it for the fields that were declared when they were made; others are told what to add."""
    cosmos.account.create("shop", {"id": "bills", "partitionKey": {"paths": ["/no"], "kind": "Hash", "version": 2}})
    bills = CollectionSpec("bills", fields=("n",))
    await database.open([bills], [])
    with pytest.raises(ConfigurationError, match=r"an order needs an index of two fields .* the ordered field and /id"):
        await database.documents(bills).query(Query(order="n"))
    assert (await database.documents(bills).query(Query())).documents == (), "by id it has one"
    assert (await database.documents(ORDERS).query(Query(order="n", descending=True))).documents == ()


async def test_a_document_that_expires_is_gone(cosmos: Server, database: Cosmos) -> None:
    """TTL is the container's: an expired document is not there, may be created again, and is no change of its own."""
    container = cosmos.account.container("shop", "orders")
    first = await one(database, put("a", 1))
    container.ttl = 60
    feed = database.feed(ORDERS)
    cursors = {name: await feed.start(name, "now") for name in await feed.partitions()}
    cosmos.account.ahead += 61
    assert await now(database, "a") is None
    assert (await database.documents(ORDERS).query(Query())).documents == ()
    pages = await feed.read(cursors, 10, 0.0)
    assert not any(page.changes for page in pages.values() if isinstance(page, Page))
    again = await one(database, put("a", 2, expect=Expect.NOTHING))
    assert isinstance(first, Stored)
    assert isinstance(again, Stored)
    assert again.etag != first.etag


# --- throttling and charges ---------------------------------------------------------------------------------


async def test_a_long_wait_is_told_and_not_waited_for(cosmos: Server, database: Cosmos) -> None:
    """The client waits as long as the service asks, beyond each limit of the engine; we raise instead."""
    cosmos.rules.append(Rule(f"POST {DOCS}", 429, 3200, count=9, after_ms=60_000))
    with pytest.raises(Unavailable, match=r"throughput is used up \(429\).*asks to wait for 60 s"):
        await one(database, put("a", 1))
    assert cosmos.rules[-1].count == 8, "once"
    cosmos.rules.clear()
    cosmos.rules.append(Rule(f"POST {DOCS}", 429, 3200, count=2, after_ms=20))
    assert isinstance(await one(database, put("a", 1)), Stored), "short ones are the client's to wait for"
    assert cosmos.rules[-1].count == 0


async def test_what_requests_cost_is_counted_by_container(cosmos: Server, database: Cosmos) -> None:
    assert isinstance(database, Metered)
    before = database.charged()
    await one(database, put("a", 1))
    await now(database, "a")
    cosmos.rules.append(Rule(f"GET {DOCS}", 429, 3200, after_ms=1))
    await now(database, "a")
    await database.store().swap([Swap("record", None, {})])
    spent = {name: total - before.get(name, 0) for name, total in database.charged().items()}
    assert spent == {"orders": 6 + 1 + (1 + 1), "tidemill": 6, "account": 0}, "a 429 is charged for, too"
    await database.commit([Commit((put("b", 1, "k"), put("c", 1, "k")))])
    assert database.charged()["orders"] - before["orders"] > 9 + 12
    await database.close()
    assert database.charged()["tidemill"] > 6, "what was spent is spent"


async def test_a_table_shows_what_it_costs_under_its_container(cosmos: Server, database: Cosmos) -> None:
    cosmos.account.create("shop", {"id": "invoices", "partitionKey": {"paths": ["/no"], "kind": "Hash", "version": 2}})
    bills = TableSpec("bills", "invoices", "id", "no")
    await database.open([bills], [])
    await database.feed(bills).start("0", "now")
    assert database.charged()["invoices"] > 0
