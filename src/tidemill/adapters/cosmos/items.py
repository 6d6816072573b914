"""Documents as items of a container, both ways. Pure.

An item is the document's JSON object with `id` and the partition key in it. Containers that we create have the key in a
field of its own, `_key`, beside the body; in containers of others the key is the field that their partition key names.
A body that says no `id`, or another than the document's, gets it back as it was (`_id`). Each write leaves a word of
its own in the item (`_tidemill`), by which a writer whose answer was lost knows its write again.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from azure.cosmos.partition_key import NonePartitionKeyValue

from tidemill.adapters.cosmos.containers import OWN_KEY
from tidemill.errors import NoJson, TooLarge, Unfit
from tidemill.model import Put, Stored

SYSTEM = ("_rid", "_self", "_etag", "_attachments", "_ts", "_lsn", "_metadata")
"""Fields that the service adds to each item."""

KEY = OWN_KEY.strip("/")
ID = "_id"
WRITE = "_tidemill"

LONGEST_ID = 1_023
"""Bytes of an id."""
LONGEST_KEY = 2_048
"""Bytes of a partition key."""
BODY = 2_000_000
"""Of the 2 MB that an item may have, what is left for a body beside the fields that the service adds."""

Item = Mapping[str, Any]

_NOTHING: Any = object()
"""In place of a value that is not there; None is one."""


def to_item(put: Put, paths: Sequence[str]) -> dict[str, Any]:
    """The item of a document. Raises `Unfit` where its body cannot be one, or disagrees about the key, and where its id
    or key is none for Cosmos DB; `TooLarge`."""
    if why := unfit_id(put.id):
        raise Unfit(f"document {_short(put.id)}: Cosmos DB takes no id that {why}; choose another id")
    if len(put.key.encode()) > LONGEST_KEY:
        raise Unfit(f"document {put.id!r}: its key has more than {LONGEST_KEY:,} bytes; choose a shorter key")
    if len(put.body) > BODY:
        raise TooLarge(f"document {put.id!r}: {len(put.body):,} bytes: Cosmos DB takes {BODY:,} of a document's body")
    item = _object(put)
    for name in (*SYSTEM, ID, KEY, WRITE):
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


def signed(item: dict[str, Any]) -> dict[str, Any]:
    """The item with the word of one write. Writing it twice is one write."""
    return item | {WRITE: secrets.token_urlsafe(9)}


def same_write(sent: Item, found: Item | None) -> bool:
    """Whether what is found was written by this very write."""
    return found is not None and found.get(WRITE) == sent[WRITE]


def unfit_id(id: str) -> str:
    """Why an id can be none, as the end of a sentence; empty if it can."""
    if not id:
        return "is empty"
    if id in (".", ".."):
        return "is . or .., which mean other places in a URL"
    if found := next(
        (letter for letter in id if letter in "/\\?#" or (not letter.isprintable() and letter != " ")), ""
    ):
        return f"contains {found!r}"
    if id.endswith(" "):
        return "ends with a blank"
    if len(id.encode()) > LONGEST_ID:
        return f"has more than {LONGEST_ID:,} bytes"
    return ""


def to_stored(item: Item, paths: Sequence[str]) -> Stored:
    """The document of an item."""
    return Stored(item["id"], key_of(item, paths), item["_etag"], body_of(item))


def body_of(item: Item) -> bytes:
    """The body of an item, without what the service and we have added."""
    body = {name: value for name, value in item.items() if name not in (*SYSTEM, ID, KEY, WRITE)}
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
    return [None if (found := _value(item, path)) is _NOTHING else found for path in paths]


def partition_key(item: Item, paths: Sequence[str]) -> Any:
    """The same as the client wants it: a list only where the key is hierarchical, and a word of its own for nothing."""
    values = [_value(item, path) for path in paths]
    if len(values) == 1:
        return NonePartitionKeyValue if values[0] is _NOTHING else values[0]
    return [{} if value is _NOTHING else value for value in values]


def conditions(key: str, paths: Sequence[str]) -> list[tuple[str, list[Any]]]:
    """What an item with this key has, by path: one of these values. A text may stand for a value that is none (`7`)."""
    if tuple(paths) == (KEY,):
        return [(KEY, [key])]
    try:
        said = json.loads(key)
    except ValueError:
        said = key
    if len(paths) > 1:
        values = said if isinstance(said, list) and len(said) == len(paths) else [key]
        return [(path, [value]) for path, value in zip(paths, values, strict=False)]
    return [(paths[0], [key] if isinstance(said, str | list | dict) else [key, said])]


def _value(item: Item, path: str) -> Any:
    found: Any = item
    for name in path.split("/"):
        found = found.get(name.strip('"'), _NOTHING) if isinstance(found, Mapping) else _NOTHING
    return found


def _short(id: str) -> str:
    return repr(id) if len(id) <= 60 else f"{id[:60]!r}…"


def _object(put: Put) -> dict[str, Any]:
    try:
        found = json.loads(put.body)
    except ValueError as error:
        raise NoJson(f"document {put.id!r}: {error}") from None
    if not isinstance(found, dict):
        raise Unfit(f"document {put.id!r}: in Cosmos DB a document is a JSON object, not {type(found).__name__}")
    return found
