"""The documents of one collection in a container.

A document is named by its id alone, an item by its id and its partition key. Where the id is the key, as in collections
without a `key=`, each call is one point operation; elsewhere the item is looked for by its id first, in all partitions,
and two processes that create one id under two keys at the same moment may both succeed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosResourceNotFoundError

from tidemill.adapters.azure.several import each
from tidemill.adapters.cosmos.containers import Container, Containers
from tidemill.adapters.cosmos.faults import status
from tidemill.adapters.cosmos.items import Item, partition_key, to_item, to_stored
from tidemill.adapters.cosmos.query import Parameters, continuation, sql
from tidemill.errors import BadOption
from tidemill.model import CollectionSpec, Delete, Expect, Gone, Mismatch, Put, Query, Rows, Stored, Write, Written

LOST = (404, 412)


class CosmosDocuments:
    """Implements `tidemill.ports.Documents`. `woken` is told of each write, for the feeds of this process."""

    def __init__(
        self, containers: Containers, container: Container, spec: CollectionSpec, woken: asyncio.Event
    ) -> None:
        self._containers = containers
        self._container = container
        self._spec = spec
        self._woken = woken

    async def get(self, ids: Sequence[str]) -> Sequence[Stored | None]:
        async with self._containers.told():
            found = await self._find(ids)
        return [self._stored(found[id]) if id in found else None for id in ids]

    async def write(self, writes: Sequence[Write]) -> Sequence[Written]:
        items = [to_item(w, self._container.paths) if isinstance(w, Put) else None for w in writes]
        results: dict[int, Written] = {}

        async def run(lane: Sequence[int]) -> None:
            for n in lane:
                results[n] = await self._write(writes[n], items[n])

        async with self._containers.told():
            await each(run, _lanes(writes))
        self._woken.set()
        return [results[n] for n in range(len(writes))]

    async def query(self, query: Query) -> Rows:
        text, parameters = sql(query, self._spec.name, self._spec.fields, "/".join(self._container.paths[:1]))
        async with self._containers.told():
            found = await self._ask(text, parameters, query.key)
        page = found[: query.limit]
        more = continuation(page[-1], query) if len(found) > query.limit else None
        return Rows(tuple(self._stored(item) for item in page), more)

    # --- inside ---------------------------------------------------------------------------------------------

    def _stored(self, item: Item) -> Stored:
        return to_stored(item, self._container.paths)

    async def _find(self, ids: Sequence[str]) -> Mapping[str, Item]:
        """The items with these ids. First where the id is the key, then everywhere."""
        found: dict[str, Item] = {}

        async def guess(id: str) -> None:
            if (item := await self._read(id, id)) is not None:
                found[id] = item

        if len(self._container.paths) == 1:
            await each(guess, list(dict.fromkeys(ids)))
        missing = [id for id in dict.fromkeys(ids) if id not in found]
        if missing:
            text = "SELECT * FROM c WHERE ARRAY_CONTAINS(@p0, c.id)"
            for item in await self._ask(text, [{"name": "@p0", "value": missing}]):
                if item["id"] not in found or item["_ts"] >= found[item["id"]]["_ts"]:
                    found[item["id"]] = item
        return found

    async def _read(self, id: str, key: Any) -> Item | None:
        try:
            item: Item = await self._container.proxy.read_item(id, key)
        except CosmosResourceNotFoundError:
            return None
        return item

    async def _ask(self, text: str, parameters: Parameters, key: str | None = None) -> list[Item]:
        where: dict[str, Any] = {"partition_key": key} if key is not None and len(self._container.paths) == 1 else {}
        found = self._container.proxy.query_items(text, parameters=parameters, **where)
        return [item async for item in found]

    async def _write(self, write: Write, item: dict[str, Any] | None) -> Written:
        if isinstance(write, Delete):
            return await self._delete(write)
        assert item is not None
        return await self._put(write, item)

    async def _put(self, put: Put, item: dict[str, Any]) -> Written:
        """Where the key is not the id, what stands under another key has to make way."""
        paths = self._container.paths
        current = None if put.key == put.id else (await self._find([put.id])).get(put.id)
        away = current is not None and partition_key(current, paths) != partition_key(item, paths)
        if away and current is not None:
            if put.expect is Expect.NOTHING or (isinstance(put.expect, str) and put.expect != current["_etag"]):
                return Mismatch(put.id, self._stored(current))
            written: Item = await self._container.proxy.upsert_item(item)
            await self._remove(current, None)
            return self._stored(written)
        try:
            return self._stored(await self._send(put, item))
        except Exception as error:
            if status(error) not in (*LOST, 409) or put.expect is Expect.ANYTHING:
                raise
        return Mismatch(put.id, await self._now(put.id, partition_key(item, paths)))

    async def _send(self, put: Put, item: dict[str, Any]) -> Item:
        proxy = self._container.proxy
        sent: Item
        if put.expect is Expect.NOTHING:
            sent = await proxy.create_item(item)
        elif put.expect is Expect.ANYTHING:
            sent = await proxy.upsert_item(item)
        else:
            sent = await proxy.replace_item(
                put.id, item, etag=_etag(put.expect), match_condition=MatchConditions.IfNotModified
            )
        return sent

    async def _delete(self, delete: Delete) -> Written:
        found = (await self._find([delete.id])).get(delete.id)
        etag = delete.expect if isinstance(delete.expect, str) else None
        if found is None:
            return Gone(delete.id) if etag is None else Mismatch(delete.id, None)
        if delete.expect is Expect.NOTHING or (etag is not None and etag != found["_etag"]):
            return Mismatch(delete.id, self._stored(found))
        try:
            await self._remove(found, etag)
        except Exception as error:
            if status(error) not in LOST or etag is None:
                raise
            return Mismatch(delete.id, await self._now(delete.id, partition_key(found, self._container.paths)))
        return Gone(delete.id)

    async def _remove(self, item: Item, etag: str | None) -> None:
        guard: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        try:
            await self._container.proxy.delete_item(item["id"], partition_key(item, self._container.paths), **guard)
        except CosmosResourceNotFoundError:
            if etag is not None:
                raise

    async def _now(self, id: str, key: Any) -> Stored | None:
        item = await self._read(id, key)
        return None if item is None else self._stored(item)


def _lanes(writes: Sequence[Write]) -> Sequence[Sequence[int]]:
    """What must be written one after the other, by place: the writes of one key, whose changes keep their order. All of
    them, if a document changes its key on the way."""
    keys = {(write.id, write.key) for write in writes}
    if len({id for id, _ in keys}) < len(keys) or any(key is None for _, key in keys):
        return [range(len(writes))]
    lanes: dict[str | None, list[int]] = {}
    for n, write in enumerate(writes):
        lanes.setdefault(write.key, []).append(n)
    return list(lanes.values())


def _etag(expect: Expect | str) -> str:
    """An etag that goes into a header."""
    if not isinstance(expect, str) or not expect.isascii() or not expect.isprintable():
        raise BadOption(f"{expect!r} is no etag")
    return expect
