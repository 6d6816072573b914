"""Dead letters of feeds, as items of the store's container: bodies that are kept until somebody decides."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from azure.cosmos.exceptions import CosmosResourceExistsError, CosmosResourceNotFoundError

from tidemill.adapters.azure.several import each
from tidemill.adapters.cosmos.containers import Container, Containers
from tidemill.adapters.cosmos.store import id_of
from tidemill.errors import ConfigurationError
from tidemill.model import DeadLetter

Item = Mapping[str, Any]


class CosmosDeadLetters:
    """Implements `tidemill.ports.DeadLetters`; there are no queues here, so nothing can be put back into one."""

    def __init__(self, containers: Containers, container: Container) -> None:
        self._containers = containers
        self._container = container

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        once = {_id(letter.source, letter.id): letter for letter in reversed(letters)}

        async def create(letter: DeadLetter) -> None:
            try:
                await self._container.proxy.create_item(_item(letter))
            except CosmosResourceExistsError:
                pass  # written once

        async with self._containers.told():
            await each(create, list(once.values()))

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        text = f"SELECT TOP {limit} * FROM c WHERE c.source = @p0 AND c.position > @p1"
        parameters: list[dict[str, object]] = [{"name": "@p0", "value": source}, {"name": "@p1", "value": after}]
        if key is not None:
            text += " AND c.of = @p2"
            parameters.append({"name": "@p2", "value": key})
        async with self._containers.told():
            return [_letter(item) for item in await self._ask(f"{text} ORDER BY c.position ASC", parameters)]

    async def count(self, prefix: str) -> Mapping[str, int]:
        text = "SELECT c.source FROM c WHERE IS_DEFINED(c.source) AND STARTSWITH(c.source, @p0)"
        async with self._containers.told():
            found = await self._ask(text, [{"name": "@p0", "value": prefix}])
        return dict(Counter(item["source"] for item in found))

    async def release(self, source: str, ids: Sequence[str]) -> int:
        raise ConfigurationError(f"{source}: Cosmos DB has no queues to put anything back into")

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        async def delete(id: str) -> int:
            try:
                await self._container.proxy.delete_item(_id(source, id), _id(source, id))
            except CosmosResourceNotFoundError:
                return 0
            return 1

        async with self._containers.told():
            return sum(await each(delete, list(dict.fromkeys(ids))))

    async def _ask(self, text: str, parameters: list[dict[str, object]]) -> list[Item]:
        return [item async for item in self._container.proxy.query_items(text, parameters=parameters)]


def _id(source: str, id: str) -> str:
    return id_of(f"letter|{source}|{id}")


def _item(letter: DeadLetter) -> dict[str, Any]:
    return {
        "id": _id(letter.source, letter.id),
        "source": letter.source,
        "letter": letter.id,
        "of": letter.key,
        "position": letter.order,
        "body": None if letter.body is None else base64.b64encode(letter.body).decode(),
        "attempts": letter.attempts,
        "reason": letter.reason,
        "error": letter.error,
        "at": letter.at,
        "headers": dict(letter.headers),
        "meta": letter.meta,
    }


def _letter(item: Item) -> DeadLetter:
    body = item["body"]
    return DeadLetter(
        item["source"],
        item["letter"],
        item["of"],
        item["position"],
        None if body is None else base64.b64decode(body),
        item["attempts"],
        item["reason"],
        item["error"],
        item["at"],
        item["headers"],
        item["meta"],
    )
