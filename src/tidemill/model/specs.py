"""Declarations as the adapters see them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A collection of ours: documents and their feed. `fields` are indexed and may be filtered and ordered by;
    `workers` are the feed workers of the app that get its changes."""

    name: str
    partitions: int = 16
    fields: tuple[str, ...] = ()
    before: bool = False
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table that is there already and whose changes are captured by triggers: its columns for id and key;
    `workers` as in a collection."""

    name: str
    table: str
    id: str
    key: str
    partitions: int = 16
    before: bool = False
    workers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue. `dedup_window` in seconds after the message was settled; about so many messages (`limit`) may be in it;
    `key` is the field whose equal values are to be delivered in order."""

    name: str
    dedup_window: float = 600.0
    limit: int | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """The log of a queue whose messages are ordered by their key: what is sent to it is read like a feed."""

    name: str
    queue: str
    partitions: int = 16
    before: bool = False

    @classmethod
    def of(cls, queue: str) -> StreamSpec:
        """That of a queue; no collection or table can have its name."""
        return cls(f"queue/{queue}", queue)


Source: TypeAlias = CollectionSpec | TableSpec | StreamSpec


@dataclass(frozen=True, slots=True)
class Limits:
    """What a backend takes at most: items in a call, bytes in a body, seconds of delay."""

    batch: int = 1000
    body: int = 1 << 28
    delay: float = float("inf")
