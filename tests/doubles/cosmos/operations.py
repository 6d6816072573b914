"""What is done with the items of one container: points, batches, questions, the feed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.doubles.cosmos import feed, sql
from tests.doubles.cosmos.regions import check_session
from tests.doubles.cosmos.state import Container, Fault, Item, Partition, public

MOST = 100
"""Operations of a batch."""

CHARGES = {"read": 1.0, "write": 6.0, "delete": 6.0, "feed": 1.0, "query": 2.5, "plan": 0.0}
"""Request units, about as the service's of items of 1 KB: what is compared is that they are counted."""

FAILED = 424
"""Of an operation that did nothing because another one failed."""


class Answer(NamedTuple):
    """`body` None: none at all."""

    status: int
    body: Any
    charge: float
    headers: dict[str, str]


def answer(container: Container, method: str, id: str, headers: Mapping[str, str], body: Any) -> Answer:
    """One request to `…/docs/<id>`."""
    if method == "GET" and not id:
        return _feed(container, headers)
    if headers.get("x-ms-documentdb-isquery"):
        return _query(container, headers, body)
    if headers.get("x-ms-cosmos-is-query-plan-request"):
        select = sql.parse(body["query"], _parameters(body))
        return Answer(200, sql.plan(body["query"], select), CHARGES["plan"], {})
    key = json.loads(headers["x-ms-documentdb-partitionkey"])
    partition = container.of(container.epk(key))
    if headers.get("x-ms-cosmos-is-batch-request"):
        return _batch(container, partition, key, body)
    return _point(container, partition, method, key, id, headers, body)


def is_write(method: str, headers: Mapping[str, str]) -> bool:
    return method != "GET" and not (
        headers.get("x-ms-documentdb-isquery") or headers.get("x-ms-cosmos-is-query-plan-request")
    )


def _point(
    container: Container, partition: Partition, method: str, key: list[Any], id: str, headers: Mapping[str, str],
    body: Item,
) -> Answer:  # fmt: skip
    match = headers.get("If-Match")
    if method == "DELETE":
        container.delete(key, id, match)
        return Answer(204, None, CHARGES["delete"], feed.session(partition))
    if method == "GET":
        check_session(partition, headers.get("x-ms-session-token"))
        found, status = container.read(key, id), 200
    else:
        upsert = headers.get("x-ms-documentdb-is-upsert", "").lower() == "true"
        how = "replace" if method == "PUT" else "upsert" if upsert else "create"
        found, new = container.write(key, body, how=how, match=match)
        status = 201 if new else 200
    charge = CHARGES["read" if method == "GET" else "write"]
    return Answer(status, public(found), charge, {**feed.session(partition), "etag": found["_etag"]})


# --- batches ------------------------------------------------------------------------------------------------


def _batch(container: Container, partition: Partition, key: list[Any], operations: Sequence[Item]) -> Answer:
    """All operations with one LSN, or none: then the one that failed has its status and the others 424."""
    if len(operations) > MOST:
        raise Fault(400, f"Batch request has more operations than what is supported: {MOST}.")
    kept = (dict(partition.items), len(partition.log), partition.lsn, partition.mortal)
    lsn = partition.lsn + 1
    results: list[Item] = []
    for operation in operations:
        try:
            results.append(_operation(container, key, operation, lsn))
        except Fault as fault:
            partition.items, partition.lsn, partition.mortal = kept[0], kept[2], kept[3]
            del partition.log[kept[1] :]
            others = {"statusCode": FAILED, "requestCharge": 0}
            failed = {"statusCode": fault.status, "subStatusCode": fault.sub, "requestCharge": 1}
            told = [failed if n == len(results) else others for n in range(len(operations))]
            return Answer(207, told, 1.0 * len(operations), feed.session(partition))
    return Answer(200, results, sum(one["requestCharge"] for one in results), feed.session(partition))


