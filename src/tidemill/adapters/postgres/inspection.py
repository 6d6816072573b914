"""Looking at what stands in the database, and at the server, without changing anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence

from tidemill.adapters.postgres import capture, rights, schema
from tidemill.adapters.postgres.address import Address
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, quoted
from tidemill.errors import ConfigurationError
from tidemill.model import Piece, QueueSpec, Source, TableSpec

EXTRA = 3
"""Connections of a process beside its pool: two for leases and members, one that looks for news."""

READ_ONLY = (
    "a read-only standby, or default_transaction_read_only is on; name the primary, or add target_session_attrs=primary"
)
APPLY = "run tidemill schema apply"

SERVER = """
SELECT current_setting('server_version_num')::int, current_setting('transaction_read_only') = 'on', current_user::text,
    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int,
    nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1),
    nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1)
"""

CLOSED = """
SELECT NOT has_schema_privilege(n.oid, 'USAGE') OR coalesce(NOT has_table_privilege(c.oid, 'SELECT'), false)
FROM pg_namespace n LEFT JOIN pg_class c ON relnamespace = n.oid AND relname = 'made'
WHERE n.oid = to_regnamespace($1)
"""

RISKS = {
    "fsync": "a crash of the machine may destroy the database: turn it on",
    "full_page_writes": "a crash of the machine may destroy the database: turn it on",
    "autovacuum": "tables grow without end: turn it on",
    "synchronous_commit": "a crash may forget a lease, and two replicas do the same work: turn it on for this database",
    "track_counts": "autovacuum needs it: turn it on",
}
"""What goes wrong with a setting that is off."""


async def look(
    link: Link, address: Address, names: Names, sources: Sequence[Source], queues: Sequence[QueueSpec]
) -> AsyncIterator[Piece]:
    """Everything a start needs, one line each."""
    row = await link.fetchrow(SERVER)
    assert row is not None
    version, fixed, user, slots, *limits = row
    yield _version(version)
    if version < schema.OLDEST:
        return
    if fixed:
        yield Piece("server", "problem", READ_ONLY)
    wanted = schema.items(names, sources, queues)
    lacking = await rights.lacking(link, names, schema.statements(wanted), sources)
    if lacking:
        yield _rights(user, lacking)
    if await link.fetchval(CLOSED, names.schema):
        return  # nothing in it can be looked at
    try:
        made = await schema.made_items(link, names)
    except ConfigurationError as error:
        yield Piece("format", "problem", str(error))
        return
    for item in wanted:
        yield _item(item, made.get(item.name))
    if not made and await link.fetchval("SELECT to_regnamespace($1) IS NOT NULL", names.schema):
        try:
            await schema.check_ours(link, names, wanted[0])
        except ConfigurationError as error:
            yield Piece("schema", "problem", str(error))
    for source in sources:
        for piece in await _source(link, names, source, made_before="base" in made):
            yield piece
    if not lacking:
        yield Piece("rights", "ok", f"{user} may do all that a worker does" if made else "seen once the schema is made")
    yield _connections(address, min([slots, *(limit for limit in limits if limit is not None)]))
    for name, why in RISKS.items():
        if await link.fetchval("SELECT current_setting($1)", name) == "off":
            yield Piece("server", "warning", f"{name} is off: {why}")


def _version(version: int) -> Piece:
    shown = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    if version < schema.OLDEST:
        return Piece("server", "problem", f"{shown} is too old: 13 or newer is needed")
    return Piece("server", "ok", shown)


def _item(item: schema.Item, digest: str | None) -> Piece:
    if digest is None:
        return Piece(item.name, "problem", f"missing: {APPLY}")
    return Piece(item.name, "ok") if digest == item.digest else Piece(item.name, "problem", f"differs: {APPLY}")


async def _source(link: Link, names: Names, source: Source, *, made_before: bool) -> list[Piece]:
    """How it stands with a feed's partitions, and with its table's triggers."""
    found: list[Piece] = []
    if made_before:
        stored = await link.fetchval(f"SELECT partitions FROM {names.schema}.source WHERE name = $1", source.name)
        if stored not in (None, source.partitions):
            told = (
                f"declared with partitions={source.partitions}, but its feed was made with {stored}: declare {stored}"
            )
            found.append(Piece(source.name, "problem", told))
    if isinstance(source, TableSpec):
        try:
            members = await capture.check(link, source)
        except ConfigurationError as error:
            return [*found, Piece(f"table {source.table}", "problem", str(error))]
        there = await capture.existing(link, names, source)
        found += _triggers(names, source, members, there)
    return found


def _triggers(
    names: Names, source: TableSpec, members: Sequence[tuple[str, str]], there: dict[str, dict[str, bool]]
) -> Iterator[Piece]:
    for member, kind in members:
        wanted = capture.triggers(names, source, member, kind, plain=len(members) == 1)
        here, what = there.get(member, {}), schema.triggers_of(source, member)
        off = sorted(name for name, on in here.items() if not on)
        if not here:
            yield Piece(what, "problem", f"missing, its changes are not seen: {APPLY}")
        elif here.keys() != wanted.keys():
            yield Piece(what, "problem", f"differ: {APPLY}")
        elif off:
            told = f"disabled, its changes are not seen: ALTER TABLE {member} ENABLE TRIGGER {quoted(off[0])}"
            yield Piece(what, "problem", told)
        else:
            yield Piece(what, "ok")


def _rights(user: str, lacking: Sequence[str]) -> Piece:
    more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
    told = (
        f"{user} has not {', '.join(lacking[:3])}{more}: tidemill schema apply --role NAME, then GRANT NAME TO {user}"
    )
    return Piece("rights", "problem", told)


def _connections(address: Address, slots: int) -> Piece:
    most = address.pool + EXTRA
    if address.pooled:
        return Piece("connections", "ok", f"at most {most} to the pooler by each process")
    told = f"at most {most} by each process, of {slots} that the server gives"
    if most * 2 > slots:
        told += "; two processes do not fit: lower ?pool= in the URL, or raise max_connections"
    return Piece("connections", "warning" if most * 2 > slots else "ok", told)
