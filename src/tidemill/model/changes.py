"""Changes as they stand in a log, and how a log is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["put", "delete", "truncate"]
Start: TypeAlias = 'Literal["beginning", "now"] | float'
"""Where a feed worker begins: the two words, or seconds since the epoch."""


class Logged(NamedTuple):
    """One change as it stands in the log of a partition. (A named tuple, as `Delivery`.)

    `id` is unique in the feed and the same at each reading; `order` rises within the partition. `cursor` resumes
    *after* this change where the backend can do that, else it is None and only the page's cursor resumes.
    """

    id: str
    partition: str
    order: int
    cursor: str | None
    kind: Kind
    document: str
    key: str
    body: bytes | None
    before: bytes | None
    at: float


@dataclass(frozen=True, slots=True)
class Page:
    """Changes in order; `cursor` resumes after all of them; `more` when the next read need not wait."""

    changes: tuple[Logged, ...]
    cursor: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """The partition was split or merged: its children, each with the cursor to go on from."""

    children: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Expired:
    """The cursor lies before the trimmed part; `cursor` is the oldest that still reads."""

    cursor: str


@dataclass(frozen=True, slots=True)
class Lag:
    """What lies between a cursor and the end of its partition: changes, and seconds since the oldest of them."""

    items: int
    seconds: float
