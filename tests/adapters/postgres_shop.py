"""A table of somebody else's on a PostgreSQL server, and a worker that reads its changes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from tests.adapters.postgres_load import connected, opened
from tidemill.adapters.postgres import Postgres
from tidemill.model import Logged, Page, TableSpec

SHOP = TableSpec("parcels", "parcels", id="nr", key="owner", partitions=4)
CREATE = "CREATE TABLE parcels (nr int PRIMARY KEY, owner text, note text)"

Short = list[tuple[str, str, str]]


class Shop:
    """A table of somebody else's, and a worker that reads its changes."""

    def __init__(self, url: str, link: asyncpg.Connection, stack: AsyncExitStack) -> None:
        self.url, self.link = url, link
        self._stack = stack
        self._cursors: dict[str, dict[str, str]] = {}
        self.database: Postgres

    async def open(self, *specs: TableSpec) -> None:
        """Begin to read these from now on, or go on if that was begun."""
        self.database = await self._stack.enter_async_context(opened(self.url, *specs))
        for spec in specs:
            if spec.name not in self._cursors:
                feed = self.database.feed(spec)
                self._cursors[spec.name] = {name: await feed.start(name, "now") for name in await feed.partitions()}

    async def run(self, *statements: str) -> None:
        for statement in statements:
            await self.link.execute(statement)

    async def changes(self, spec: TableSpec = SHOP) -> list[Logged]:
        """What came since the last call, in the order of commits."""
        return await self.read_on(self._cursors[spec.name], spec)

    async def read_on(self, cursors: dict[str, str], spec: TableSpec = SHOP) -> list[Logged]:
        found: list[Logged] = []
        while True:
            pages = await self.database.feed(spec).read(cursors, 400, 0.0)
            read = [change for page in pages.values() if isinstance(page, Page) for change in page.changes]
            cursors |= {name: page.cursor for name, page in pages.items() if isinstance(page, Page)}
            found += read
            if not read:
                return sorted(found, key=lambda change: int(change.id))

    async def short(self, spec: TableSpec = SHOP) -> Short:
        return [(change.kind, change.document, change.key) for change in await self.changes(spec)]


@asynccontextmanager
async def shop_at(url: str) -> AsyncIterator[Shop]:
    async with AsyncExitStack() as stack:
        link = await stack.enter_async_context(connected(url))
        yield Shop(url, link, stack)


def body(change: Logged) -> dict[str, object]:
    found: dict[str, object] = json.loads(change.body or b"null")
    return found


def images(found: Sequence[Logged], field: str) -> list[tuple[str, str, object]]:
    return [(c.kind, c.document, c.before and json.loads(c.before)[field]) for c in found]
