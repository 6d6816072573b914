"""Everything as a script for psql: what a start would make, for databases where only administrators may make things.

It may be run again, and is one transaction. It takes the same lock as a start does, refuses what a start refuses, and
leaves the same marks, so that processes started afterwards find everything there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tidemill.adapters.postgres import capture, rights, schema
from tidemill.adapters.postgres.names import Names, literal, quoted
from tidemill.model import FORMAT, QueueSpec, Source, TableSpec

MEMBER = "\0"


def script(names: Names, sources: Sequence[Source], queues: Sequence[QueueSpec], role: str) -> str:
    """For these declarations, with the rights of a role."""
    return "".join(_lines(names, sources, queues, role))


def _lines(names: Names, sources: Sequence[Source], queues: Sequence[QueueSpec], role: str) -> Iterator[str]:
    wanted = schema.items(names, sources, queues)
    yield f"-- Tidemill in schema {names.schema}. It may be run again: psql -v ON_ERROR_STOP=1 -f FILE DATABASE\n"
    yield "BEGIN;\nSET LOCAL client_min_messages = warning;\n"
    yield from _part("One at a time, on a server that is new enough, in a schema that is ours", [_guard(names)])
    for item in wanted:
        mark = (
            f"INSERT INTO {names.schema}.made VALUES ({literal(item.name)}, '{item.digest}')"
            " ON CONFLICT (item) DO UPDATE SET digest = excluded.digest"
        )
        yield from _part(_title(item.name), [*item.statements, mark])
    if sources:
        yield from _part("The partitions of a feed stay what they were", [_partitions(names, sources)])
    for source in sources:
        if isinstance(source, TableSpec):
            yield from _part(f"Capture of table {source.table}", [triggers(names, source), _registered(names, source)])
    yield from _rights(names, wanted, sources, role)
    yield "\nCOMMIT;\n"


def _part(title: str, statements: Sequence[str]) -> Iterator[str]:
    yield f"\n-- {_one_line(title)}\n"
    for statement in statements:
        yield f"{statement.strip()};\n"


def _title(item: str) -> str:
    return "What all parts share" if item == "base" else item.capitalize()


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _rights(names: Names, wanted: Sequence[schema.Item], sources: Sequence[Source], role: str) -> Iterator[str]:
    yield from _part(f"The role of workers; give it to their login: GRANT {quoted(role)} TO …", [rights.role_sql(role)])
    yield from _part("What it may do here", rights.grants(names, schema.statements(wanted), sources, role))
    for source in sources:
        if isinstance(source, TableSpec):
            title = (
                f"Table {source.table} is read once to copy the rows it has into the feed. Each is locked meanwhile,"
                " which takes the right to update a column"
            )
            yield from _part(title, rights.table_grants(source, role))


def _guard(names: Names) -> str:
    s = names.schema
    return _block(
        f"PERFORM pg_advisory_xact_lock(hashtext('tidemill schema'), hashtext({literal(s)}));\n"
        f"    IF current_setting('server_version_num')::int < {schema.OLDEST} THEN\n"
        f"        {_raise('this server is too old: PostgreSQL 13 or newer is needed')}\n    END IF;\n"
        f"    IF to_regclass({literal(f'{s}.made')}) IS NULL THEN\n"
        f"        IF EXISTS (SELECT FROM pg_class WHERE relnamespace = to_regnamespace({literal(s)})) THEN\n"
        f"            {_raise(f'schema {s} is there already and is not ours')}\n        END IF;\n"
        f"    ELSIF (SELECT value::int FROM {s}.meta WHERE name = 'format') > {FORMAT} THEN\n"
        f"        {_raise(f'schema {s} was written by a newer release')}\n    END IF;"
    )


def _partitions(names: Names, sources: Sequence[Source]) -> str:
    rows = ", ".join(f"({literal(source.name)}, {source.partitions})" for source in sources)
    return _block(
        f"IF EXISTS (SELECT FROM {names.schema}.source JOIN (VALUES {rows}) AS declared (name, partitions)"
        f" USING (name) WHERE source.partitions <> declared.partitions) THEN\n"
        f"        {_raise('a feed was made with another number of partitions: declare that one')}\n    END IF;"
    )


def _registered(names: Names, spec: TableSpec) -> str:
    columns = f"{literal(spec.table)}, {literal(spec.id)}, {literal(spec.key)}, {spec.before}"
    return (
        f"UPDATE {names.schema}.source SET (table_name, id_column, key_column, before) = ({columns})"
        f" WHERE name = {literal(spec.name)}"
    )


def triggers(names: Names, spec: TableSpec) -> str:
    """The triggers of the table and of all members that it has when this is run."""
    drop = "".join(
        f"        {_execute(f'DROP TRIGGER IF EXISTS {quoted(capture.trigger(names, spec, what))} ON {MEMBER}')}"
        for what in capture.WHATS
    )
    plain, split = (capture.triggers(names, spec, MEMBER, "r", plain=one).values() for one in (True, False))
    truncate = "        IF member.kind <> 'p' THEN\n    {}        END IF;\n"

    def create(found: Sequence[str]) -> str:
        lines = [f"        {_execute(sql)}" for sql in found]
        return "".join(truncate.format(line) if "TRUNCATE ON" in line else line for line in lines)

    missing = _raise(f"{spec.name}: there is no table {spec.table}; make it first")
    members = (
        _one_line(capture.MEMBERS.replace("$1", literal(spec.table)))
        .replace("c.relkind::text", "c.relkind::text AS kind")
        .replace("m.oid::regclass::text,", "m.oid::regclass::text AS name,")
    )
    return (
        "DO $tidemill$\nDECLARE\n    member record;\n    many int;\nBEGIN\n"
        f"    IF to_regclass({literal(spec.table)}) IS NULL THEN\n        {missing}\n    END IF;\n"
        f"    SELECT count(*) INTO many FROM ({members}) m;\n"
        f"    FOR member IN {members} LOOP\n{drop}"
        f"        IF many = 1 THEN\n{create([*plain])}        ELSE\n{create([*split])}        END IF;\n"
        "    END LOOP;\nEND $tidemill$"
    )


def _execute(sql: str) -> str:
    return f"EXECUTE format({literal(sql.replace('%', '%%').replace(MEMBER, '%s'))}, member.name);\n"


def _raise(told: str) -> str:
    return f"RAISE EXCEPTION '%', {literal(told)};"


def _block(body: str) -> str:
    return f"DO $tidemill$ BEGIN\n    {body}\nEND $tidemill$"
