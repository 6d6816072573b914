"""What handlers are given and handles return: documents and changes with the user's own type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Document(Generic[T_co]):
    """A document as read: its value, and the etag that names this version of it."""

    id: str
    key: str
    etag: str
    value: T_co


class Change(NamedTuple, Generic[T_co]):
    """A document was created or replaced: `value` is what it is now, `before` what it was (if declared).

    (A named tuple, because one is made for each change of a feed; see `Delivery`.)
    """

    id: str
    document: str
    key: str
    value: T_co
    before: T_co | None
    at: float


@dataclass(frozen=True, slots=True)
class Deletion(Generic[T_co]):
    """A document was deleted. `before` is what it was, if the collection is declared with `before=True`."""

    id: str
    document: str
    key: str
    before: T_co | None
    at: float


@dataclass(frozen=True, slots=True)
class Page(Generic[T_co]):
    """One page of a query; `continuation` asks for the next, None when there is none."""

    documents: tuple[Document[T_co], ...]
    continuation: str | None
