"""The physical partitions of a container, and what a split or a merge makes of a lease.

A partition of a feed is named as .NET's processor names its leases: by the id of a physical partition where it is one
whole, else by its bounds, `<min>-<max>`. Pure: values in, values out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from tidemill.adapters.cosmos.cursor import Cursor

FIRST, LAST = "", "FF"


class Range(NamedTuple):
    """A physical partition: its id, its bounds, `low` included and `high` not, and the partitions it comes from."""

    id: str
    low: str
    high: str
    parents: tuple[str, ...] = ()


def ranges(found: Iterable[Mapping[str, Any]]) -> tuple[Range, ...]:
    """As the service tells them, by their bounds; those that were split already are not among them."""
    parents = {parent for one in found for parent in one.get("parents") or ()}
    return tuple(
        sorted(
            (
                Range(one["id"], one["minInclusive"], one["maxExclusive"], tuple(one.get("parents") or ()))
                for one in found
                if one["id"] not in parents
            ),
            key=lambda one: one.low,
        )
    )


def overlapping(of: Sequence[Range], low: str, high: str) -> tuple[Range, ...]:
    """Those that share something with these bounds."""
    return tuple(one for one in of if one.low < high and low < one.high)


def name_of(of: Sequence[Range], low: str, high: str) -> str:
    """What a partition with these bounds is called."""
    return next((one.id for one in of if (one.low, one.high) == (low, high)), f"{low}-{high}")


def whole(name: str) -> bool:
    """Whether a partition is named after a physical one; bounds have a dash, ids are numbers."""
    return "-" not in name


def moved(of: Sequence[Range], name: str, cursor: Cursor) -> bool:
    """Whether a partition must go on as others: its physical one is gone, or its bounds lie in several now.

    Bounds that lie within one partition stay as they are, whatever becomes of that one: they are read by a filter.
    """
    if whole(name):
        return all(one.id != name for one in of)
    return len(overlapping(of, cursor.low, cursor.high)) != 1


def children(of: Sequence[Range], name: str, cursor: Cursor) -> Mapping[str, str]:
    """The partitions that a moved one consists of now, each with the cursor to go on from.

    After a split these are its halves, after a merge the old range under the name of its bounds: the bigger partition
    is read through a filter, for its parents stand at different places.
    """
    found: dict[str, str] = {}
    for one in overlapping(of, cursor.low, cursor.high):
        part = cursor.within(one.low, one.high)
        child = name_of(of, part.low, part.high) if whole(name) else f"{part.low}-{part.high}"
        found[child] = str(part)
    return found
