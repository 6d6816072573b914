"""The double of Cosmos DB where it is intricate, asked by the unmodified azure-cosmos."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import (
    CosmosBatchOperationError,
    CosmosHttpResponseError,
    CosmosResourceNotFoundError,
)

from tests.doubles.cosmos import feed
from tests.doubles.cosmos.regions import check_session
from tests.doubles.cosmos.server import Server
from tests.doubles.cosmos.state import Account, Container, Fault
from tests.servers.cosmos import cosmos as cosmos

ORDERED = {"compositeIndexes": [[{"path": "/n", "order": "ascending"}, {"path": "/id", "order": "ascending"}]]}


@pytest.fixture
async def orders(cosmos: Server) -> AsyncIterator[ContainerProxy]:
    async with CosmosClient(cosmos.endpoint, cosmos.key) as client:
        database = client.get_database_client("shop")
        yield await database.create_container(
            "orders", PartitionKey(path="/k"), indexing_policy={"includedPaths": [{"path": "/*"}], **ORDERED}
        )


def held(cosmos: Server) -> Container:
    return cosmos.account.container("shop", "orders")


async def ids(orders: ContainerProxy, text: str, **more: Any) -> list[str]:
    return [item["id"] async for item in orders.query_items(text, **more)]


async def test_a_batch_is_all_or_nothing_and_one_transaction(cosmos: Server, orders: ContainerProxy) -> None:
    await orders.create_item({"id": "a", "k": "k", "n": 1})
    partition = held(cosmos).of(held(cosmos).epk(["k"]))
    before = (partition.lsn, dict(partition.items), len(partition.log))
    with pytest.raises(CosmosBatchOperationError) as refused:
        await orders.execute_item_batch(
            [("upsert", ({"id": "a", "k": "k", "n": 2},)), ("create", ({"id": "b", "k": "k"},)), ("delete", ("none",))],
            "k",
        )
    assert (refused.value.error_index, refused.value.status_code) == (2, 404)
    assert [one["statusCode"] for one in refused.value.operation_responses] == [424, 424, 404]
    assert (partition.lsn, dict(partition.items), len(partition.log)) == before
    done = await orders.execute_item_batch(
        [("upsert", ({"id": "a", "k": "k", "n": 2},)), ("create", ({"id": "b", "k": "k"},)), ("read", ("a",))], "k"
    )
    assert [one["statusCode"] for one in done] == [200, 201, 200]
    assert partition.lsn == before[0] + 1
    assert [item["_lsn"] for item in partition.items.values()] == [partition.lsn] * 2


async def test_a_batch_has_a_hundred_operations_of_one_key(orders: ContainerProxy) -> None:
    many = [("create", ({"id": f"d{n}", "k": "k"},)) for n in range(101)]
    with pytest.raises(CosmosHttpResponseError, match="more operations than what is supported: 100"):
        await orders.execute_item_batch(many, "k")  # type: ignore[arg-type]
    with pytest.raises(CosmosBatchOperationError) as refused:
        await orders.execute_item_batch([("create", ({"id": "a", "k": "other"},))], "k")
    assert refused.value.status_code == 400


async def test_an_order_by_two_fields_needs_an_index_of_both(orders: ContainerProxy) -> None:
    for n, id in enumerate("cab"):
        await orders.create_item({"id": id, "k": "k", "n": n // 2})
    assert await ids(orders, "SELECT * FROM c ORDER BY c.n ASC, c.id ASC") == ["a", "c", "b"]
    assert await ids(orders, "SELECT * FROM c ORDER BY c.n DESC, c.id DESC") == ["b", "c", "a"], "the opposite"
    assert await ids(orders, "SELECT * FROM c ORDER BY c.id ASC") == ["a", "b", "c"], "one field has its index"
    for text in ("c.n ASC, c.id DESC", "c.k ASC, c.id ASC"):
        with pytest.raises(CosmosHttpResponseError, match="does not have a corresponding composite index") as refused:
            await ids(orders, f"SELECT * FROM c ORDER BY {text}")
        assert refused.value.status_code == 400


async def test_a_session_is_not_served_what_is_older(cosmos: Server, orders: ContainerProxy) -> None:
    await orders.create_item({"id": "a", "k": "k"})
    partition = held(cosmos).of(held(cosmos).epk(["k"]))
    for token in (None, "", f"{partition.id}:-1#{partition.lsn}", "99:-1#77", f"98:-1#1,{partition.id}:-1#0"):
        check_session(partition, token)
    with pytest.raises(Fault) as refused:
        check_session(partition, f"98:-1#1,{partition.id}:-1#{partition.lsn + 1}")
    assert (refused.value.status, refused.value.sub) == (404, 1002)
    with pytest.raises(CosmosResourceNotFoundError) as told:
        await orders.read_item("a", "k", session_token=f"{partition.id}:-1#99")
    assert told.value.sub_status == 1002
    first, _ = held(cosmos).split(partition.id)
    child = held(cosmos).partition(first)
    with pytest.raises(Fault):
        check_session(child, f"{partition.id}:-1#{child.lsn + 1}")


async def test_a_sub_range_is_read_without_the_rest(cosmos: Server, orders: ContainerProxy) -> None:
    for n in range(40):
        await orders.create_item({"id": f"d{n}", "k": f"k{n}"})
    whole = held(cosmos).partitions[0]
    middle = sorted(epk for epk, _ in whole.items)[len(whole.items) // 2]
    headers = {"x-ms-documentdb-partitionkeyrangeid": "0", "A-IM": "Incremental Feed", "x-ms-max-item-count": "100"}
    halves = [
        {**headers, "x-ms-read-key-type": "EffectivePartitionKeyRange", "x-ms-start-epk": low, "x-ms-end-epk": high}
        for low, high in (("", middle), (middle, whole.high))
    ]
    lower, upper = (feed.page(held(cosmos), one) for one in halves)
    assert len(lower.items) == len(whole.items) // 2
    found = [item["id"] for page in (lower, upper) for item in page.items]
    assert sorted(found) == sorted(item["id"] for item in whole.items.values())
    assert lower.etag != upper.etag
    rest = feed.page(held(cosmos), {**halves[0], "If-None-Match": lower.etag})
    assert (rest.items, rest.etag) == ([], f'"{whole.lsn}"'), "nothing more, and the end is told"


async def test_items_keep_the_order_of_their_versions_through_splits_and_merges(
    cosmos: Server, orders: ContainerProxy
) -> None:
    for n in range(60):
        await orders.upsert_item({"id": f"d{n % 20}", "k": f"k{n % 20}", "n": n})
    first, second = held(cosmos).split("1")
    merged = held(cosmos).merge(second, "2")
    for n in range(20):
        await orders.upsert_item({"id": f"d{n}", "k": f"k{n}", "n": 60 + n})
    for partition in held(cosmos).partitions:
        lsns = [item["_lsn"] for item in partition.items.values()]
        assert lsns == sorted(lsns)
    assert held(cosmos).partition(merged).parents == ["1", second, "2"]
    with pytest.raises(Fault) as gone:
        held(cosmos).partition("1")
    assert (gone.value.status, gone.value.sub) == (410, 1002)
    assert first in {one.id for one in held(cosmos).partitions}


async def test_a_ttl_of_an_item_counts_where_the_container_has_it_on(cosmos: Server, orders: ContainerProxy) -> None:
    await orders.create_item({"id": "a", "k": "k", "ttl": 10})
    cosmos.account.ahead += 11
    assert (await orders.read_item("a", "k"))["ttl"] == 10, "switched off"
    held(cosmos).ttl = -1
    with pytest.raises(CosmosResourceNotFoundError):
        await orders.read_item("a", "k")
    await orders.create_item({"id": "b", "k": "k"})
    cosmos.account.ahead += 1_000_000
    assert (await orders.read_item("b", "k"))["id"] == "b", "-1: only items that say so"


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_etags_and_sizes_are_judged(cosmos: Server, orders: ContainerProxy) -> None:
    made = await orders.create_item({"id": "a", "k": "k"})
    changed = await orders.upsert_item({"id": "a", "k": "k"})
    assert changed["_etag"] != made["_etag"]
    with pytest.raises(CosmosHttpResponseError) as refused:
        await orders.replace_item(
            "a", {"id": "a", "k": "k"}, etag=made["_etag"], match_condition=MatchConditions.IfNotModified
        )
    assert refused.value.status_code == 412
    with pytest.raises(CosmosHttpResponseError) as large:
        await orders.create_item({"id": "b", "k": "k", "x": "x" * 2_200_000})
    assert large.value.status_code == 413


def test_keys_of_all_shapes_have_places() -> None:
    """As the client computes them: each kind of value has one of its own, and nothing is not null."""
    account = Account(4)
    account.databases["shop"] = {}
    body = {"id": "c", "partitionKey": {"paths": ["/k"], "kind": "Hash", "version": 2}}
    container = account.create("shop", body)
    keys = [container.key_of(item) for item in ({}, {"k": None}, {"k": 7}, {"k": "7"}, {"k": True}, {"k": 7.5})]
    places = [container.epk(key) for key in keys]
    assert len(set(places)) == len(places)
    assert keys[:2] == [[{}], [None]]
