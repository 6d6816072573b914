"""Documents, their writes, and questions for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal, TypeAlias

from tidemill.model.records import Gone


class Expect(Enum):
    """What a write expects to find when no etag is given."""

    ANYTHING = "anything"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as stored; `etag` names this version of it."""

    id: str
    key: str
    etag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Put:
    """Create or replace one document. `expect` is an etag, or what to find."""

    collection: str
    id: str
    key: str
    body: bytes
    expect: Expect | str = Expect.ANYTHING


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one document. A document that is not there is no error unless an etag is expected."""

    collection: str
    id: str
    key: str | None = None
    expect: Expect | str = Expect.ANYTHING


Write: TypeAlias = Put | Delete


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The document was not as expected; nothing was written. `current` is what stands there now."""

    id: str
    current: Stored | None


Written: TypeAlias = Stored | Gone | Mismatch


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one declared field: `=`, `<`, `<=`, `>`, `>=` against a JSON scalar."""

    field: str
    op: Literal["=", "<", "<=", ">", ">="]
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Query:
    """Documents with all `filters`, by `order` (a declared field; else by id), from `continuation` on."""

    key: str | None = None
    filters: tuple[Filter, ...] = ()
    order: str | None = None
    descending: bool = False
    limit: int = 100
    continuation: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """One page of a query; `continuation` asks for the next, None when there is none."""

    documents: tuple[Stored, ...]
    continuation: str | None
