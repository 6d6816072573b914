"""Documents and their queries. Each write puts one row into the log in the same statement.

The number of a change is drawn after the document's row was written, so under its lock: the insert into the log reads
what the write returns. Within one statement each document is written once; a call that writes one twice is made in
rounds. Documents are locked in the order of their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from decimal import Decimal
from typing import Any

from tidemill.adapters.postgres.ddl import field_sql
from tidemill.adapters.postgres.link import Link, Row
from tidemill.adapters.postgres.names import Names, literal
from tidemill.adapters.postgres.session import OpenSource, Session
from tidemill.errors import ConfigurationError, Unfit
from tidemill.model import (
    CollectionSpec,
    Delete,
    Expect,
    Gone,
    Mismatch,
    Put,
    Query,
    Rows,
    Stored,
    Write,
    Written,
)

FIND = "SELECT id, key, etag, convert_to(body::text, 'UTF8') FROM {table} WHERE id = ANY ($1)"

PUT = """
WITH wanted AS (
    SELECT w.*, convert_from(w.body, 'UTF8')::json AS json FROM {given} AS w (id, key, body, expect, place)),
former AS (
    SELECT id, convert_to(body::text, 'UTF8') AS body FROM {table} WHERE {before} AND id IN (SELECT id FROM wanted)),
made AS (
    INSERT INTO {table} AS d SELECT id, key, nextval('{s}.version_seq'), json FROM wanted
    WHERE expect IS NULL OR expect = 0 ORDER BY id
    ON CONFLICT (id) DO UPDATE SET key = excluded.key, etag = nextval('{s}.version_seq'), body = excluded.body
    WHERE (SELECT w.expect IS NULL FROM wanted w WHERE w.id = d.id)
    RETURNING id, etag),
replaced AS (
    UPDATE {table} d SET key = w.key, etag = nextval('{s}.version_seq'), body = w.json FROM wanted w
    WHERE d.id = w.id AND d.etag = w.expect RETURNING d.id, d.etag),
written AS (SELECT * FROM made UNION ALL SELECT * FROM replaced),
logged AS (
    INSERT INTO {log} (era, slot, part, kind, doc, key, body, before)
    SELECT o.era, o.slot, {s}.part(w.key, {partitions}), 0, w.id, w.key, w.body, f.body
    FROM written JOIN wanted w USING (id) LEFT JOIN former f USING (id),
        (SELECT era, slot FROM {s}.source WHERE name = {name}) o ORDER BY w.place)
SELECT id, etag FROM written
"""
"""`expect`: an etag; NULL: anything; 0: nothing."""

DELETE = """
WITH wanted AS (SELECT * FROM {given} AS w (id, expect, place)),
locked AS (SELECT id FROM {table} WHERE id IN (SELECT id FROM wanted) ORDER BY id FOR UPDATE),
gone AS (
    DELETE FROM {table} d USING wanted w
    WHERE d.id = w.id AND (w.expect IS NULL OR d.etag = w.expect) AND (SELECT count(*) FROM locked) >= 0
    RETURNING d.id, d.key, d.body, w.place),
logged AS (
    INSERT INTO {log} (era, slot, part, kind, doc, key, before)
    SELECT o.era, o.slot, {s}.part(g.key, {partitions}), 1, g.id, g.key,
        CASE WHEN {before} THEN convert_to(g.body::text, 'UTF8') END
    FROM gone g, (SELECT era, slot FROM {s}.source WHERE name = {name}) o ORDER BY g.place)
