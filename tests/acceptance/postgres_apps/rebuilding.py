"""The accounts of pgbench, written once more into a table of our own by a handler with its own connections."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.acceptance.journal import Journal
from tidemill import App, Change, Deletion

PUT = """
INSERT INTO rebuilt.accounts SELECT * FROM jsonb_populate_recordset(NULL::rebuilt.accounts, $1::text::jsonb)
ON CONFLICT (aid) DO UPDATE SET bid = excluded.bid, abalance = excluded.abalance, filler = excluded.filler
"""
DELETE = "DELETE FROM rebuilt.accounts WHERE aid = ANY ($1::int[])"

journal = Journal(os.environ["JOURNAL"])
pools: list[asyncpg.Pool] = []


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["TIDEMILL_DATABASE"], min_size=1, max_size=4) as pool:
        pools.append(pool)
        yield
        pools.clear()


app = App("rebuilding", lifespan=lifespan)
accounts = app.table("pgbench_accounts", id="aid", table="public.pgbench_accounts")


@app.on_change(accounts, start="beginning", batch=500, concurrency=2)
async def rebuild(changes: list[Change[dict[str, Any]] | Deletion[dict[str, Any]]]) -> None:
    """The last change of each row that is in here, in one transaction."""
    last = {int(change.document): change for change in changes}
    gone = [aid for aid, change in last.items() if isinstance(change, Deletion)]
    rows = [change.value for change in last.values() if isinstance(change, Change)]
    async with pools[0].acquire() as link, link.transaction():
        await link.execute(PUT, json.dumps(ordered(rows)))
        if gone:
            await link.execute(DELETE, gone)
    journal.note("applied", len(changes), len(gone))


def ordered(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Two calls lock their rows one after the other, never crosswise."""
    return sorted(rows, key=lambda row: int(row["aid"]))
