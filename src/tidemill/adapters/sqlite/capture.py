"""The capture of an existing table: triggers that write its changes into the log, and the rows it already has.

The programs that write the table are foreign and open it with a plain SQLite, so the triggers use builtin
functions only, also for the partition. A body is the row as a JSON object of its columns: integers and reals as
numbers, text as strings, NULL as null, blobs as strings of upper-case hex digits. (Reals beyond 1e±30 are as exact as
SQLite prints them; infinity is 9e999.)

| the program does | the log gets |
|---|---|
| INSERT | put |
| UPDATE | put; if id or key changed: delete of the old one first |
| DELETE | delete |
| INSERT OR REPLACE, REPLACE | put; if the row replaced had another key: delete of the old one first |

SQLite fires no DELETE trigger for what REPLACE removes. So a BEFORE trigger notes the row with the same id and
another key in `tidemill_replaced`, and the AFTER trigger, which fires only if the insert happened, turns the note
into a delete. A row that is removed because of *another* UNIQUE column is seen only if the program sets `PRAGMA
recursive_triggers`. A column that a trigger names cannot be dropped before the trigger is.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from sqlite3 import Connection

from tidemill.adapters.sqlite.connection import literal, quoted
from tidemill.errors import ConfigurationError
from tidemill.model import TableSpec

NOW = "((julianday('now') - 2440587.5) * 86400.0)"

LOG = "INSERT INTO tidemill_log (source, part, kind, doc, key, at, body, before)"

HASHED = 12
"""How many characters of each end of a key decide about its partition."""


def install(connection: Connection, source: int, spec: TableSpec) -> None:
    """Make the triggers, or make them anew when the columns or the declaration changed."""
    columns = columns_of(connection, spec)
    wanted = triggers(source, spec, columns, replaces=spec.id != spec.key and is_unique(connection, spec))
    rows = connection.execute(
        "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND name GLOB ?",
        (f"tidemill_{source}_*",),
    )
    found = dict(rows.fetchall())
    if found != wanted:
        for name in found:
            connection.execute(f"DROP TRIGGER {quoted(name)}")
        for sql in wanted.values():
            connection.execute(sql)


def columns_of(connection: Connection, spec: TableSpec) -> list[str]:
    """The table's columns; raises when the table or a declared column is missing."""
    row = connection.execute(
        "SELECT name, type, sql FROM sqlite_master WHERE name = ? COLLATE NOCASE AND type IN ('table', 'view')",
        (spec.table,),
    ).fetchone()
    if row is None:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        known = [name for (name,) in tables if not name.startswith(("tidemill_", "sqlite_"))]
        raise ConfigurationError(f"{spec.name}: there is no table {spec.table!r}{near(spec.table, known)}")
    if row[1] == "view" or str(row[2]).upper().startswith("CREATE VIRTUAL"):
        raise ConfigurationError(f"{spec.name}: {spec.table!r} is a view or a virtual table; name the table itself")
    info = connection.execute(f"PRAGMA table_xinfo({quoted(spec.table)})")
    columns = [column[1] for column in info if column[6] != 1]
    for column in (spec.id, spec.key):
        if column not in columns:
            raise ConfigurationError(
                f"{spec.name}: table {spec.table!r} has no column {column!r}{near(column, columns)}"
            )
    return columns


def is_unique(connection: Connection, spec: TableSpec) -> bool:
    """Whether the id alone is unique, so that REPLACE can hit it (and is found by an index)."""
    info = connection.execute(f"PRAGMA table_info({quoted(spec.table)})").fetchall()
    if [row[1] for row in info if row[5]] == [spec.id]:
        return True
    indexes = connection.execute(f"PRAGMA index_list({quoted(spec.table)})").fetchall()
    columns = "SELECT name FROM pragma_index_info(?)"
    return any(
        row[2] and not row[4] and connection.execute(columns, (row[1],)).fetchall() == [(spec.id,)] for row in indexes
    )


def near(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, 3, 0.5) or sorted(known)[:5]
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""


# --- SQL text -----------------------------------------------------------------------------------------------


def text_of(value: str) -> str:
    """An id or key as text; a blob as hex digits."""
    return f"CASE typeof({value}) WHEN 'blob' THEN hex({value}) ELSE CAST({value} AS TEXT) END"


def json_of(value: str) -> str:
    """A value as JSON. Seventeen digits: with SQLite's own fifteen another real would be read back."""
    real = f"CASE WHEN abs({value}) > 1.7976931348623157e308 THEN iif({value} > 0, '9e999', '-9e999')"
    return (
        f"CASE typeof({value}) WHEN 'real' THEN {real} ELSE printf('%!.17g', {value}) END"
        f" WHEN 'blob' THEN '\"' || hex({value}) || '\"' ELSE json_quote({value}) END"
    )


