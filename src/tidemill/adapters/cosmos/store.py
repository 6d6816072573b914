"""Small records under compare-and-swap, as items of one container with the partition key `/id`.

`{"id": "tidemill|<key>", "k": <key>, "v": <value>}`; the version is the item's etag, which no item has twice. An id may
have no / \\ ? #: these are written as %2F and so on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from azure.core import MatchConditions
from azure.cosmos.aio import ContainerProxy
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
        found = await read(self._container.proxy, id_of(key))
        return None if found is None else _record(found)

    async def _swap(self, swap: Swap) -> Swapped:
        id = id_of(swap.key)
        item = None if swap.value is None else {"id": id, "k": swap.key, "v": swap.value}
        done, found = await attempt(self._container.proxy, id, item, swap.version)
        record = None if found is None else _record(found)
        if not done:
            return Stale(swap.key, record)
        return Gone(swap.key) if record is None else record


async def read(proxy: ContainerProxy, id: str) -> Item | None:
    """The item, None if there is none."""
    try:
        return await proxy.read_item(id, id)
    except CosmosResourceNotFoundError:
        return None


async def attempt(
    proxy: ContainerProxy, id: str, item: dict[str, Any] | None, version: str | None
) -> tuple[bool, Item | None]:
    """Write the item (None: delete it) if it still has this etag (None: if there is none). Whether that was done, and
    what stands there now."""
    if item is None and version is None:
        current = await read(proxy, id)
        return current is None, current
    try:
        return True, await _send(proxy, id, item, version)
    except Exception as error:
        if status(error) not in (404, 409, 412) or (status(error) == 404 and version is None):
            raise
    return False, await read(proxy, id)


async def _send(proxy: ContainerProxy, id: str, item: dict[str, Any] | None, version: str | None) -> Item | None:
    if item is None:
        await proxy.delete_item(id, id, etag=version, match_condition=MatchConditions.IfNotModified)
        return None
    if version is None:
        return await proxy.create_item(item)
    return await proxy.replace_item(id, item, etag=version, match_condition=MatchConditions.IfNotModified)


def _record(item: Item) -> Record:
    return Record(item["k"], item["_etag"], item["v"])