SELECT id FROM gone
"""

PUT_MANY = "unnest($1::text[], $2::text[], $3::bytea[], $4::bigint[]) WITH ORDINALITY"
PUT_ONE = "(VALUES ($1::text, $2::text, $3::bytea, $4::bigint, 1))"
DELETE_MANY = "unnest($1::text[], $2::bigint[]) WITH ORDINALITY"
DELETE_ONE = "(VALUES ($1::text, $2::bigint, 1))"

LOCK_ONE = "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 7))"
LOCK = "SELECT pg_advisory_xact_lock(h) FROM (SELECT hashtextextended(unnest($1::text[]), 7) AS h ORDER BY 1) x"
"""One writer of a document after the other: what a document was before must be seen after the writer before ended."""


class Documents:
    """`ports.Documents` of one collection."""

    def __init__(self, session: Session, spec: CollectionSpec) -> None:
        self._session = session
        self._source = session.source(spec.name)
        self._spec = spec

    async def get(self, ids: Sequence[str]) -> Sequence[Stored | None]:
        if not ids:
            return []
        async with self._session.data.one() as link:
            found = await find(link, self._session, self._spec, ids)
        return [found.get(id) for id in ids]

    async def write(self, writes: Sequence[Write]) -> Sequence[Written]:
        for write in writes:
            if isinstance(write, Put):
                self._session.check_body(write.body)
        found: list[Written] = []
        for batch in rounds(writes):
            async with self._around() as link:
                found += await write_all(link, self._session, self._source, batch)
        if writes:
            self._session.watch.poke()
        return found

    def _around(self) -> AbstractAsyncContextManager[Link]:
        return self._session.data.transaction() if self._spec.before else self._session.data.one()

    async def query(self, query: Query) -> Rows:
        asked = [query.order] if query.order is not None else []
        for field in asked + [filter.field for filter in query.filters]:
            if field not in self._spec.fields:
                declared = ", ".join(self._spec.fields) or "none"
                raise ConfigurationError(f"{self._spec.name}: field {field!r} is not declared (declared: {declared})")
        return await select(self._session, self._spec, query)


# --- writing ------------------------------------------------------------------------------------------------


def rounds(writes: Sequence[Write]) -> Iterator[list[Write]]:
    """Writes that may be made at once: of one kind, and each document in it once."""
    batch: list[Write] = []
    ids: set[str] = set()
    for write in writes:
        if batch and (write.id in ids or type(write) is not type(batch[0])):
            yield batch
            batch, ids = [], set()
        batch.append(write)
        ids.add(write.id)
    if batch:
        yield batch


async def write_all(link: Link, session: Session, source: OpenSource, batch: Sequence[Write]) -> list[Written]:
    """One round of writes. With before images the link must be in a transaction."""
    spec = source.spec
    assert isinstance(spec, CollectionSpec)
    if spec.before:
        await link.execute(LOCK, [f"{spec.name}/{write.id}" for write in batch])
    puts = [write for write in batch if isinstance(write, Put)]
    ids, expected = [write.id for write in batch], [expect_of(write) for write in batch]
    if puts:
        args = (ids, [put.key for put in puts], [put.body for put in puts], expected)
        hits = dict(await link.fetch(text(session, spec, PUT, PUT_MANY), *args))
        made: dict[str, Written] = {
            put.id: Stored(put.id, put.key, str(hits[put.id]), put.body) for put in puts if put.id in hits
        }
    else:
        made = {
            row[0]: Gone(row[0]) for row in await link.fetch(text(session, spec, DELETE, DELETE_MANY), ids, expected)
        }
    missed = [write for write in batch if write.id not in made]
    if missed:
        there = await find(link, session, spec, [write.id for write in missed])
        for write in missed:
            unasked = isinstance(write, Delete) and fits_nothing(write.expect) and write.id not in there
            made[write.id] = Gone(write.id) if unasked else Mismatch(write.id, there.get(write.id))
    return [made[id] for id in ids]


async def find(link: Link, session: Session, spec: CollectionSpec, ids: Sequence[str]) -> dict[str, Stored]:
    rows = await link.fetch(text(session, spec, FIND), list(ids))
    return {row[0]: Stored(row[0], row[1], str(row[2]), row[3]) for row in rows}


def text(session: Session, spec: CollectionSpec, sql: str, given: str = "") -> str:
    names = session.names
    return sql.format(
        s=names.schema,
        given=given,
        table=names.documents(spec.name),
        log=names.log(spec.name),
        name=literal(spec.name),
        partitions=spec.partitions,
        before="true" if spec.before else "false",
    )


def expect_of(write: Write) -> int | None:
    """As `PUT` and `DELETE` want it; a text that was never an etag of ours fits nothing."""
    if write.expect is Expect.ANYTHING:
        return None
    if isinstance(write.expect, Expect):
        return 0
    return int(write.expect) if write.expect.isdecimal() and len(write.expect) < 19 else -1


def fits_nothing(expect: Expect | str) -> bool:
    return isinstance(expect, Expect)


# --- queries ------------------------------------------------------------------------------------------------


async def select(session: Session, spec: CollectionSpec, query: Query) -> Rows:
    """One page by keyset: the continuation is the last row's order value and id.

    With an order there are three walks, each through an index: documents without the field, with a number in it, with
    a word.
    """
    where, args = conditions(session.names, query)
    table = session.names.documents(spec.name)
    rows: list[Row] = []
    async with session.data.one() as link:
        for clause, order, more in ranges(session.names, query, len(args)):
            sql = (
                f"SELECT id, key, etag, convert_to(body::text, 'UTF8'), {order[0]} FROM {table}"
                f" WHERE {where}{clause} ORDER BY {order[1]} LIMIT {query.limit + 1 - len(rows)}"
            )
            rows += await link.fetch(sql, *args, *more)
            if len(rows) > query.limit:
                break
    continuation = None
    if len(rows) > query.limit:
        last = rows[query.limit - 1]
        continuation = json.dumps([last[4] if query.order else None, last[0]])
    documents = tuple(Stored(row[0], row[1], str(row[2]), row[3]) for row in rows[: query.limit])
    return Rows(documents, continuation)


def conditions(names: Names, query: Query) -> tuple[str, list[Any]]:
    clauses, args = ["true"], list[Any]()
    if query.key is not None:
        args.append(query.key)
        clauses.append("key = $1")
    for filter in query.filters:
        number, word = field_sql(names, filter.field)
        if filter.value is None:
            asked = f"{number} IS NULL AND {word} IS NULL"
            clauses.append(asked if filter.op in ("=", "<=", ">=") else "false")
            continue
        is_word = isinstance(filter.value, str)
        args.append(filter.value if is_word else Decimal(repr(float(filter.value))))
        clauses.append(f"{word if is_word else number} {filter.op} ${len(args)}")
    return " AND ".join(clauses), args


def ranges(names: Names, query: Query, args: int) -> Iterator[tuple[str, tuple[str, str], list[Any]]]:
    """For each walk: its condition, what is selected and ordered by, and its further arguments."""
    way, beyond = ("DESC", "<") if query.descending else ("ASC", ">")
    value, id = position(query.continuation) if query.continuation is not None else (None, None)
    if query.order is None:
        yield ("" if id is None else f" AND id {beyond} ${args + 1}"), ("NULL", f"id {way}"), [] if id is None else [id]
        return
    number, word = field_sql(names, query.order)
    walks = [
        (f"{number} IS NULL AND {word} IS NULL", "NULL", ""),
        (f"{number} IS NOT NULL", f"{number}::float8", number),
        (f"{word} IS NOT NULL", word, word),
    ]
    here = 0 if value is None else 2 if isinstance(value, str) else 1
    order = list(enumerate(walks))
    for place, (asked, shown, by) in reversed(order) if query.descending else order:
        if id is not None and (place > here if query.descending else place < here):
            continue
        sort = f"{by} {way}, id {way}" if by else f"id {way}"
        if id is None or place != here:
            yield f" AND {asked}", (shown, sort), []
        elif by:
            given = value if isinstance(value, str) else Decimal(repr(value))
            yield f" AND {asked} AND ({by}, id) {beyond} (${args + 1}, ${args + 2})", (shown, sort), [given, id]
        else:
            yield f" AND {asked} AND id {beyond} ${args + 1}", (shown, sort), [id]


def position(continuation: str) -> tuple[str | float | None, str]:
    """The order value and the id of the last row seen. Raises `Unfit` for what no page has ever said."""
    try:
        value, id = json.loads(continuation)
    except (ValueError, TypeError):
        raise Unfit("the continuation is none of this collection") from None
    if not isinstance(id, str) or not isinstance(value, str | int | float | None):
        raise Unfit("the continuation is none of this collection")
    return float(value) if isinstance(value, int) else value, id
