"""The rows that a captured table already has.

They come into the log when the first worker starts at the beginning, as puts of a kind of their own, in chunks by
key, each in one transaction with the position: it goes on after a crash, in any process that reads the feed. Rows
beyond the highest key of that moment are left to the triggers. A row that changes meanwhile needs no care: its old
state, if it is copied at all, is committed before the change; its new state may come twice.

`tidemill_source.backfill` is NULL (nobody asked), 'done', or the key of the last row copied as SQL literals made by
`quote`, '' before the first; `backfill_until` is the key of the last row to copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from sqlite3 import Connection

from tidemill.adapters.sqlite.capture import LOG, body_of, columns_of, entry
from tidemill.adapters.sqlite.connection import quoted
from tidemill.model import TableSpec

CHUNK = 1000
"""Rows copied in one transaction."""


def want(connection: Connection, source: int, spec: TableSpec) -> None:
    """Have the rows copied, unless that was asked before."""
    keys = table_key(connection, spec, columns_of(connection, spec))
    backwards = ", ".join(f"{key} DESC" for key in keys)
    last = f"SELECT {literals(keys)} FROM {quoted(spec.table)} t ORDER BY {backwards} LIMIT 1"
    connection.execute(
        "UPDATE tidemill_source SET backfill = '', backfill_until = (" + last + ") WHERE id = ? AND backfill IS NULL",
        (source,),
    )


def pending(connection: Connection, source: int) -> bool:
    """Whether there are rows left to copy."""
    row = connection.execute("SELECT backfill FROM tidemill_source WHERE id = ?", (source,)).fetchone()
    return row is not None and row[0] is not None and row[0] != "done"


def copy_chunk(connection: Connection, source: int, spec: TableSpec) -> None:
    """Copy the next rows into the log."""
    sql = "SELECT backfill, backfill_until FROM tidemill_source WHERE id = ?"
    position, until = connection.execute(sql, (source,)).fetchone()
    if position == "done":
        return
    columns = columns_of(connection, spec)
    keys = table_key(connection, spec, columns)
    order = ", ".join(keys)
    bounds = f"({order}) <= ({until})" if until is not None else "false"
    after = f" AND ({order}) > ({position})" if position else ""
    chunk = f"FROM {quoted(spec.table)} t WHERE {bounds}{after} ORDER BY {order} LIMIT {CHUNK}"
    copied = connection.execute(f"SELECT {literals(keys)} {chunk}").fetchall()
    if copied:
        rows = f" FROM (SELECT t.* {chunk}) t"
        connection.execute(f"{LOG} {entry(source, spec, 3, 't', body_of('t', columns), 'NULL', rows)}")
    connection.execute(
        "UPDATE tidemill_source SET backfill = ? WHERE id = ?",
        (copied[-1][0] if len(copied) == CHUNK else "done", source),
    )


def literals(keys: Sequence[str]) -> str:
    return "||','||".join(f"quote({key})" for key in keys)


def table_key(connection: Connection, spec: TableSpec, columns: Sequence[str]) -> list[str]:
    """What orders the rows of a table uniquely: the rowid, or the primary key where there is no rowid."""
    (without_rowid,) = connection.execute(
        "SELECT wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE", (spec.table,)
    ).fetchone()
    if not without_rowid:
        names = {"rowid", "_rowid_", "oid"} - {column.lower() for column in columns}
        if names:
            return [f"t.{min(names)}"]
    info = connection.execute(f"PRAGMA table_info({quoted(spec.table)})").fetchall()
    return [f"t.{quoted(row[1])}" for row in sorted((row for row in info if row[5]), key=lambda row: row[5])]
