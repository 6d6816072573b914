"""A commit as SQL for a connection of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL for a user's own connection; `rows` is what it must change (or return), None: whatever it changes.

    Another count: roll back, the claim is lost (`ClaimLost`) or a document was changed by somebody else.
    """

    sql: str
    args: tuple[Any, ...]
    rows: int | None = 1
