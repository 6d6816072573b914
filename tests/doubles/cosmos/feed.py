"""The change feed of one physical partition, by request headers."""

from __future__ import annotations

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from tests.doubles.cosmos.state import Container, Fault, Item, Partition


class Page(NamedTuple):
    items: list[Item]
    etag: str
    partition: Partition


def page(container: Container, headers: Mapping[str, str]) -> Page:
    """What follows; none at all is a 304. Transactions are never cut."""
    partition = container.partition(headers["x-ms-documentdb-partitionkeyrangeid"])
    container.expire(partition)
    match = headers.get("If-None-Match")
    if match == "*":
        return Page([], quoted(partition.lsn), partition)
    position = _position(match)
    if position > partition.lsn:  # another region had it already
        raise Fault(404, f"The read session is not available: {match} is beyond what this region has", 1002)
    entries = _every(partition, position) if headers["A-IM"] == "Full-Fidelity Feed" else _latest(partition, position)
    low, high = headers.get("x-ms-start-epk"), headers.get("x-ms-end-epk")
    if headers.get("x-ms-read-key-type") == "EffectivePartitionKeyRange" and low is not None and high is not None:
        entries = [entry for entry in entries if low <= entry[1] < high]
    if match is None and (since := headers.get("If-Modified-Since")):
        when = parsedate_to_datetime(since).timestamp()
        entries = [entry for entry in entries if entry[2].get("_ts", when) >= when]
    size = int(headers.get("x-ms-max-item-count") or 100)
    size = 100 if size < 1 else size
    taken = entries[:size]
    taken += [entry for entry in entries[size:] if taken and entry[0] == taken[-1][0]]
    last = taken[-1][0] if taken else partition.lsn
    return Page([entry[2] for entry in taken], quoted(last), partition)


def _latest(partition: Partition, position: int) -> list[tuple[int, str, Item]]:
    found: list[tuple[int, str, Item]] = []
    for at, item in reversed(partition.items.items()):
        if item["_lsn"] <= position:
            break
        found.append((item["_lsn"], at[0], item))
    return found[::-1]


def _every(partition: Partition, position: int) -> list[tuple[int, str, Item]]:
    return [(entry.lsn, entry.epk, entry.value) for entry in partition.log if entry.lsn > position]


def _position(match: str | None) -> int:
    if match is None:
        return 0
    if not match.strip('"').isdigit():
        raise Fault(400, f"the continuation {match} is none")
    return int(match.strip('"'))


def quoted(lsn: int) -> str:
    return f'"{lsn}"'


def session(partition: Partition) -> dict[str, str]:
    """Headers that tell where the partition stands."""
    return {
        "x-ms-session-token": f"{partition.id}:-1#{partition.lsn}",
        "lsn": str(partition.lsn),
        "x-ms-documentdb-partitionkeyrangeid": partition.id,
    }
