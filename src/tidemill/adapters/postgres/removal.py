"""Taking away all that was made: only what is ours, and nothing that somebody else hung on it."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg

from tidemill.adapters.postgres import rights, schema
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, quoted
from tidemill.errors import ConfigurationError, Refused
from tidemill.model import CollectionSpec, Contents, QueueSpec, Source, StreamSpec, TableSpec

PATIENCE = "10s"
"""How long a drop waits for those who use a table."""

FOREIGN = """
SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence'
    WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END || ' ' || oid::regclass
FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind NOT IN ('i', 'I', 't')
    AND oid <> ALL (SELECT to_regclass(x)::oid FROM unnest($2::text[]) x WHERE to_regclass(x) IS NOT NULL)
UNION ALL
SELECT 'function ' || oid::regprocedure FROM pg_proc
WHERE pronamespace = to_regnamespace($1) AND proname <> ALL ($3::text[])
UNION ALL
SELECT 'type ' || oid::regtype FROM pg_type WHERE typnamespace = to_regnamespace($1) AND typtype IN ('d', 'e', 'r')
ORDER BY 1
"""

TRIGGERS = """
SELECT tgrelid::regclass::text, tgname::text FROM pg_trigger JOIN pg_proc f ON f.oid = tgfoid
WHERE f.pronamespace = to_regnamespace($1) AND NOT tgisinternal ORDER BY 1, 2
"""

FUNCTIONS = "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = to_regnamespace($1)"

USERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name IN ('tidemill data', 'tidemill control', 'tidemill watch')
"""


async def contents(link: Link, names: Names) -> Contents:
    """What a drop would take away. Raises for a schema that is not ours."""
    s = names.schema
    if not await link.fetchval("SELECT to_regnamespace($1) IS NOT NULL", s):
        return Contents(s, there=False)
    if not await link.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{s}.made"):
        raise ConfigurationError(f"schema {s} is not ours (it has no table made); nothing was dropped")
    sources, queues = await _declared(link, names)
    tables, functions = _ours(names, sources, queues)
    return Contents(
        s,
        there=True,
        counts=await _counts(link, names, sources, queues),
        triggers=list(dict.fromkeys(row[0] for row in await link.fetch(TRIGGERS, s))),
        users=await link.fetchval(USERS),
        foreign=[row[0] for row in await link.fetch(FOREIGN, s, tables, functions)],
    )


async def drop(link: Link, names: Names) -> None:
    """Take it away, in the transaction of `link`. Raises `Refused` if that would take what is not ours."""
    await link.execute(f"SET LOCAL lock_timeout = '{PATIENCE}'")
    found = await contents(link, names)
    if not found.there:
        return
    if found.foreign:
        raise Refused(
            f"schema {names.schema} holds what is not ours: {', '.join(found.foreign[:5])}; move or drop it first;"
            " nothing was dropped"
        )
    sources, queues = await _declared(link, names)
    tables, _ = _ours(names, sources, queues)
    try:
        for table, name in await link.fetch(TRIGGERS, names.schema):
            await link.execute(f"DROP TRIGGER {quoted(name)} ON {table}")
        sequences = {name for kind, name in _made(names, sources, queues) if kind == "SEQUENCE"}
        await link.execute(f"DROP TABLE IF EXISTS {', '.join(name for name in tables if name not in sequences)}")
        await link.execute(f"DROP SEQUENCE IF EXISTS {', '.join(sorted(sequences))}")
        for (function,) in await link.fetch(FUNCTIONS, names.schema):
            await link.execute(f"DROP FUNCTION {function}")
        await link.execute(f"DROP SCHEMA {names.schema}")
    except asyncpg.DependentObjectsStillExistError as error:
        detail = str(getattr(error, "detail", None) or error).splitlines()[0]
        raise Refused(f"something outside schema {names.schema} needs it: {detail}; nothing was dropped") from None
    except asyncpg.LockNotAvailableError:
        raise Refused(f"somebody uses the tables: stop the workers first; nothing was dropped ({PATIENCE})") from None


async def _declared(link: Link, names: Names) -> tuple[list[Source], list[QueueSpec]]:
    """The declarations as far as names depend on them."""
    sources: list[Source] = []
    queues: list[QueueSpec] = []
    for item in await schema.made_items(link, names):
        what, _, name = item.partition(" ")
        if what == "collection":
            sources.append(CollectionSpec(name))
        elif what == "table":
            sources.append(TableSpec(name, name, "id", "id"))
        elif what == "stream":
            sources.append(StreamSpec(name, name))
        elif what == "queue":
            queues.append(QueueSpec(name))
    return sources, queues


def _made(names: Names, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> list[tuple[str, str]]:
    return [*rights.made_by(schema.statements(schema.items(names, sources, queues)))]


def _ours(names: Names, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> tuple[list[str], list[str]]:
    """Tables and sequences as SQL names them, and the bare names of functions."""
    made = _made(names, sources, queues)
    tables = [name for kind, name in made if kind != "FUNCTION"]
    return list(dict.fromkeys(tables)), [_bare(name.split(".", 1)[1]) for kind, name in made if kind == "FUNCTION"]


def _bare(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


async def _counts(link: Link, names: Names, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> dict[str, int]:
    tables = {
        "documents": [names.documents(source.name) for source in sources if isinstance(source, CollectionSpec)],
        "changes": [names.log(source.name) for source in sources if not isinstance(source, StreamSpec)],
        "messages": [
            *(names.messages(queue.name) for queue in queues),
            *(names.log(source.name) for source in sources if isinstance(source, StreamSpec)),
        ],
        "dead letters": [names.of("letter")],
        "records": [names.of("record")],
    }
    return {what: sum([await _count(link, name) for name in found]) for what, found in tables.items()}


async def _count(link: Link, table: str) -> int:
    there = await link.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
    return await link.fetchval(f"SELECT count(*) FROM {table}") if there else 0
