"""The store: small records under compare-and-swap.

Records of members live in a file of their own, so that their renewals never wait behind the writes of data.
Versions are drawn from one rising number for each file, so none comes twice for a key.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from functools import partial
from sqlite3 import Connection

from tidemill.adapters.sqlite.lane import Lane
from tidemill.adapters.sqlite.session import Session
from tidemill.model import Gone, Record, Stale, Swap, Swapped, Value

MEMBERS = "member/"
"""The prefix of the keys that are kept in the members' file."""


class Store:
    """`ports.Store` on two files."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        return await self._session.reads.submit(lambda connection: [find(connection, key) for key in keys])

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        schemas = ["members"] if prefix.startswith(MEMBERS) else ["main"]
        if MEMBERS.startswith(prefix) and prefix != MEMBERS:
            schemas.append("members")

        def run(connection: Connection) -> list[Record]:
            found = [record for schema in schemas for record in page(connection, schema, prefix, after, limit)]
            return sorted(found, key=lambda record: record.key)[:limit]

        return await self._session.reads.submit(run)

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        return await asyncio.gather(*(self._lane(swap).submit(partial(swap_one, swap=swap)) for swap in swaps))

    def _lane(self, swap: Swap) -> Lane:
        return self._session.members if swap.key.startswith(MEMBERS) else self._session.writer


def find(connection: Connection, key: str) -> Record | None:
    """One record, on a reading connection."""
    schema = "members" if key.startswith(MEMBERS) else "main"
    sql = f"SELECT version, value FROM {schema}.tidemill_record WHERE key = ?"
    row = connection.execute(sql, (key,)).fetchone()
    return record(key, *row) if row else None


def page(connection: Connection, schema: str, prefix: str, after: str, limit: int) -> list[Record]:
    """Records by key. Text is compared by its bytes, and no text has a byte 0xFF: the end of the prefix."""
    rows = connection.execute(
        f"SELECT key, version, value FROM {schema}.tidemill_record"
        " WHERE key > ? AND key >= ? AND key < CAST(? AS TEXT) ORDER BY key LIMIT ?",
        (after, prefix, prefix.encode() + b"\xff", limit),
    )
    return [record(*row) for row in rows]


def swap_one(connection: Connection, swap: Swap) -> Swapped:
    """Compare and swap inside the writer's transaction."""
    row = connection.execute("SELECT version, value FROM tidemill_record WHERE key = ?", (swap.key,)).fetchone()
    found = record(swap.key, *row) if row else None
    if (found.version if found else None) != swap.version:
        return Stale(swap.key, found)
    if swap.value is None:
        connection.execute("DELETE FROM tidemill_record WHERE key = ?", (swap.key,))
        return Gone(swap.key)
    return write(connection, swap.key, swap.value)


def write(connection: Connection, key: str, value: Value) -> Record:
    """Create or replace a record under a new version."""
    version = connection.execute(
        "UPDATE tidemill_meta SET value = value + 1 WHERE name = 'version' RETURNING value"
    ).fetchone()[0]
    text = dumps(value)
    connection.execute("INSERT OR REPLACE INTO tidemill_record VALUES (?, ?, ?)", (key, version, text))
    return record(key, version, text)


def record(key: str, version: int, text: str) -> Record:
    return Record(key, str(version), json.loads(text))


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
