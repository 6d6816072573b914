"""What a worker may do in the database, and no more: the rights of its role.

A role without a login has them; the login that a worker uses is a member of it (`GRANT tidemill_worker TO …`), so
passwords and rights change apart from each other. Triggers write the log with their owner's rights, so programs that
write captured tables need none of this.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import asyncpg

from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import SLOTS, Names, literal, quoted
from tidemill.errors import ConfigurationError
from tidemill.model import Source, TableSpec

ROLE = "tidemill_worker"

_PART = r'(?:"(?:[^"]|"")+"|\w+)'
_MADE = re.compile(rf"\s*CREATE (?:OR REPLACE )?(TABLE|SEQUENCE|FUNCTION) (?:IF NOT EXISTS )?({_PART}\.{_PART})")


def made_by(statements: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The tables, sequences and functions that these statements make, with their names as SQL."""
    for statement in statements:
        if found := _MADE.match(statement):
            yield found[1], found[2]


def rights(names: Names, statements: Sequence[str], sources: Sequence[Source]) -> dict[tuple[str, str], str]:
    """What is granted on what these statements make."""
    emptied = {names.log_slot(source.name, slot) for source in sources for slot in range(SLOTS)}
    found = {("SCHEMA", names.schema): "USAGE"}
    for kind, name in made_by(statements):
        if kind == "SEQUENCE":
            found[kind, name] = "USAGE, SELECT, UPDATE"
        elif kind == "TABLE":
            usual = "SELECT, INSERT, UPDATE, DELETE" + (", TRUNCATE" if name in emptied else "")
            found[kind, name] = "SELECT" if name == names.of("made") or name == f"{names.schema}.made" else usual
    for statement in statements:
        for _, name in made_by([statement] if "RETURNS trigger" not in statement else []):
            if statement.lstrip().startswith("CREATE OR REPLACE FUNCTION"):
                found["FUNCTION", name] = "EXECUTE"
    return found


def captured(spec: TableSpec) -> dict[str, str]:
    """What is granted on a table that is captured: to copy the rows it had, a worker reads them and locks each
    against changes meanwhile, which PostgreSQL allows to whoever may update a column. One is enough."""
    return {"SELECT": spec.table, f"UPDATE ({quoted(spec.id)})": spec.table}


def grants(names: Names, statements: Sequence[str], sources: Sequence[Source], role: str) -> list[str]:
    """The statements that give a role, which is there already, what a worker needs in our schema."""
    return [
        f"GRANT {right} ON {kind} {name} TO {quoted(role)}"
        for (kind, name), right in rights(names, statements, sources).items()
    ]


def table_grants(spec: TableSpec, role: str) -> list[str]:
    """Those for a table that is captured."""
    on = f"GRANT USAGE ON SCHEMA %s TO {quoted(role)}".replace("%", "%%").replace("%%s", "%s", 1)
    schema = (
        f"DO $tidemill$ BEGIN EXECUTE format({literal(on)}, (SELECT relnamespace::regnamespace FROM pg_class"
        f" WHERE oid = {literal(spec.table)}::regclass)); END $tidemill$"
    )
    return [schema, *(f"GRANT {right} ON {table} TO {quoted(role)}" for right, table in captured(spec).items())]


def role_sql(role: str) -> str:
    """The role, if it is missing."""
    return (
        f"DO $tidemill$ BEGIN\n    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)}) THEN\n"
        f"        CREATE ROLE {quoted(role)} NOLOGIN;\n    END IF;\n"
        "EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; -- somebody else made it just now\n"
        "END $tidemill$"
    )


def checked(role: str) -> str:
    """Raises `ConfigurationError` for a name that no role can have."""
    if not role or len(role.encode()) > 63 or "\0" in role or role.startswith("pg_"):
        raise ConfigurationError(f"--role {role!r}: write a name of at most 63 letters that does not begin with pg_")
    return role


# --- in the database ----------------------------------------------------------------------------------------


async def grant(link: Link, names: Names, statements: Sequence[str], sources: Sequence[Source], role: str) -> bool:
    """Give a role its rights, and make it if it is missing (True)."""
    there = await link.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role)
    try:
        if not there:
            await link.execute(role_sql(role))
        for statement in grants(names, statements, sources, role):
            await link.execute(statement)
        for source in sources:
            for statement in table_grants(source, role) if isinstance(source, TableSpec) else []:
                await link.execute(statement)
    except asyncpg.InsufficientPrivilegeError as error:
        raise ConfigurationError(
            f"--role {role}: {error}; run it as the owner of the schema and of captured tables, or let an administrator"
            " run what tidemill schema sql prints"
        ) from None
    return not there


LACKING = """
SELECT what, name, word FROM unnest($1::text[], $2::text[], $3::text[]) AS w (what, name, word)
WHERE NOT coalesce(CASE what
    WHEN 'SCHEMA' THEN has_schema_privilege(to_regnamespace(name), word)
    WHEN 'TABLE' THEN has_table_privilege(to_regclass(name), word)
    WHEN 'SEQUENCE' THEN has_sequence_privilege(to_regclass(name), word)
    WHEN 'COLUMN' THEN has_any_column_privilege(to_regclass(name), word)
    WHEN 'FUNCTION' THEN has_function_privilege(to_regproc(name)::oid, word) END, true)
"""
"""What is not there at all is told elsewhere."""


async def lacking(link: Link, names: Names, statements: Sequence[str], sources: Sequence[Source]) -> list[str]:
    """What this login may not do though a worker must: `INSERT on tidemill.record`."""
    wanted = [
        (kind, name, word) for (kind, name), words in rights(names, statements, sources).items()
        for word in words.split(", ")
    ]  # fmt: skip
    for source in sources:
        if isinstance(source, TableSpec):
            wanted += [("TABLE", source.table, "SELECT"), ("COLUMN", source.table, "UPDATE")]
    try:
        async with link.transaction():
            rows = await link.fetch(LACKING, *(list(column) for column in zip(*wanted, strict=True)))
    except asyncpg.InsufficientPrivilegeError as error:  # not even names in a schema can be looked up
        return [f"USAGE on {str(error).removeprefix('permission denied for ')}"]
    return [f"{word} on {'schema ' if what == 'SCHEMA' else ''}{name}" for what, name, word in rows]
