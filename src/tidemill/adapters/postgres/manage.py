"""`tidemill schema`: each is one connection for one transaction, whatever processes are running."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from tidemill.adapters.postgres import inspection, removal, rights, schema
from tidemill.adapters.postgres.address import Address
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names
from tidemill.adapters.postgres.pool import Pool
from tidemill.model import Contents, Piece, QueueSpec, Source


async def apply(
    address: Address, sources: Sequence[Source], queues: Sequence[QueueSpec], role: str | None
) -> list[Piece]:
    """Make what is missing, and give a role the rights of a worker."""
    names = Names(address.schema)
    wanted = schema.items(names, sources, queues)
    async with _link(address) as link:
        found = await schema.make(link, names, wanted, sources)
        if role is not None:
            made = await rights.grant(link, names, schema.statements(wanted), sources, rights.checked(role))
            told = f"has the rights of a worker; give it to their login: GRANT {role} TO …"
            found.append(Piece(f"role {role}", "made" if made else "there", told))
    return found


async def check(address: Address, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> list[Piece]:
    names = Names(address.schema)
    async with _link(address) as link:
        return [piece async for piece in inspection.look(link, address, names, sources, queues)]


async def contents(address: Address) -> Contents:
    async with _link(address) as link:
        return await removal.contents(link, Names(address.schema))


async def drop(address: Address) -> None:
    async with _link(address) as link:
        await removal.drop(link, Names(address.schema))


@asynccontextmanager
async def _link(address: Address) -> AsyncIterator[Link]:
    pool = Pool(address, "schema", 1)
    await pool.open()
    try:
        async with pool.transaction(opening=True) as link:
            yield link
    finally:
        await pool.close()