def body_of(row: str, columns: Sequence[str]) -> str:
    """The row (`NEW`, `OLD` or an alias) as a blob of JSON. By `||`, for json_object takes few columns; in groups,
    for an expression may not be deep."""
    pairs = [f"{literal(f'{json.dumps(column)}:')}||{json_of(f'{row}.{quoted(column)}')}" for column in columns]
    groups = ["||','||".join(pairs[start : start + 50]) for start in range(0, len(pairs), 50)]
    whole = "||','||".join(f"({group})" for group in groups)
    return f"CAST('{{'||{whole}||'}}' AS BLOB)"


def partition_sql(key: str, partitions: int) -> str:
    """A multiplicative hash over both ends of a text, within 63 bits (an overflow would become a real)."""
    mixed = f"length({key})"
    for place in range(1, HASHED + 1):
        for at in (place, -place):
            mixed = f"(({mixed}*16777619+ifnull(unicode(substr({key},{at},1)),0))&2147483647)"
    return f"(({mixed}*40503>>13)&2147483647)%{partitions}"


def entry(source: int, spec: TableSpec, kind: int, row: str, body: str, before: str, rows: str = "") -> str:
    """A SELECT of log rows for `row` (from `rows`); the key falls back to the id where it is NULL."""
    id = text_of(f"{row}.{quoted(spec.id)}")
    key = f"coalesce({text_of(f'{row}.{quoted(spec.key)}')}, {id}, '')"
    return (
        f"SELECT {source}, {partition_sql('k', spec.partitions)}, {kind}, d, k, {NOW}, b, o"
        f" FROM (SELECT coalesce({id}, '') AS d, {key} AS k, {body} AS b, {before} AS o{rows})"
    )


def triggers(source: int, spec: TableSpec, columns: Sequence[str], *, replaces: bool) -> dict[str, str]:
    """The triggers of a table, by name. `replaces`: REPLACE can give an id another key."""
    new, old = body_of("NEW", columns), body_of("OLD", columns) if spec.before else "NULL"
    id, key = quoted(spec.id), quoted(spec.key)
    put = f"{LOG} {entry(source, spec, 0, 'NEW', new, 'NULL')};"
    update = f"{LOG} {entry(source, spec, 0, 'NEW', new, old)};"
    delete = f"{LOG} {entry(source, spec, 1, 'OLD', 'NULL', old)}"
    moved = f"OLD.{id} IS NOT NEW.{id} OR OLD.{key} IS NOT NEW.{key}"
    bodies = {
        "insert": ("AFTER INSERT", [put]),
        "update": ("AFTER UPDATE", [f"{delete} WHERE {moved};", update]),
        "delete": ("AFTER DELETE", [f"{delete};"]),
    }
    if replaces:
        note, noted, forget = replacement(source, spec, columns)
        bodies["note"] = ("BEFORE INSERT", [forget.format("NEW"), note])
        bodies["insert"] = ("AFTER INSERT", [noted, forget.format("NEW"), put])
        bodies["delete"] = ("AFTER DELETE", [f"{delete};", forget.format("OLD")])
    return {
        f"tidemill_{source}_{name}": f"CREATE TRIGGER tidemill_{source}_{name} {when} ON {quoted(spec.table)}"
        f" FOR EACH ROW BEGIN {' '.join(statements)} END"
        for name, (when, statements) in bodies.items()
    }


def replacement(source: int, spec: TableSpec, columns: Sequence[str]) -> tuple[str, str, str]:
    """Three statements: note the row that an INSERT may replace, log its delete, forget the note (of NEW or OLD)."""
    id, key = quoted(spec.id), quoted(spec.key)
    image = body_of("t", columns) if spec.before else "NULL"
    note = (
        f"INSERT OR REPLACE INTO tidemill_replaced SELECT {source}, {text_of(f't.{id}')},"
        f" coalesce({text_of(f't.{key}')}, {text_of(f't.{id}')}, ''), {image}"
        f" FROM {quoted(spec.table)} t WHERE t.{id} = NEW.{id} AND t.{key} IS NOT NEW.{key};"
    )
    part = partition_sql("key", spec.partitions)
    noted = (
        f"{LOG} SELECT {source}, {part}, 1, doc, key, {NOW}, NULL, before FROM tidemill_replaced"
        f" WHERE source = {source} AND doc = {text_of(f'NEW.{id}')};"
    )
    row = text_of(f"{{0}}.{id.replace('{', '{{').replace('}', '}}')}")
    return note, noted, f"DELETE FROM tidemill_replaced WHERE source = {source} AND doc = {row};"
