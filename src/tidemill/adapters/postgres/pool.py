"""Connections: few, named by what they are for, and never waited for longer than a few seconds.

asyncpg's pool replaces what was lost by itself. Whoever calls gets `Unavailable` meanwhile: tries again are the
engine's business. Behind a transaction pooler each call is a transaction with unnamed statements, so nothing is
expected of a connection afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from tidemill.adapters.postgres.address import Address
from tidemill.adapters.postgres.faults import DRIVER, translate
from tidemill.adapters.postgres.link import Link, Row
from tidemill.errors import Unavailable

CONNECT = 5.0
"""Seconds until a connection must be there."""

CALL = 60.0
"""Seconds until a statement must have ended."""


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that needs no cleaning: nobody here leaves anything in it."""

    def get_reset_query(self) -> str:
        return ""


class Pool:
    """At most `size` connections for one purpose."""

    def __init__(self, address: Address, purpose: str, size: int, *, limit: float = CALL) -> None:
        self._address = address
        self._purpose = purpose
        self._size = size
        self._limit = limit
        self._pool: Any = None
        self._giving: set[asyncio.Future[Any]] = set()

    async def open(self) -> None:
        """Connect once, so that a mistake in the configuration is told at the start."""
        if self._pool is not None:
            return
        # min_size=0: asyncpg logs a traceback for each try to keep a number of connections while the server is away.
        pool = asyncpg.create_pool(
            self._address.dsn, min_size=0, max_size=self._size, max_inactive_connection_lifetime=300.0,
            **options(self._address, self._purpose), command_timeout=self._limit,
        )  # fmt: skip
        try:
            await pool
            async with pool.acquire(timeout=CONNECT):
                pass
        except Exception as error:
            pool.terminate()
            raise translate(error, self._address.shown, opening=True) from error
        self._pool = pool

    async def close(self) -> None:
        """Wait for what runs, but not for long."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CONNECT)
        except (*DRIVER, TimeoutError):
            pool.terminate()

    @asynccontextmanager
    async def link(self, *, opening: bool = False) -> AsyncIterator[Link]:
        """A connection, for a moment. Errors are translated."""
        pool = self._pool
        if pool is None:
            raise Unavailable(f"{self._address.shown}: not open")
        try:
            found: Link = await self._acquire(pool)  # a proxy with the same methods
            try:
                yield found
            finally:
                await _give_back(pool, found)
        except Exception as error:
            raise translate(error, self._address.shown, opening=opening) from error

    async def _acquire(self, pool: Any) -> Any:
        """A connection that lies ready, or else a new one. asyncpg leaves an error behind, which asyncio logs, when it
        is cancelled while it connects: so that goes on, and the next who asks has it."""
        if pool.get_idle_size():
            return await pool.acquire(timeout=CONNECT)
        connecting = asyncio.ensure_future(pool.acquire(timeout=CONNECT))
        try:
            return await asyncio.shield(connecting)
        except asyncio.CancelledError:
            connecting.add_done_callback(self._returned)
            raise

    def _returned(self, connecting: asyncio.Future[Any]) -> None:
        """Give back what nobody waits for any more."""
        if connecting.cancelled() or connecting.exception() is not None or self._pool is None:
            return
        giving = asyncio.ensure_future(_give_back(self._pool, connecting.result()))
        self._giving.add(giving)
        giving.add_done_callback(self._giving.discard)

    @asynccontextmanager
    async def transaction(self, *, opening: bool = False) -> AsyncIterator[Link]:
        """A connection inside a transaction, committed at the end and rolled back on an error."""
        async with self.link(opening=opening) as link, link.transaction():
            yield link

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Link]:
        """A connection for a single statement: its own transaction, or one around it where a pooler wants it."""
        async with self.link() as link:
            if self._address.pooled:
                async with link.transaction():
                    yield link
            else:
                yield link

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]:
        async with self.one() as link:
            return await link.fetch(sql, *args)

    async def row(self, sql: str, *args: Any) -> Row | None:
        async with self.one() as link:
            return await link.fetchrow(sql, *args)

    async def value(self, sql: str, *args: Any) -> Any:
        async with self.one() as link:
            return await link.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> int:
        """How many rows the statement changed."""
        async with self.one() as link:
            return changed(await link.execute(sql, *args))


async def _give_back(pool: Any, found: Any) -> None:
    """asyncpg gives back in a task of its own, and calls it a fault of its own when the connection is lost before that
    task runs: the pool has it back by then. What is lost while it is given back is replaced by the next who asks."""
    with suppress(*DRIVER):
        await pool.release(found)


def options(address: Address, purpose: str) -> dict[str, Any]:
    """What every connection of ours is made with."""
    settings = {"application_name": f"tidemill {purpose}"}
    if not address.pooler:  # a pooler refuses settings that it does not know
        settings["jit"] = "off"  # plans of ours are short, and compiling them is not
        settings["enable_seqscan"] = "off"  # plans are kept, and tables grow meanwhile
        settings["default_transaction_isolation"] = "read committed"  # statements of ours see what ended before them
    return {
        "timeout": CONNECT,
        "connection_class": _Connection,
        "server_settings": settings,
        "statement_cache_size": 0 if address.pooled else 200,
    }


def changed(tag: str) -> int:
    """The number in a command's tag: `UPDATE 3`."""
    *_, last = tag.split()
    return int(last) if last.isdecimal() else 0
