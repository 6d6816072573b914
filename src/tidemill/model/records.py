"""Records of the store, and their swaps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from tidemill.model.common import Value


@dataclass(frozen=True, slots=True)
class Record:
    """One small record of a store. `version` is never used twice for a key, even after a delete."""

    key: str
    version: str
    value: Value


@dataclass(frozen=True, slots=True)
class Swap:
    """Write `value` (None: delete) if the record still has `version` (None: if there is no such record)."""

    key: str
    version: str | None
    value: Value | None


@dataclass(frozen=True, slots=True)
class Gone:
    """The record or document was deleted by this call, or was not there to delete."""

    key: str


@dataclass(frozen=True, slots=True)
class Stale:
    """The version was not the expected one; nothing was written. `current` is what stands there now."""

    key: str
    current: Record | None


Swapped: TypeAlias = Record | Gone | Stale
