"""The capture of existing tables: triggers that write every change into the log, in the writer's own transaction.

They fire once for a statement and write all its rows at once. A body is the row as `to_jsonb` gives it, so columns may
be added, dropped and retyped at any time. The functions run with the rights of their owner, so a program that writes
the table needs none on our schema.

| the program does | the log gets |
|---|---|
| INSERT, COPY, INSERT … ON CONFLICT | put |
| UPDATE | put; if id or key changed: delete of the old one first |
| DELETE | delete |
| TRUNCATE | a delete for each row |

The members of a partitioned or inherited table are captured too, for statements that name them directly. A row that
moves from one to another by an UPDATE comes as an update of the table. Not seen: writes of a session with
`session_replication_role = replica` (logical replication, some restores), and `DISABLE TRIGGER`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

import asyncpg

from tidemill.adapters.postgres import backfill
from tidemill.adapters.postgres.address import SCHEMA
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, literal, quoted, short
from tidemill.errors import ConfigurationError, Unavailable
from tidemill.model import TableSpec

MEMBERS = """
WITH RECURSIVE member (oid) AS (
    SELECT $1::text::regclass::oid UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN member m ON i.inhparent = m.oid)
SELECT m.oid::regclass::text, c.relkind::text FROM member m JOIN pg_class c USING (oid) ORDER BY 1
"""

TRIGGERS = """
SELECT tgrelid::regclass::text, tgname::text, tgenabled <> 'D' FROM pg_trigger t JOIN pg_proc f ON f.oid = tgfoid
WHERE f.pronamespace = to_regnamespace($1) AND tgname = ANY ($2::text[]) AND NOT tgisinternal
"""

WHATS = ("insert", "update", "moved", "rekey", "delete", "truncate")

DECLARED = """
SELECT (table_name, id_column, key_column, before) IS NOT DISTINCT FROM ($2::text, $3::text, $4::text, $5::boolean)
FROM {s}.source WHERE name = $1
"""

LOCKED = "2s"
"""How long the triggers of a table wait for its writers. Meanwhile all who want to write it wait, too."""

BAD_NAME = (asyncpg.InvalidNameError, asyncpg.PostgresSyntaxError, asyncpg.FeatureNotSupportedError)


def functions(names: Names, spec: TableSpec) -> list[str]:
    """The trigger functions of a table, and the one that brings its old rows into the log (see backfill)."""
    into = (
        f"INSERT INTO {names.log(spec.name)} (era, slot, part, kind, doc, key, body, before)"
        f" SELECT o.era, o.slot, {names.schema}.part(r.key, {spec.partitions}), "
    )
    origin = f"(SELECT era, slot FROM {names.schema}.source WHERE name = {literal(spec.name)}) o"
    changed, former = rows_of(spec, "changed"), rows_of(spec, "former")
    body, image = "convert_to(r.body::text, 'UTF8')", "convert_to(f.body::text, 'UTF8')"
    before = f" LEFT JOIN {former} f USING (doc)" if spec.before else ""
    old = image.replace("f.body", "r.body") if spec.before else "NULL"
    put = f"{into}0, r.doc, r.key, {body}, NULL FROM {changed} r, {origin}"
    update = f"{into}0, r.doc, r.key, {body}, {image if before else 'NULL'} FROM {changed} r{before}, {origin}"
    moved = (
        f"{into}1, r.doc, r.key, NULL, {old} FROM {former} r, {origin}"
        f" WHERE NOT EXISTS (SELECT FROM {changed} c WHERE c.doc = r.doc AND c.key = r.key)"
    )
    gone = f"{into}1, r.doc, r.key, NULL, {old} FROM {former} r, {origin}"
    single = gone.replace(former, rows_of(spec, "(SELECT OLD.*)"))
    emptied = gone.replace(former, rows_of(spec, "ONLY \0")).replace("%", "%%").replace("\0", "%s")
    mend = nested(spec, into, origin, old)
    bodies = {
        "insert": [put, *mend("changed")],
        "update": [update, *mend("changed")],
        "moved": [single],
        "rekey": [moved, update, *mend("changed")],
        "delete": [gone, *mend("former")],
        "truncate": [f"EXECUTE format({literal(emptied)}, TG_RELID::regclass)"],
    }
    return [function(names, spec, what, statements) for what, statements in bodies.items()]


def nested(spec: TableSpec, into: str, origin: str, old: str) -> Callable[[str], list[str]]:
    """What follows the log of a statement if triggers of the table have written captured rows meanwhile.

    A trigger FOR EACH ROW runs before those for the statement, so what it writes is logged before what it followed.
    Then the rows as they are now are logged again, if they differ.
    """
    id, key = quoted(spec.id), quoted(spec.key)

    def mend(rows: str) -> list[str]:
        now = rows_of(spec, f"(SELECT * FROM \0 n WHERE n.{id} IN (SELECT c.{id} FROM {rows} c))")
        same = f"n.{id} = c.{id} AND n.{key} IS NOT DISTINCT FROM c.{key}"
        gone = rows_of(spec, f"(SELECT * FROM {rows} c WHERE NOT EXISTS (SELECT FROM \0 n WHERE {same}))")
        written = f"FROM {rows} c WHERE to_jsonb(c)->>{literal(spec.id)} = r.doc"
        image = f"(SELECT convert_to(to_jsonb(c)::text, 'UTF8') {written})" if spec.before else "NULL"
        sql = [f"{into}0, r.doc, r.key, convert_to(r.body::text, 'UTF8'), {image} FROM {now} r, {origin}"]
        if rows == "changed":
            sql[0] += " WHERE NOT EXISTS (SELECT FROM changed c WHERE to_jsonb(c) = r.body)"
            sql.insert(0, f"{into}1, r.doc, r.key, NULL, {old} FROM {gone} r, {origin}")
        texts = [literal(one.replace("%", "%%").replace("\0", "%1$s")) for one in sql]
        run = "; ".join(f"EXECUTE format({text}, TG_RELID::regclass)" for text in texts)
        # One condition, for a second one costs each writer as much as all the rest (measured: 25 of 53 µs).
        found = "pg_trigger_depth() > 1 OR current_setting('tidemill.nested', true) = 'yes'"
        return [f"IF {found} THEN PERFORM set_config('tidemill.nested', 'yes', true); {run}; END IF"]

    return mend


def function(names: Names, spec: TableSpec, what: str, statements: Sequence[str]) -> str:
    body = "".join(f"    {statement};\n" for statement in statements)
    return (
        f"CREATE OR REPLACE FUNCTION {names.capture(spec.name, what)}() RETURNS trigger LANGUAGE plpgsql"
        f" SECURITY DEFINER SET search_path = pg_catalog AS $tidemill$\nBEGIN\n{body}    RETURN NULL;\nEND $tidemill$"
    )


def rows_of(spec: TableSpec, table: str) -> str:
    """The rows of a table with id, key and body. `OFFSET 0`: each row is made JSON once. No key: the id."""
    id, key = f"b->>{literal(spec.id)}", f"b->>{literal(spec.key)}"
    return (
        f"(SELECT coalesce({id}, '') AS doc, coalesce({key}, {id}, '') AS key, b AS body"
        f" FROM (SELECT to_jsonb(t) AS b FROM {table} t OFFSET 0) x OFFSET 0)"
    )


# --- in the database ----------------------------------------------------------------------------------------


async def install(link: Link, names: Names, spec: TableSpec) -> None:
    """Make the triggers of a table and its members, or make them anew when they differ."""
    members = await check(link, spec)
    there = await existing(link, names, spec)
    declared = await is_declared(link, names, spec)
    plain = len(members) == 1
    wanted = {member: triggers(names, spec, member, kind, plain=plain) for member, kind in members}
    differing = [one for one in wanted if not declared or there.get(one, {}).keys() != wanted[one].keys()]
    differing += there.keys() - wanted.keys()  # was a member once, or the table of another declaration
    dropping = any(one in there for one in differing)
    await lock(link, spec, differing, "ACCESS EXCLUSIVE" if dropping else "SHARE ROW EXCLUSIVE")
    for table in differing:
        for name in there.get(table, ()):
            await link.execute(f"DROP TRIGGER {quoted(name)} ON {table}")
        for sql in wanted.get(table, {}).values():
            await link.execute(sql)
    if not declared:
        await link.execute(
            f"UPDATE {names.schema}.source SET table_name = $2, id_column = $3, key_column = $4, before = $5"
            " WHERE name = $1",
            *declaration(spec),
        )


async def lock(link: Link, spec: TableSpec, members: Sequence[str], mode: str) -> None:
    """Wait for who has written the table, but not for long."""
    try:
        await link.execute(f"SET LOCAL lock_timeout = '{LOCKED}'")
        for member in members:
            await link.execute(f"LOCK TABLE ONLY {member} IN {mode} MODE")
        await link.execute("SET LOCAL lock_timeout TO DEFAULT")
    except asyncpg.LockNotAvailableError:
        raise Unavailable(
            f"{spec.name}: table {spec.table!r} is in use by a transaction that stays open, so its triggers could not"
            f" be made within {LOCKED}; it is tried again at the next start"
        ) from None


async def installed(link: Link, names: Names, spec: TableSpec) -> bool:
    """Whether all triggers are there and made for this declaration. Raises for a table that cannot be captured."""
    members = await check(link, spec)
    there = await existing(link, names, spec)
    plain = len(members) == 1
    wanted = {member: triggers(names, spec, member, kind, plain=plain).keys() for member, kind in members}
    return {table: found.keys() for table, found in there.items()} == wanted and await is_declared(link, names, spec)


async def is_declared(link: Link, names: Names, spec: TableSpec) -> bool:
    """Whether what is there was made for this declaration."""
    return bool(await link.fetchval(DECLARED.format(s=names.schema), *declaration(spec)))


def declaration(spec: TableSpec) -> tuple[str, str, str, str, bool]:
    return spec.name, spec.table, spec.id, spec.key, spec.before


async def existing(link: Link, names: Names, spec: TableSpec) -> dict[str, dict[str, bool]]:
    """The triggers of this feed by table, and whether they fire."""
    found: dict[str, dict[str, bool]] = {}
    wanted = [trigger(names, spec, what) for what in WHATS]
    for table, name, fires in await link.fetch(TRIGGERS, names.schema, wanted):
        found.setdefault(table, {})[name] = fires
    return found


def trigger(names: Names, spec: TableSpec, what: str) -> str:
    """The name of a trigger: of its own for each feed in each schema, for several may capture one table."""
    schema = names.schema.strip('"')
    return f"tidemill_{short(spec.name if schema == SCHEMA else f'{schema}_{spec.name}')}_{what}"


def triggers(names: Names, spec: TableSpec, member: str, kind: str, *, plain: bool) -> dict[str, str]:
    """The triggers of a table by name.

    In a plain table each row that changes its id or key fires a trigger of its own, which costs the others nothing.
    An UPDATE that moves rows between the members of a partitioned table fires no such trigger, so there each statement
    compares its rows.
    """
    old, new, each = "OLD TABLE AS former", "NEW TABLE AS changed", "FOR EACH STATEMENT"
    made = {
        "insert": f"AFTER INSERT ON {member} REFERENCING {new} {each}",
        "delete": f"AFTER DELETE ON {member} REFERENCING {old} {each}",
    }
    if not plain:
        made["rekey"] = f"AFTER UPDATE ON {member} REFERENCING {old} {new} {each}"
    else:
        id, key = quoted(spec.id), quoted(spec.key)
        tables = f"{old} {new}" if spec.before else new
        made["update"] = f"AFTER UPDATE ON {member} REFERENCING {tables} {each}"
        made["moved"] = (
            f"AFTER UPDATE ON {member} FOR EACH ROW"
            f" WHEN (OLD.{id} IS DISTINCT FROM NEW.{id} OR OLD.{key} IS DISTINCT FROM NEW.{key})"
        )
    if kind != "p":
        made["truncate"] = f"BEFORE TRUNCATE ON {member} {each}"
    return {
        trigger(names, spec, what): f"CREATE TRIGGER {quoted(trigger(names, spec, what))} {when}"
        f" EXECUTE FUNCTION {names.capture(spec.name, what)}()"
        for what, when in made.items()
    }


async def check(link: Link, spec: TableSpec) -> list[tuple[str, str]]:
    """The table and its members with their kinds. Raises when it cannot be captured."""
    try:
        kind = await link.fetchval("SELECT relkind::text FROM pg_class WHERE oid = to_regclass($1)", spec.table)
    except BAD_NAME as error:
        raise ConfigurationError(f"{spec.name}: there is no table {spec.table!r}: {error}") from error
    if kind is None:
        known = await link.fetch(
            "SELECT c.oid::regclass::text FROM pg_class c WHERE relkind IN ('r', 'p')"
            " AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'tidemill')"
        )
        raise ConfigurationError(
            f"{spec.name}: there is no table {spec.table!r}{near(spec.table, [r[0] for r in known])}"
        )
    if kind not in ("r", "p"):
        raise ConfigurationError(f"{spec.name}: {spec.table!r} is a view or a foreign table; name the table itself")
    members = [(row[0], row[1]) for row in await link.fetch(MEMBERS, spec.table)]
    await backfill.key_of(link, spec)
    columns = {
        row[0]
        for row in await link.fetch(
            "SELECT attname FROM pg_attribute WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped",
            spec.table,
        )
    }
    for column in (spec.id, spec.key):
        if column not in columns:
            raise ConfigurationError(
                f"{spec.name}: table {spec.table!r} has no column {column!r}{near(column, sorted(columns))}"
            )
    return members


def near(name: str, known: Sequence[str]) -> str:
    close = get_close_matches(name, known, 3, 0.5) or sorted(known)[:5]
    return f"; did you mean {', '.join(map(repr, close))}?" if close else ""