def _operation(container: Container, key: list[Any], operation: Item, lsn: int) -> Item:
    kind, match = operation["operationType"], operation.get("ifMatch")
    if kind == "Delete":
        container.delete(key, operation["id"], match, lsn)
        return {"statusCode": 204, "requestCharge": CHARGES["delete"]}
    if kind == "Read":
        found, status = container.read(key, operation["id"]), 200
    else:
        body = operation["resourceBody"]
        found, new = container.write(key, body, how=kind.lower(), match=match, lsn=lsn)
        status = 201 if new else 200
    charge = CHARGES["read" if kind == "Read" else "write"]
    return {"statusCode": status, "requestCharge": charge, "eTag": found["_etag"], "resourceBody": public(found)}


# --- many ---------------------------------------------------------------------------------------------------


def _feed(container: Container, headers: Mapping[str, str]) -> Answer:
    check_session(
        container.partition(headers["x-ms-documentdb-partitionkeyrangeid"]), headers.get("x-ms-session-token")
    )
    page = feed.page(container, headers)
    told = {**feed.session(page.partition), "etag": page.etag}
    if not page.items:
        return Answer(304, None, CHARGES["feed"], told)
    body = {"_rid": container.rid, "Documents": page.items, "_count": len(page.items)}
    return Answer(200, body, CHARGES["feed"] + len(page.items) / 10, told)


def _query(container: Container, headers: Mapping[str, str], body: Item) -> Answer:
    select = sql.parse(body["query"], _parameters(body))
    if not _has_index(container, select.orders):
        raise Fault(400, "The order by query does not have a corresponding composite index that it can be served from.")
    token = headers.get("x-ms-session-token")
    key, id = headers.get("x-ms-documentdb-partitionkey"), headers.get("x-ms-documentdb-partitionkeyrangeid")
    if key is not None:
        epk = container.epk(json.loads(key))
        asked = [container.of(epk)]
        items = [item for at, item in _all(asked[0], container) if at[0] == epk]
    elif id is not None:
        asked = [container.partition(id)]
        items = [item for _, item in _all(asked[0], container)]
    else:
        asked = container.partitions
        if (select.orders or select.top is not None) and len(asked) > 1:
            raise Fault(400, "Cross partition query only supports … see the query plan", 1004)
        items = [item for one in asked for _, item in _all(one, container)]
    for partition in asked:
        check_session(partition, token)
    return _page(container, select.run(items), headers, asked)


def _all(partition: Partition, container: Container) -> list[tuple[tuple[str, str], Item]]:
    container.expire(partition)
    return list(partition.items.items())


def _page(container: Container, found: list[Any], headers: Mapping[str, str], asked: Sequence[Partition]) -> Answer:
    begin = int(headers.get("x-ms-continuation") or 0)
    size = int(headers.get("x-ms-max-item-count") or 100)
    size = 100 if size < 1 else size
    page = found[begin : begin + size]
    told = {"x-ms-session-token": ",".join(feed.session(one)["x-ms-session-token"] for one in asked)}
    if len(asked) == 1:
        told["x-ms-documentdb-partitionkeyrangeid"] = asked[0].id  # without it the client looks all ranges up again
    if begin + size < len(found):
        told["x-ms-continuation"] = str(begin + size)
    body = {"_rid": container.rid, "Documents": page, "_count": len(page)}
    return Answer(200, body, CHARGES["query"] * len(asked) + len(page) / 10, told)


def _has_index(container: Container, orders: Sequence[tuple[list[str], bool]]) -> bool:
    """An order by several fields needs an index of just these, in these directions or in the opposite ones."""
    if len(orders) < 2:
        return True
    wanted = [("/".join(path), down) for path, down in orders]
    opposite = [(path, not down) for path, down in wanted]
    known = container.definition.get("indexingPolicy", {}).get("compositeIndexes", [])
    has = [[(one["path"].strip("/"), one.get("order") == "descending") for one in index] for index in known]
    return wanted in has or opposite in has


def _parameters(body: Item) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in body.get("parameters") or ()}
