"""Items of a change feed as changes. Pure.

`order` is the LSN, shifted by 16 bits, plus 16 bits of a hash of the id: the items of one transaction have one LSN, and
which of them are still in the feed may differ from one reading to the next, so their number would not be the same
each time. It stays below 2^53, as numbers in JSON must, for 10^11 transactions of a partition.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Literal

from tidemill.adapters.cosmos.items import body_of, key_of
from tidemill.adapters.cosmos.reader import EVERY, Item
from tidemill.model import Logged

SLOTS = 1 << 16


def logged(items: Sequence[Item], partition: str, mode: str, paths: Sequence[str]) -> list[Logged]:
    """The changes of a page in their order."""
    made = [_every(item, partition, paths) if mode == EVERY else _latest(item, partition, paths) for item in items]
    made.sort(key=lambda change: change.order)
    for n in range(1, len(made)):
        if made[n].order <= made[n - 1].order:  # two ids with one hash in one transaction
            made[n] = made[n]._replace(order=made[n - 1].order + 1)
    return made


def _latest(item: Item, partition: str, paths: Sequence[str]) -> Logged:
    lsn = int(item["_lsn"])
    at = float(item["_ts"])
    return Logged(
        item["_etag"].strip('"'), partition, order(lsn, item["id"]), None, "put", item["id"], key_of(item, paths),
        body_of(item), None, at,
    )  # fmt: skip


def _every(item: Item, partition: str, paths: Sequence[str]) -> Logged:
    """One operation. A delete has neither document nor, unless the container keeps it, the one before; its id and key
    are in its metadata."""
    meta: Mapping[str, Any] = item["metadata"]
    current: Mapping[str, Any] = item.get("current") or {}
    before: Mapping[str, Any] = item.get("previous") or {}
    known = current or before
    id = str(known.get("id") or meta["id"])
    key = key_of(known, paths) if known else _key_of_metadata(meta)
    kind: Literal["put", "delete"] = "delete" if meta["operationType"] == "delete" else "put"
    return Logged(
        f"{meta['lsn']}-{id}", partition, order(int(meta["lsn"]), id), None, kind, id, key,
        body_of(current) if current and kind == "put" else None, body_of(before) if before else None, _seconds(meta),
    )  # fmt: skip


def order(lsn: int, id: str) -> int:
    """Where a change stands in its partition."""
    return lsn * SLOTS + int.from_bytes(blake2b(id.encode(), digest_size=2).digest(), "big")


def _key_of_metadata(meta: Mapping[str, Any]) -> str:
    values = list((meta.get("partitionKey") or {}).values())
    if len(values) == 1 and isinstance(values[0], str):
        return values[0]
    return json.dumps(values[0] if len(values) == 1 else values, ensure_ascii=False)


def _seconds(meta: Mapping[str, Any]) -> float:
    """`crts` is seconds since the epoch; some versions of the wire tell an ISO time."""
    crts = meta.get("crts", 0)
    return datetime.fromisoformat(crts).timestamp() if isinstance(crts, str) else float(crts)
