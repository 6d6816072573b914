"""What the capture of a table costs who writes it: `pgbench` with one updated row a transaction, and a bulk UPDATE.

The server waits for its disk (fsync and synchronous_commit on). In turns, ABAB: the same statements on a table with
capture and on one without. Every captured change must be in the log. Two writers wait for the disk most of the time;
with eight, commits share their flushes, and on a small machine with a fast disk the processors are what they wait for.
Both are told.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg

from tests.servers.postgres import Postgres as Server
from tidemill.adapters.postgres import Postgres
from tidemill.engine.clock import SystemClock
from tidemill.model import TableSpec

ROWS = 50_000
TABLE = """
CREATE TABLE {name} (id int PRIMARY KEY, customer int NOT NULL, n bigint NOT NULL DEFAULT 0, pad text NOT NULL)
    WITH (fillfactor = 80)
"""
FILL = "INSERT INTO {name} SELECT i, i % 1000, 0, repeat('x', 280) FROM generate_series(1, $1::int) i"
SCRIPT = "\\set id random(1, {rows})\nUPDATE {name} SET n = n + 1 WHERE id = :id;\n"


async def prepare(url: str) -> None:
    link = await asyncpg.connect(url)
    for name in ("plain", "captured"):
        await link.execute(TABLE.format(name=name))
        await link.execute(FILL.format(name=name), ROWS)
    await link.close()
    database = Postgres.from_url(url, SystemClock())
    await database.open([TableSpec("captured", "public.captured", "id", "customer")], [])
    await database.close()


def tps(server: Server, url: str, name: str, seconds: int, clients: int) -> float:
    """Transactions a second of pgbench."""
    with TemporaryDirectory() as folder:
        script = Path(folder) / "one.sql"
        script.write_text(SCRIPT.format(rows=ROWS, name=name))
        done = subprocess.run(
            [server.bin / "pgbench", "-n", "-M", "prepared", "-c", str(clients), "-j", "1", "-T", str(seconds),
             "-f", script, url],
            check=True, capture_output=True, text=True, timeout=seconds + 60,
        )  # fmt: skip
    [line] = [line for line in done.stdout.splitlines() if line.startswith("tps")]
    return float(line.split()[2])


async def bulk(url: str, name: str, memory: str) -> float:
    """Seconds of one UPDATE of all rows, beginning on a clean table."""
    link = await asyncpg.connect(url, server_settings={"work_mem": memory})
    await link.execute(f"VACUUM {name}")
    await link.execute("CHECKPOINT")
    began = time.perf_counter()
    await link.execute(f"UPDATE {name} SET n = n + 1", timeout=120)
    seconds = time.perf_counter() - began
    await link.close()
    return seconds


async def missing(url: str) -> int:
    """Updates that are not in the log."""
    link = await asyncpg.connect(url)
    updates = await link.fetchval("SELECT sum(n) FROM captured")
    logged = await link.fetchval("SELECT count(*) FROM tidemill.log_captured")
    await link.close()
    return int(updates - logged)


FEW, MANY = 2, 8
"""Writers at once: bound by the disk, bound by the processors."""


FITS, SPILLS = "64MB", "4MB"
"""work_mem of the writer: the rows of the statement, 16 MB, stay in memory or go by a temporary file."""


def run(server: Server, url: str, rounds: int, *, seconds: int = 4) -> dict[str, Any]:
    """Medians of the rounds."""
    asyncio.run(prepare(url))
    rates: dict[tuple[str, int], list[float]] = {(n, c): [] for n in ("plain", "captured") for c in (FEW, MANY)}
    bulks: dict[tuple[str, str], list[float]] = {(n, m): [] for n in ("plain", "captured") for m in (FITS, SPILLS)}
    for _ in range(rounds):
        for memory in (FITS, SPILLS):
            for name in ("plain", "captured"):
                bulks[name, memory].append(asyncio.run(bulk(url, name, memory)))
    for clients in (FEW, MANY):
        for _ in range(rounds):
            for name in ("plain", "captured"):
                rates[name, clients].append(tps(server, url, name, seconds, clients))
    cost = {c: cost_of(rates["plain", c], rates["captured", c]) for c in (FEW, MANY)}
    row = {
        m: statistics.median((b - a) / ROWS * 1e6 for a, b in zip(bulks["plain", m], bulks["captured", m], strict=True))
        for m in (FITS, SPILLS)
    }
    return {
        "plain tps, 2 writers": statistics.median(rates["plain", FEW]),
        "captured tps, 2 writers": statistics.median(rates["captured", FEW]),
        "% of the tps, bound by fsync (≤ 30)": cost[FEW],
        "plain tps, 8 writers": statistics.median(rates["plain", MANY]),
        "% of the tps, bound by the processors": cost[MANY],
        "bulk UPDATE: µs a row (≤ 8)": row[FITS],
        "bulk UPDATE that spills (work_mem 4 MB): µs a row": row[SPILLS],
        "lost": asyncio.run(missing(url)),
    }


def cost_of(plain: list[float], captured: list[float]) -> float:
    """Median percentage that is lost, turn by turn."""
    return 100 * statistics.median(1 - b / a for a, b in zip(plain, captured, strict=True))
