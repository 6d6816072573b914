"""Documents as items of a container, both ways. Pure.

An item is the document's JSON object with `id` and the partition key in it. Containers that we create have the key in a
field of its own, `_key`, beside the body; in containers of others the key is the field that their partition key names.
A body that says no `id`, or another than the document's, gets it back as it was (`_id`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tidemill.adapters.cosmos.containers import OWN_KEY
from tidemill.errors import NoJson, Unfit
from tidemill.model import Put, Stored

SYSTEM = ("_rid", "_self", "_etag", "_attachments", "_ts", "_lsn", "_metadata")
"""Fields that the service adds to each item."""

KEY = OWN_KEY.strip("/")
ID = "_id"

Item = Mapping[str, Any]


def to_item(put: Put, paths: Sequence[str]) -> dict[str, Any]:
    """The item of a document. Raises `Unfit` where its body cannot be one, or disagrees about the key."""
    item = _object(put)
    for name in (*SYSTEM, ID, KEY):
        if name in item:
            raise Unfit(f"document {put.id!r}: the field {name!r} belongs to Cosmos DB or to Tidemill; rename it")
    if item.get("id", ...) != put.id:
        item[ID] = {"id": item["id"]} if "id" in item else {}
        item["id"] = put.id
    if tuple(paths) == (KEY,):
        item[KEY] = put.key
    elif (said := key_of(item, paths)) != put.key:
        path = " and ".join(f"/{name}" for name in paths)
        raise Unfit(
            f"document {put.id!r}: the container's partition key {path} is {said!r}, the collection's key {put.key!r};"
            " declare the collection with that field as its key"
        )
    return item


def to_stored(item: Item, paths: Sequence[str]) -> Stored:
    """The document of an item."""
    return Stored(item["id"], key_of(item, paths), item["_etag"], body_of(item))


def body_of(item: Item) -> bytes:
    """The body of an item, without what the service and we have added."""
    body = {name: value for name, value in item.items() if name not in (*SYSTEM, ID, KEY)}
    if ID in item:
        body.pop("id", None)
        body.update(item[ID])
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def key_of(item: Item, paths: Sequence[str]) -> str:
    """The key of an item as text: a text as it is, other values and hierarchical keys as JSON."""
    values = partition_of(item, paths)
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False)


def partition_of(item: Item, paths: Sequence[str]) -> list[Any]:
    """The values of the partition key, None where there is none."""
    return [_value(item, path) for path in paths]


def partition_key(item: Item, paths: Sequence[str]) -> Any:
    """The same as the client wants it: a list only where the key is hierarchical."""
    values = partition_of(item, paths)
    return values if len(values) > 1 else values[0]


def _value(item: Item, path: str) -> Any:
    found: Any = item
    for name in path.split("/"):
        found = found.get(name.strip('"')) if isinstance(found, Mapping) else None
    return found


def _object(put: Put) -> dict[str, Any]:
    try:
        found = json.loads(put.body)
    except ValueError as error:
        raise NoJson(f"document {put.id!r}: {error}") from None
    if not isinstance(found, dict):
        raise Unfit(f"document {put.id!r}: in Cosmos DB a document is a JSON object, not {type(found).__name__}")
    return found
