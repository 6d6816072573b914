"""The tables of Tidemill in a SQLite file, their format number, and how an older file becomes a newer one.

Everything is named `tidemill_…`, so a file may hold the user's own tables beside. `tidemill_log.seq` is the order
of commits, because there is one writer at a time: AUTOINCREMENT keeps it rising also after a full trim. The rowid
is the last column of every index, so `(source, part)` finds a partition's changes in order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from tidemill.adapters.sqlite.connection import connect, literal, quoted
from tidemill.errors import ConfigurationError, FormatTooNew
from tidemill.model import FORMAT, CollectionSpec, QueueSpec, Source

RECORDS = """
CREATE TABLE tidemill_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE tidemill_record (key TEXT PRIMARY KEY, version INTEGER NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO tidemill_meta VALUES ('version', 0);
"""

DATA = (
    RECORDS
    + """
CREATE TABLE tidemill_source (
    id INTEGER PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, partitions INTEGER NOT NULL DEFAULT 0,
    backfill TEXT, backfill_until TEXT,  -- see backfill
    UNIQUE (kind, name));

CREATE TABLE tidemill_log (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, source INTEGER NOT NULL, part INTEGER NOT NULL,
    kind INTEGER NOT NULL,  -- see feed.KINDS
    doc TEXT NOT NULL, key TEXT NOT NULL, at REAL NOT NULL, body BLOB, before BLOB);
CREATE INDEX tidemill_log_part ON tidemill_log (source, part);
CREATE TABLE tidemill_trimmed (
    source INTEGER, part INTEGER, seq INTEGER NOT NULL, PRIMARY KEY (source, part)) WITHOUT ROWID;
CREATE TABLE tidemill_replaced (  -- what an INSERT may be about to replace, see capture
    source INTEGER, doc TEXT, key TEXT NOT NULL, before BLOB, PRIMARY KEY (source, doc)) WITHOUT ROWID;

CREATE TABLE tidemill_message (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER NOT NULL, id TEXT NOT NULL, priority INTEGER NOT NULL,
    due REAL NOT NULL,  -- at first; then tidemill_ready knows
    sent_at REAL NOT NULL, key TEXT, dedup TEXT, attempt INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',
    headers TEXT NOT NULL, body BLOB NOT NULL,
    UNIQUE (queue, id));
CREATE TABLE tidemill_ready (
    queue INTEGER, priority INTEGER, due REAL, seq INTEGER, deliveries INTEGER NOT NULL, dedup INTEGER NOT NULL,
    PRIMARY KEY (queue, priority, due, seq)) WITHOUT ROWID;
CREATE TABLE tidemill_claim (
    seq INTEGER PRIMARY KEY, queue INTEGER NOT NULL, priority INTEGER NOT NULL, due REAL NOT NULL,
    deliveries INTEGER NOT NULL, dedup INTEGER NOT NULL, owner TEXT NOT NULL, nonce TEXT NOT NULL);
CREATE TRIGGER tidemill_message_sent AFTER INSERT ON tidemill_message BEGIN
    INSERT INTO tidemill_ready VALUES (NEW.queue, NEW.priority, NEW.due, NEW.seq, 0, NEW.dedup IS NOT NULL);
END;
CREATE TABLE tidemill_dedup (
    queue INTEGER, dedup TEXT, id TEXT NOT NULL,
    until REAL,  -- NULL while the message lives
    PRIMARY KEY (queue, dedup)) WITHOUT ROWID;
CREATE INDEX tidemill_dedup_until ON tidemill_dedup (until) WHERE until IS NOT NULL;

CREATE TABLE tidemill_letter (
    source TEXT, id TEXT, key TEXT, ord INTEGER NOT NULL, body BLOB, attempts INTEGER NOT NULL,
    reason TEXT NOT NULL, error TEXT NOT NULL, at REAL NOT NULL, headers TEXT NOT NULL, meta TEXT NOT NULL,
    UNIQUE (source, id));
CREATE INDEX tidemill_letter_order ON tidemill_letter (source, ord);
"""
)

MIGRATIONS: Mapping[int, str] = {}
"""SQL that makes format n into n + 1, by n."""


def prepare(
    connection: sqlite3.Connection,
    path: Path,
    script: str,
    *,
    known: int = FORMAT,
    migrations: Mapping[int, str] = MIGRATIONS,
) -> None:
    """Make the tables, or bring them to the format `known`; the caller holds the flock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        stored = format_of(connection)
        if stored is None:
            run_script(connection, script)
        elif stored > known:
            raise FormatTooNew(
                f"sqlite {path}: written in format {stored}, this release reads up to {known}; install the newer one"
            )
        elif stored < known:
            copy_file(path, stored)
            for number in range(stored, known):
                run_script(connection, migrations[number])
        if stored != known:
            connection.execute("INSERT OR REPLACE INTO tidemill_meta VALUES ('format', ?)", (known,))
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def format_of(connection: sqlite3.Connection) -> int | None:
    """The number in the file; None if there are no tables of ours."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'tidemill_meta'").fetchone():
        return None
    row = connection.execute("SELECT value FROM tidemill_meta WHERE name = 'format'").fetchone()
    return int(row[0]) if row else 0


def run_script(connection: sqlite3.Connection, script: str) -> None:
    """Run statements inside the open transaction (`executescript` would commit it)."""
    statement = ""
    for line in script.splitlines():
        statement += line + "\n"
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""


def copy_file(path: Path, number: int) -> None:
    """A whole copy beside the file before it is migrated; the open write transaction keeps others out."""
    with (
        closing(connect(path, 1024)) as source,
        closing(sqlite3.connect(f"{path}.backup-{number}", isolation_level=None)) as target,
    ):
        source.backup(target)


def register(connection: sqlite3.Connection, kind: str, name: str) -> int:
    """The number of a feed (`kind` "feed") or of a queue ("queue") in this file."""
    connection.execute("INSERT OR IGNORE INTO tidemill_source (kind, name) VALUES (?, ?)", (kind, name))
    row = connection.execute("SELECT id FROM tidemill_source WHERE kind = ? AND name = ?", (kind, name)).fetchone()
    return int(row[0])


def register_feed(connection: sqlite3.Connection, source: Source) -> int:
    """The number of a feed. Its count of partitions is fixed when it is first opened."""
    number = register(connection, "feed", source.name)
    connection.execute(
        "UPDATE tidemill_source SET partitions = ? WHERE id = ? AND partitions = 0",
        (source.partitions, number),
    )
    (stored,) = connection.execute("SELECT partitions FROM tidemill_source WHERE id = ?", (number,)).fetchone()
    if stored != source.partitions:
        raise ConfigurationError(
            f"{source.name}: declared with partitions={source.partitions}, but its feed was made with {stored};"
            f" declare {stored} (keys would change their partition)"
        )
    if isinstance(source, CollectionSpec):
        for sql in document_tables(number, source.fields):
            connection.execute(sql)
    return number


def register_queues(connection: sqlite3.Connection, queues: Sequence[QueueSpec]) -> list[int]:
    return [register(connection, "queue", queue.name) for queue in queues]


def field_sql(field: str) -> str:
    """A declared field of a document, as the index and the queries must both say it. NULL: missing or null."""
    path = literal('$."' + field.replace(".", '"."') + '"')
    return f"CASE WHEN json_valid(CAST(body AS TEXT)) THEN json_extract(CAST(body AS TEXT), {path}) END"


def document_table(number: int) -> str:
    """Each collection has a table of its own, so that its declared fields can have indexes of their own."""
    return f"tidemill_document_{number}"


def document_tables(number: int, fields: Sequence[str]) -> list[str]:
    table = document_table(number)
    indexes = {f"{table}_key": "key"} | {f"{table}_field_{field}": field_sql(field) for field in fields}
    return [
        f"CREATE TABLE IF NOT EXISTS {table} (rowid INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, key TEXT NOT NULL,"
        " etag INTEGER NOT NULL, body BLOB NOT NULL)",
        *(f"CREATE INDEX IF NOT EXISTS {quoted(name)} ON {table} ({columns}, id)" for name, columns in indexes.items()),
    ]
