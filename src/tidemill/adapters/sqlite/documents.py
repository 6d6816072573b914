"""Documents and their queries. Each write puts one row into the log in the same transaction.

The etag of a document is the `seq` of the change that wrote it: unique for ever, and free.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from sqlite3 import Connection
from typing import Any

from tidemill.adapters.sqlite.schema import field_sql
from tidemill.adapters.sqlite.session import OpenSource, Session
from tidemill.errors import ConfigurationError, Unfit
from tidemill.model import (
    CollectionSpec,
    Delete,
    Expect,
    Filter,
    Gone,
    Mismatch,
    Put,
    Query,
    Rows,
    Stored,
    Write,
    Written,
)

LOG = "INSERT INTO tidemill_log (source, part, kind, doc, key, at, body, before) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"

INSERT = "INSERT INTO {} (id, key, etag, body) VALUES (?, ?, ?, ?) ON CONFLICT (id)"

OVERWRITE = "UPDATE SET key = excluded.key, etag = excluded.etag, body = excluded.body"


class Documents:
    """`ports.Documents` of one collection."""

    def __init__(self, session: Session, spec: CollectionSpec) -> None:
        self._session = session
        self._source = session.source(spec.name)
        self._fields = spec.fields
        self._topics = (f"feed/{spec.name}",)

    async def get(self, ids: Sequence[str]) -> Sequence[Stored | None]:
        table = self._source.table
        return await self._session.reads.submit(lambda connection: [find(connection, table, id) for id in ids])

    async def write(self, writes: Sequence[Write]) -> Sequence[Written]:
        now = self._session.clock.now()
        for write in writes:
            if isinstance(write, Put):
                self._session.check_body(write.body)
        return await self._session.write(
            lambda connection: [write_one(connection, self._source, write, now) for write in writes],
            rings=self._topics,
        )

    async def query(self, query: Query) -> Rows:
        asked = [query.order] if query.order is not None else []
        for field in asked + [filter.field for filter in query.filters]:
            if field not in self._fields:
                declared = ", ".join(self._fields) or "none"
                raise ConfigurationError(
                    f"{self._source.spec.name}: field {field!r} is not declared (declared: {declared})"
                )
        return await self._session.slow.submit(lambda connection: select(connection, self._source.table, query))


# --- inside a transaction -----------------------------------------------------------------------------------


def find(connection: Connection, table: str, id: str) -> Stored | None:
    row = connection.execute(f"SELECT key, etag, body FROM {table} WHERE id = ?", (id,)).fetchone()
    return Stored(id, row[0], str(row[1]), row[2]) if row else None


def write_one(connection: Connection, source: OpenSource, write: Write, now: float) -> Written:
    """One write and its change."""
    spec, table = source.spec, source.table
    careful = spec.before or write.expect is not Expect.ANYTHING or isinstance(write, Delete)
    found = find(connection, table, write.id) if careful else None
    if not expected(write.expect, found):
        return Mismatch(write.id, found)
    before = found.body if found and spec.before else None
    if isinstance(write, Put):
        change = (source.number, source.part(write.key), 0, write.id, write.key, now, write.body, before)
        etag = connection.execute(LOG, change).lastrowid
        connection.execute(f"{INSERT.format(table)} DO {OVERWRITE}", (write.id, write.key, etag, write.body))
        return Stored(write.id, write.key, str(etag), write.body)
    if found is not None:
        deletion = (source.number, source.part(found.key), 1, write.id, found.key, now, None, before)
        connection.execute(LOG, deletion)
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (write.id,))
    return Gone(write.id)


def expected(expect: Expect | str, found: Stored | None) -> bool:
    if expect is Expect.ANYTHING:
        return True
    if expect is Expect.NOTHING:
        return found is None
    return found is not None and found.etag == expect


# --- queries ------------------------------------------------------------------------------------------------


def select(connection: Connection, table: str, query: Query) -> Rows:
    """One page by keyset: the continuation is the last row's order value and id.

    With an order there are two ranges, rows where the field is missing and rows where it is not (NULL compares
    with nothing); SQLite's order of types is null, number, text. Each range is one walk through the index.
    """
    where, args = conditions(query)
    rows: list[tuple[Any, ...]] = []
    for clause, order, more in ranges(query):
        rows += connection.execute(
            f"SELECT id, key, etag, body{order[0]} FROM {table} WHERE {where}{clause} ORDER BY {order[1]} LIMIT ?",
            (*args, *more, query.limit + 1 - len(rows)),
        ).fetchall()
        if len(rows) > query.limit:
            break
    continuation = None
    if len(rows) > query.limit:
        last = rows[query.limit - 1]
        continuation = json.dumps([last[4] if query.order else None, last[0]])
    documents = tuple(Stored(row[0], row[1], str(row[2]), row[3]) for row in rows[: query.limit])
    return Rows(documents, continuation)


def conditions(query: Query) -> tuple[str, list[Any]]:
    clauses, args = ["true"], list[Any]()
    if query.key is not None:
        clauses.append("key = ?")
        args.append(query.key)
    for filter in query.filters:
        clause, values = condition(filter)
        clauses.append(clause)
        args += values
    return " AND ".join(clauses), args


def condition(filter: Filter) -> tuple[str, list[Any]]:
    """A filter as SQL. Values of another type never match: SQLite would find every text above every number."""
    field = field_sql(filter.field)
    if filter.value is None:
        return (f"{field} IS NULL" if filter.op in ("=", "<=", ">=") else "0"), []
    types = "('text')" if isinstance(filter.value, str) else "('integer', 'real')"
    return f"{field} {filter.op} ? AND typeof({field}) IN {types}", [filter.value]


def ranges(query: Query) -> Iterator[tuple[str, tuple[str, str], list[Any]]]:
    """For each walk: its condition, what is selected and ordered by, and its arguments."""
    way, beyond = ("DESC", "<") if query.descending else ("ASC", ">")
    value, id = position(query.continuation) if query.continuation is not None else (None, None)
    after_id = "" if id is None else f" AND id {beyond} ?"
    ids = [] if id is None else [id]
    if query.order is None:
        yield after_id, ("", f"id {way}"), ids
        return
    field = field_sql(query.order)
    order = (f", {field}", f"{field} {way}, id {way}")
    missing = (f" AND {field} IS NULL", (f", {field}", f"id {way}"))
    if not query.descending and value is None:
        yield missing[0] + after_id, missing[1], ids
    if value is None and (id is None or not query.descending):
        yield f" AND {field} IS NOT NULL", order, []
    elif value is not None:
        yield f" AND {field} {beyond}= ? AND ({field} {beyond} ? OR id {beyond} ?)", order, [value, value, id]
    if query.descending:
        yield missing[0] + (after_id if value is None else ""), missing[1], ids if value is None else []


def position(continuation: str) -> tuple[str | int | float | None, str]:
    """The order value and the id of the last row seen. Raises `Unfit` for what no page has ever said."""
    try:
        value, id = json.loads(continuation)
    except (ValueError, TypeError):
        raise Unfit("the continuation is none of this collection") from None
    if not isinstance(id, str) or not isinstance(value, str | int | float | None):
        raise Unfit("the continuation is none of this collection")
    return value, id
