"""Small records under compare-and-swap, as items of one container with the partition key `/id`.

`{"id": "tidemill|<key>", "k": <key>, "v": <value>}`; the version is the item's etag, which no item has twice. An id may
have no / \\ ? #: these are written as %2F and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azure.core import MatchConditions
from azure.cosmos.exceptions import CosmosResourceNotFoundError

from tidemill.adapters.azure.several import each
from tidemill.adapters.cosmos.containers import Container, Containers
from tidemill.adapters.cosmos.faults import status
from tidemill.model import Gone, Record, Stale, Swap, Swapped

PREFIX = "tidemill|"

Item = Mapping[str, Any]


def id_of(key: str) -> str:
    """The id of a record's item."""
    for letter in "%/\\?#":
        key = key.replace(letter, f"%{ord(letter):02X}")
    return PREFIX + key


class CosmosStore:
    """Implements `tidemill.ports.Store`."""

    def __init__(self, containers: Containers, container: Container) -> None:
        self._containers = containers
        self._container = container

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        async with self._containers.told():
            return await each(self._read, keys)

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        text = (
            f"SELECT TOP {limit} * FROM c WHERE IS_DEFINED(c.k) AND STARTSWITH(c.k, @p0) AND c.k > @p1 ORDER BY c.k ASC"
        )
        parameters: list[dict[str, object]] = [{"name": "@p0", "value": prefix}, {"name": "@p1", "value": after}]
        async with self._containers.told():
            found = self._container.proxy.query_items(text, parameters=parameters)
            return [_record(item) async for item in found]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        async with self._containers.told():
            return await each(self._swap, swaps)

    async def _read(self, key: str) -> Record | None:
        id = id_of(key)
        try:
            return _record(await self._container.proxy.read_item(id, id))
        except CosmosResourceNotFoundError:
            return None

    async def _swap(self, swap: Swap) -> Swapped:
        if swap.value is None and swap.version is None:
            current = await self._read(swap.key)
            return Gone(swap.key) if current is None else Stale(swap.key, current)
        try:
            return await self._send(swap)
        except Exception as error:
            if status(error) not in (404, 409, 412) or (status(error) == 404 and swap.version is None):
                raise
        return Stale(swap.key, await self._read(swap.key))

    async def _send(self, swap: Swap) -> Swapped:
        proxy, id = self._container.proxy, id_of(swap.key)
        if swap.value is None:
            await proxy.delete_item(id, id, etag=swap.version, match_condition=MatchConditions.IfNotModified)
            return Gone(swap.key)
        item: dict[str, Any] = {"id": id, "k": swap.key, "v": swap.value}
        if swap.version is None:
            return _record(await proxy.create_item(item))
        return _record(
            await proxy.replace_item(id, item, etag=swap.version, match_condition=MatchConditions.IfNotModified)
        )


def _record(item: Item) -> Record:
    return Record(item["k"], item["_etag"], item["v"])
