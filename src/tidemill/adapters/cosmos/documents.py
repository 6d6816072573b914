"""The documents of one collection in a container.

A document is named by its id alone, an item by its id and its partition key. Where the id is the key, as in collections
without a `key=`, each call is one point operation; elsewhere the item is looked for by its id first, in all partitions,
and two processes that create one id under two keys at the same moment may both succeed.

The client sends a write again if the connection ends without an answer (`wire`). Then a refusal proves nothing: what
stands there may be our own write. So a write leaves a word of its own in its item (`items.signed`), and if an answer
was lost, an item with that word is the write's success. Without that word it stays open whether the write took effect
and was overwritten since: `Unavailable`, as for every unknown outcome. Where no answer was lost, a refusal is a
`Mismatch`, also if what stands there has an equal body: that was somebody else.
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
from tidemill.adapters.cosmos.items import (
    Item,
    conditions,
    partition_key,
    same_write,
    signed,
    to_item,
    to_stored,
    unfit_id,
)
from tidemill.adapters.cosmos.query import Parameters, continuation, sql
from tidemill.adapters.cosmos.wire import Sent, watched
from tidemill.errors import BadOption, Unavailable
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
            found = await self.find(dict.fromkeys(ids))
        return [self.stored(found[id]) if id in found else None for id in ids]

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
        key = conditions(query.key, self._container.paths) if query.key is not None else []
        text, parameters = sql(query, self._spec.name, self._spec.fields, key)
        async with self._containers.told():
            found = await self._ask(text, parameters, query.key if [len(values) for _, values in key] == [1] else None)
        page = found[: query.limit]
        more = continuation(page[-1], query) if len(found) > query.limit else None
        return Rows(tuple(self.stored(item) for item in page), more)

    # --- for commits, too -----------------------------------------------------------------------------------

    @property
    def container(self) -> Container:
        return self._container

    def stored(self, item: Item) -> Stored:
        return to_stored(item, self._container.paths)

    def wake(self) -> None:
        """Something was written."""
        self._woken.set()

    async def find(self, ids: Mapping[str, str | None]) -> Mapping[str, Item]:
        """The items with these ids. First under the key that is guessed, the id itself unless said, then everywhere."""
        found: dict[str, Item] = {}
        asked = {id: key or id for id, key in ids.items() if not unfit_id(id)}

        async def guess(id: str) -> None:
            if (item := await self.read(id, asked[id])) is not None:
                found[id] = item

        if len(self._container.paths) == 1:
            await each(guess, list(asked))
        missing = [id for id in asked if id not in found]
        if missing:
            text = "SELECT * FROM c WHERE ARRAY_CONTAINS(@p0, c.id)"
            for item in await self._ask(text, [{"name": "@p0", "value": missing}]):
                if item["id"] not in found or item["_ts"] >= found[item["id"]]["_ts"]:
                    found[item["id"]] = item
        return found

    async def read(self, id: str, key: Any) -> Item | None:
        """The item at one place."""
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
        current = None if put.key == put.id else (await self.find({put.id: put.key})).get(put.id)
        away = current is not None and partition_key(current, paths) != partition_key(item, paths)
        if away and current is not None:
            if put.expect is Expect.NOTHING or (isinstance(put.expect, str) and put.expect != current["_etag"]):
                return Mismatch(put.id, self.stored(current))
            written: Item = await self._container.proxy.upsert_item(item)
            await self._remove(put.id, partition_key(current, paths), None)
            return self.stored(written)
        item = signed(item)
        with watched() as sent:
            try:
                return self.stored(await self._send(put, item))
            except Exception as error:
                if status(error) not in (*LOST, 409) or put.expect is Expect.ANYTHING:
                    raise
        now = await self.read(put.id, partition_key(item, paths))
        if now is not None and sent.lost and same_write(item, now):
            return self.stored(now)
        return self._refused(put.id, now, sent)

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
        """First where it should be, for the region that takes writes judges that; what is read may be older."""
        if delete.expect is Expect.NOTHING:
            found = (await self.find({delete.id: delete.key})).get(delete.id)
            return Gone(delete.id) if found is None else Mismatch(delete.id, self.stored(found))
        if unfit_id(delete.id):
            return Gone(delete.id) if delete.expect is Expect.ANYTHING else Mismatch(delete.id, None)
        etag = _etag(delete.expect) if isinstance(delete.expect, str) else None
        guess: Any = delete.key or delete.id
        with watched() as sent:
            if len(self._container.paths) == 1 and await self._remove(delete.id, guess, etag):
                return Gone(delete.id)
            found = (await self.find({delete.id: delete.key})).get(delete.id)
            key = partition_key(found, self._container.paths) if found else guess
            if found and key != guess and await self._remove(delete.id, key, etag):
                return Gone(delete.id)
        return Gone(delete.id) if etag is None else self._refused(delete.id, found, sent)

    async def _remove(self, id: str, key: Any, etag: str | None) -> bool:
        """Whether it was there, in this version, and is no more."""
        guard: dict[str, Any] = {"etag": etag, "match_condition": MatchConditions.IfNotModified} if etag else {}
        try:
            await self._container.proxy.delete_item(id, key, **guard)
        except Exception as error:
            if status(error) not in LOST:
                raise
            return False
        return True

    def _refused(self, id: str, now: Item | None, sent: Sent) -> Mismatch:
        if sent.lost:
            raise Unavailable(f"{self._spec.name} {id}: an answer was lost; whether it was written is not known")
        return Mismatch(id, None if now is None else self.stored(now))


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
