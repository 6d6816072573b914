"""Making and checking what stands in the database: each item is made once and again when its text changed.

Items are `base`, and `collection …`, `table …`, `queue …` for what is declared. The digest of an item's text stands in
`made`, so a start that finds all of them needs no right to make anything. Only one process makes things at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import asyncpg

from tidemill.adapters.postgres import capture, ddl, ddl_queue
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, literal
from tidemill.errors import ConfigurationError, FormatTooNew
from tidemill.model import FORMAT, CollectionSpec, Piece, QueueSpec, Source, StreamSpec, TableSpec

OLDEST = 130_000
"""The oldest server this is written for: 13, the first with `pg_current_snapshot` and `xid8`."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be made by statements that may be run again."""

    name: str
    statements: tuple[str, ...]

    @property
    def digest(self) -> str:
        return blake2b("\0".join(self.statements).encode(), digest_size=8).hexdigest()


def items(names: Names, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> list[Item]:
    """Everything these declarations need, in the order in which it is made."""
    found = [Item("base", tuple(ddl.base(names)))]
    for source in sources:
        made = ddl.feed(names, source)
        if isinstance(source, StreamSpec):
            found.append(Item(f"stream {source.name}", (*made, *ddl_queue.dedup(names))))
        elif isinstance(source, CollectionSpec):
            found.append(Item(f"collection {source.name}", (*made, *ddl.documents(names, source))))
        else:
            found.append(Item(f"table {source.name}", (*made, *capture.functions(names, source))))
    found += [
        Item(f"queue {queue.name}", tuple(ddl_queue.queue(names, queue))) for queue in queues if queue.key is None
    ]
    return found


def statements(wanted: Iterable[Item]) -> list[str]:
    return [statement for item in wanted for statement in item.statements]


async def missing(link: Link, names: Names, wanted: Sequence[Item]) -> list[Item]:
    """What is not there, or not as it should be. Raises for a server or a format that cannot be used."""
    version = int(await link.fetchval("SELECT current_setting('server_version_num')"))
    if version < OLDEST:
        raise ConfigurationError(f"PostgreSQL {version // 10_000} is too old: 13 or newer is needed")
    if await link.fetchval("SELECT current_setting('transaction_read_only')") == "on":
        raise asyncpg.ReadOnlySQLTransactionError("nothing can be written here")
    made = await made_items(link, names)
    return [item for item in wanted if made.get(item.name) != item.digest]


async def made_items(link: Link, names: Names) -> Mapping[str, str]:
    """The items in the database, with their digests."""
    if not await link.fetchval("SELECT to_regclass($1) IS NOT NULL", f"{names.schema}.made"):
        return {}
    await check_format(link, names)
    return dict(await link.fetch(f"SELECT item, digest FROM {names.schema}.made"))


async def check_format(link: Link, names: Names) -> None:
    stored = await link.fetchval(f"SELECT value FROM {names.schema}.meta WHERE name = 'format'")
    if stored is not None and int(stored) > FORMAT:
        raise FormatTooNew(
            f"schema {names.schema}: written in format {stored}, this release reads up to {FORMAT};"
            " install the newer one"
        )


async def make(link: Link, names: Names, wanted: Sequence[Item], sources: Sequence[Source]) -> list[Piece]:
    """Make what is missing, inside the transaction of `link`; one process after the other. What was done with each."""
    await link.execute(f"SELECT pg_advisory_xact_lock(hashtext('tidemill schema'), hashtext({literal(names.schema)}))")
    absent = await missing(link, names, wanted)
    made = await made_items(link, names)
    for item in absent:
        await check_ours(link, names, item)
        for statement in item.statements:
            await link.execute(statement)
        await link.execute(
            f"INSERT INTO {names.schema}.made VALUES ($1, $2)"
            " ON CONFLICT (item) DO UPDATE SET digest = excluded.digest",
            item.name,
            item.digest,
        )
    found = [
        Piece(item.name, "there" if item not in absent else "changed" if item.name in made else "made")
        for item in wanted
    ]
    return found + await register(link, names, sources)


async def check_ours(link: Link, names: Names, item: Item) -> None:
    """A schema of this name that is not ours is left alone."""
    if item.name != "base":
        return
    foreign = await link.fetchval(
        "SELECT to_regnamespace($1) IS NOT NULL AND to_regclass($2) IS NULL AND EXISTS"
        " (SELECT FROM pg_class WHERE relnamespace = to_regnamespace($1))",
        names.schema,
        f"{names.schema}.made",
    )
    if foreign:
        raise ConfigurationError(
            f"schema {names.schema} is there already and is not ours; name another with ?schema=… in the URL"
        )


def triggers_of(source: TableSpec, table: str) -> str:
    """In words; a table may have those of several feeds."""
    return f"triggers of {table}" + (f" for {source.name}" if source.name != source.table else "")


async def register(link: Link, names: Names, sources: Sequence[Source]) -> list[Piece]:
    """Check each feed against what its data were made with, and capture the tables."""
    found: list[Piece] = []
    for source in sources:
        stored = await link.fetchval(f"SELECT partitions FROM {names.schema}.source WHERE name = $1", source.name)
        if stored != source.partitions:
            raise ConfigurationError(
                f"{source.name}: declared with partitions={source.partitions}, but its feed was made with {stored};"
                f" declare {stored} (keys would change their partition)"
            )
        if isinstance(source, TableSpec):
            state = "changed" if await capture.existing(link, names, source) else "made"
            if await capture.installed(link, names, source):
                state = "there"
            else:
                await capture.install(link, names, source)
            found.append(Piece(triggers_of(source, source.table), state))
    return found


async def complete(link: Link, names: Names, wanted: Sequence[Item], sources: Sequence[Source]) -> bool:
    """Whether nothing is missing: no right to make anything is needed then."""
    if await missing(link, names, wanted):
        return False
    rows = await link.fetch(f"SELECT name, partitions FROM {names.schema}.source")
    stored = dict(rows)
    if any(stored.get(source.name) != source.partitions for source in sources):
        return False
    tables = [source for source in sources if isinstance(source, TableSpec)]
    return all([await capture.installed(link, names, table) for table in tables])
