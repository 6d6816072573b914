"""How much of a raw sqlite3 loop the queue of the SQLite adapter keeps, in batches of 100 and 500.

Each round fills a fresh file, then drains it, first raw and then through the adapter (and the other way round in
the next round): only ratios of neighbours count. Raw is the plain loop over rows of the same fields: claim by one
UPDATE … RETURNING, then delete by id, each in its own transaction at synchronous FULL, tuples and no objects.

Run: `python -m bench.sqlite_raw [rounds]`.
"""

from __future__ import annotations

import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock
from tidemill.model import Delivery, Done, Message, Outcome, QueueSpec

MESSAGES = 30_000
BODY = b'{"invoice": 4711, "customer": "c-1047", "amount": 129.95, "currency": "EUR", "lines": [1, 2, 3]}'
QUEUE = QueueSpec("bench")


def raw(folder: Path, batch: int) -> float:
    """Messages a second of the raw loop."""
    connection = sqlite3.connect(folder / "raw.db", isolation_level=None)
    connection.executescript(
        """
        PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = OFF;
        CREATE TABLE job (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, queue INTEGER, id TEXT, priority INTEGER, due REAL, owner TEXT,
            attempt INTEGER DEFAULT 0, deliveries INTEGER DEFAULT 0, sent_at REAL, key TEXT, headers TEXT, body BLOB,
            UNIQUE (queue, id));
        CREATE INDEX job_ready ON job (queue, priority DESC, due) WHERE owner IS NULL;
        """
    )
    connection.execute("BEGIN")
    rows = [(f"m-{number}", time.time(), time.time(), BODY) for number in range(MESSAGES)]
    connection.executemany(
        "INSERT INTO job (queue, id, priority, due, sent_at, headers, body) VALUES (1, ?, 0, ?, ?, '', ?)", rows
    )
    connection.execute("COMMIT")
    began = time.perf_counter()
    drained = 0
    while drained < MESSAGES:
        connection.execute("BEGIN IMMEDIATE")
        claimed = connection.execute(
            "UPDATE job SET owner = 'me', deliveries = deliveries + 1 WHERE seq IN"
            " (SELECT seq FROM job WHERE queue = 1 AND owner IS NULL AND due <= ?"
            " ORDER BY priority DESC, due, seq LIMIT ?)"
            " RETURNING seq, id, body, key, headers, priority, sent_at, attempt, deliveries",
            (time.time(), batch),
        ).fetchall()
        connection.execute("COMMIT")
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany("DELETE FROM job WHERE seq = ? AND owner = 'me'", [(row[0],) for row in claimed])
        connection.execute("COMMIT")
        drained += len(claimed)
    seconds = time.perf_counter() - began
    connection.close()
    return MESSAGES / seconds


async def adapter(folder: Path, batch: int) -> float:
    """Messages a second of receive and settle: while one batch is settled the next is received."""
    database = SQLite(folder / "adapter.db", SystemClock())
    await database.open((), (QUEUE,))
    queue = database.queue(QUEUE)
    for start in range(0, MESSAGES, 1000):
        await queue.send([Message("bench", f"m-{start + n}", BODY) for n in range(1000)])
    began = time.perf_counter()
    drained = 0
    held = list[Delivery]()
    while drained < MESSAGES:
        outcomes = [Outcome(delivery, Done()) for delivery in held]
        settled, received = await asyncio.gather(queue.settle(outcomes), queue.receive("me", batch, 0))
        drained += len(settled)
        held = list(received)
    seconds = time.perf_counter() - began
    await database.close()
    return MESSAGES / seconds


def main(rounds: int) -> None:
    for batch in (100, 500):
        ratios = []
        for number in range(rounds):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                if number % 2:
                    ours, theirs = asyncio.run(adapter(folder, batch)), raw(folder, batch)
                else:
                    theirs, ours = raw(folder, batch), asyncio.run(adapter(folder, batch))
            ratios.append(ours / theirs)
            print(f"batch {batch}: raw {theirs:9,.0f}/s  adapter {ours:9,.0f}/s  ratio {ours / theirs:.2f}")
        print(f"batch {batch}: median ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
