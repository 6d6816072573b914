"""How soon a change of a captured table reaches its handler, and what an idle replica asks.

An open-loop writer on a connection of its own writes 100 rows a second and notes the time right after each COMMIT; it
never waits for the handler. The first second is not counted: it is the way out of idleness. Then nothing happens for
some seconds, and one more row is written.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import asyncpg

from bench.rig import rig
from tidemill import App, Change
from tidemill.adapters.postgres import Postgres
from tidemill.engine.clock import SystemClock

RATE = 100
IDLE = 20.0
"""Seconds: some things are asked once in five, so fewer would tell more or less by chance."""
QUERIES = "SELECT xact_commit + xact_rollback FROM pg_stat_database WHERE datname = current_database()"


def app_of(seen: dict[int, float]) -> App:
    app = App("latency")
    rows = app.table("drops", id="id", table="public.drops", partitions=16)

    @app.on_change(rows, concurrency=16, name="watch", start="now")
    async def watch(change: Change[dict[str, Any]]) -> None:
        seen.setdefault(int(change.document), time.perf_counter())

    return app


async def measure(url: str, count: int = 600) -> dict[str, Any]:
    link = await asyncpg.connect(url)
    await link.execute("CREATE TABLE IF NOT EXISTS drops (id bigint PRIMARY KEY, n int)")
    await link.execute("TRUNCATE drops")
    seen: dict[int, float] = {}
    committed: dict[int, float] = {}
    async with rig(app_of(seen), Postgres.from_url(url, SystemClock())) as made:
        made.engine.begin()
        await made.until(lambda: len(made.engine.feeds[0].parts) == 16)
        await asyncio.sleep(1.0)
        began = time.perf_counter()
        for n in range(count):
            await asyncio.sleep(max(0.0, began + n / RATE - time.perf_counter()))
            await link.execute("INSERT INTO drops VALUES ($1, 0)", n)
            committed[n] = time.perf_counter()
        await made.until(lambda: len(seen) >= count, 20)
        await asyncio.sleep(12.0)
        before = await queries(url)
        await asyncio.sleep(IDLE)
        asked = (await queries(url) - before - 1) / IDLE
        await link.execute("INSERT INTO drops VALUES (-1, 0)")
        idle_since = time.perf_counter()
        await made.until(lambda: -1 in seen, 20)
        first = seen[-1] - idle_since
    await link.close()
    waits = sorted((seen[n] - committed[n]) * 1000 for n in range(RATE, count))
    return {
        "p50": statistics.median(waits),
        "p99": waits[int(len(waits) * 0.99)],
        "first after idle": first,
        "queries/s idle": asked,
        "lost": count - len([n for n in range(count) if n in seen]),
    }


async def queries(url: str) -> int:
    """Transactions of this database so far."""
    link = await asyncpg.connect(url)
    await asyncio.sleep(1.2)  # the server tells its figures once a second
    found = await link.fetchval(QUERIES)
    await link.close()
    return int(found)
