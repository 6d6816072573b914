"""Effects and acknowledgements as one value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from tidemill.model.documents import Mismatch, Stored, Write
from tidemill.model.messages import Message, Outcome
from tidemill.model.records import Gone, Record, Stale, Swap


@dataclass(frozen=True, slots=True)
class Finished:
    """A change whose effects stand in this commit: it holds only while the lease has this epoch and nonce."""

    lease: str
    epoch: int
    nonce: str
    change: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What takes effect together or not at all."""

    writes: tuple[Write, ...] = ()
    messages: tuple[Message, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    swaps: tuple[Swap, ...] = ()
    finished: tuple[Finished, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """All of it took effect; one result for each write, the id of each message (an earlier one's if a duplicate).

    `repeated` when a `finished` row was there already: nothing was applied a second time.
    """

    written: tuple[Stored | Gone, ...] = ()
    sent: tuple[str, ...] = ()
    swapped: tuple[Record | Gone, ...] = ()
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Conflicted:
    """A write or a swap met another version; nothing took effect."""

    at: Mismatch | Stale


@dataclass(frozen=True, slots=True)
class Fenced:
    """A claim or a lease was no longer ours; nothing took effect."""


CommitResult: TypeAlias = Committed | Conflicted | Fenced


@dataclass(frozen=True, slots=True)
class Statement:
    """A part of a commit as SQL for a connection of the user's own, with `$1`, `$2`, … (SQLite: `?1`, `?2` or `?`).

    `rows` is what it must change or return, None: whatever it does. Another count: roll back, the claim is lost
    (`ClaimLost`) or a document was changed by somebody else (`Conflict`).
    """

    sql: str
    args: tuple[Any, ...]
    rows: int | None = 1

    def pyformat(self) -> tuple[str, Mapping[str, Any]]:
        """With `%(p1)s`, as psycopg wants it, and the values by name."""
        sql = _PLACE.sub(r"%(p\1)s", self.sql.replace("%", "%%"))
        return sql, {f"p{n}": value for n, value in enumerate(self.args, 1)}

    def named(self) -> tuple[str, Mapping[str, Any]]:
        """With `(:p1)`, as SQLAlchemy's `text` wants it, and the values by name."""
        return _PLACE.sub(r"(:p\1)", self.sql), {f"p{n}": value for n, value in enumerate(self.args, 1)}


_PLACE = re.compile(r"\$(\d+)")
