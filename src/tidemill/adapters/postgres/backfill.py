"""The rows that a captured table already has.

They come into the log when the first worker starts at the beginning, as puts of a kind of their own, in chunks along
the primary key. A chunk is one transaction that locks its rows FOR SHARE, writes them into the log and moves the
position: whoever changes such a row before waits, whoever changes it after draws a higher number, so the order per row
holds. (FOR KEY SHARE is too weak: it lets through what leaves the key alone.) Rows beyond the highest key of that
moment are left to the triggers. It goes on after a crash, in any process that reads the feed.

`source.backfill` is NULL (nobody asked), `"done"`, `{}` before the first chunk, or the key of the last row copied.
"""

from __future__ import annotations

from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, literal, quoted
from tidemill.errors import ConfigurationError
from tidemill.model import TableSpec

CHUNK = 1000
"""Rows copied in one transaction."""


KEY = """
SELECT array_agg(a.attname::text ORDER BY array_position(i.indkey::int2[], a.attnum))
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = $1::text::regclass AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
GROUP BY i.indexrelid, i.indisprimary, i.indnatts
HAVING i.indisprimary OR (array_agg(a.attname::text) = ARRAY[$2::text] AND bool_and(a.attnotnull))
ORDER BY i.indisprimary DESC LIMIT 1
"""


async def key_of(link: Link, spec: TableSpec) -> list[str]:
    """The columns that order the rows of a table uniquely. Raises if there are none."""
    found: list[str] | None = await link.fetchval(KEY, spec.table, spec.id)
    if found is None:
        raise ConfigurationError(
            f"{spec.name}: table {spec.table!r} has no primary key, and {spec.id!r} is not unique and NOT NULL; add one"
        )
    return found


async def table_sql(link: Link, spec: TableSpec) -> str:
    """The table as SQL wants it: its name may be a word of the language (`user`, `order`)."""
    found: str = await link.fetchval("SELECT $1::text::regclass::text", spec.table)
    return found


async def want(link: Link, names: Names, spec: TableSpec) -> None:
    """Have the rows copied, unless that was asked before."""
    keys, table = await key_of(link, spec), await table_sql(link, spec)
    shown = ", ".join(f"{literal(key)}, {quoted(key)}" for key in keys)
    backwards = ", ".join(f"{quoted(key)} DESC" for key in keys)
    await link.execute(
        f"UPDATE {names.schema}.source SET backfill = '{{}}', backfill_until ="
        f" (SELECT jsonb_build_object({shown}) FROM {table} ORDER BY {backwards} LIMIT 1)"
        " WHERE name = $1 AND backfill IS NULL",
        spec.name,
    )


async def pending(link: Link, names: Names, spec: TableSpec) -> bool:
    """Whether there are rows left to copy."""
    state = await link.fetchval(f"SELECT backfill::text FROM {names.schema}.source WHERE name = $1", spec.name)
    return state is not None and state != '"done"'


async def copy_chunk(link: Link, names: Names, spec: TableSpec) -> int:
    """Copy the next rows into the log, in the transaction of `link`; how many. -1: another process is at it."""
    s = names.schema
    if not await link.fetchval(
        "SELECT pg_try_advisory_xact_lock(hashtext('tidemill backfill'), hashtext($1))", f"{s}/{spec.name}"
    ):
        return -1
    row = await link.fetchrow(f"SELECT backfill::text, backfill_until::text FROM {s}.source WHERE name = $1", spec.name)
    assert row is not None
    state, until = row
    if state == '"done"':
        return 0
    keys, table = await key_of(link, spec), await table_sql(link, spec)
    order = ", ".join(f"t.{quoted(key)}" for key in keys)
    here = "(SELECT {} FROM jsonb_populate_record(NULL::" + table + ", {}::text::jsonb) k)"
    columns = ", ".join(f"k.{quoted(key)}" for key in keys)
    bounds, args = ["$1::text IS NOT NULL", "$2::text IS NOT NULL"], [state, until or "{}"]
    if until is None:
        bounds.append("false")
    else:
        bounds.append(f"({order}) <= {here.format(columns, '$2')}")
        if state != "{}":
            bounds.append(f"({order}) > {here.format(columns, '$1')}")
    shown = ", ".join(f"{literal(key)}, t.{quoted(key)}" for key in keys)
    rows = await link.fetch(
        f"""
WITH chunk AS MATERIALIZED (
    SELECT to_jsonb(t) AS b, jsonb_build_object({shown}) AS place FROM {table} t
    WHERE {" AND ".join(bounds)} ORDER BY {order} LIMIT {CHUNK} FOR SHARE),
logged AS (
    INSERT INTO {names.log(spec.name)} (era, slot, part, kind, doc, key, body)
    SELECT o.era, o.slot, {s}.part(r.key, {spec.partitions}), 3, r.doc, r.key, convert_to(r.b::text, 'UTF8')
    FROM (SELECT coalesce(b->>{literal(spec.id)}, '') AS doc,
          coalesce(b->>{literal(spec.key)}, b->>{literal(spec.id)}, '') AS key, b FROM chunk OFFSET 0) r,
        (SELECT era, slot FROM {s}.source WHERE name = {literal(spec.name)}) o)
SELECT place::text FROM chunk""",
        *args,
    )
    state = rows[-1][0] if len(rows) == CHUNK else '"done"'
    await link.execute(f"UPDATE {s}.source SET backfill = $2::text::jsonb WHERE name = $1", spec.name, state)
    return len(rows)
