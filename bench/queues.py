"""The SQLite queue, durable (synchronous FULL), a no-op async handler per message; beside Huey and the raw driver.

Each is filled first and then drained, in turn, so that a noisy machine hits all alike. What is counted: messages in,
handler runs, distinct ids; lost and doubled must be 0.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.rig import rig
from tidemill.app.app import App
from tidemill.model import Message


def body(n: int) -> bytes:
    """A message of about 100 bytes with its number."""
    return b'{"n": %d, "text": "%s"}' % (n, b"x" * 80)


def raw(count: int) -> float:
    """Messages a second of a bare loop: claim 100 by UPDATE … RETURNING, delete 100, each in its own commit."""
    with TemporaryDirectory() as folder:
        base = sqlite3.connect(f"{folder}/raw.db", isolation_level=None)
        base.execute("PRAGMA journal_mode=WAL")
        base.execute("PRAGMA synchronous=FULL")
        base.execute("CREATE TABLE job (id INTEGER PRIMARY KEY, claim TEXT, body BLOB)")
        base.execute("CREATE INDEX ready ON job (id) WHERE claim IS NULL")
        base.execute("BEGIN")
        base.executemany("INSERT INTO job (body) VALUES (?)", ((body(n),) for n in range(count)))
        base.execute("COMMIT")
        base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        done = 0
        began = time.perf_counter()
        while done < count:
            base.execute("BEGIN IMMEDIATE")
            rows = base.execute(
                "UPDATE job SET claim = 'me' WHERE id IN "
                "(SELECT id FROM job WHERE claim IS NULL ORDER BY id LIMIT 100) RETURNING id, body"
            ).fetchall()
            base.execute("COMMIT")
            base.execute("BEGIN IMMEDIATE")
            base.executemany("DELETE FROM job WHERE id = ? AND claim = 'me'", ((id,) for id, _ in rows))
            base.execute("COMMIT")
            done += len(rows)
        seconds = time.perf_counter() - began
        base.close()
        return count / seconds


def huey(count: int, *, fsync: bool) -> float:
    """Tasks a second of Huey's SQLite, worked off by its own consumer with four threads, as its docs start it."""
    from huey import SqliteHuey

    with TemporaryDirectory() as folder:
        peer = SqliteHuey("bench", filename=f"{folder}/huey.db", fsync=fsync, results=False)
        ran = 0

        def work(n: int, text: str) -> None:
            nonlocal ran
            ran += 1

        task = peer.task()(work)
        for n in range(count):
            task(n, "x" * 80)
        consumer = peer.create_consumer(workers=4, worker_type="thread", periodic=False, initial_delay=0.01)
        logging.getLogger("huey").setLevel(logging.ERROR)
        began = time.perf_counter()
        consumer.start()
        while ran < count and time.perf_counter() - began < 120:
            time.sleep(0.005)
        seconds = time.perf_counter() - began
        consumer.stop(graceful=True)
        peer.storage.close()
        if ran != count:
            raise RuntimeError(f"huey: {ran} of {count} ran")
        return count / seconds


async def _tidemill(count: int, waiting: int, file: Path, inline: bool) -> tuple[float, int, int]:
    app = App("bench")
    queue = app.queue("jobs", dict)
    runs = 0
    seen: set[int] = set()

    @app.on_message(queue, concurrency=10)
    async def work(job: dict) -> None:  # type: ignore[type-arg]
        nonlocal runs
        runs += 1
        seen.add(job["n"])

    async with rig(app, file, inline=inline) as made:
        port = made.places.queue("jobs")
        total = count + waiting
        for start in range(0, total, 5_000):
            size = min(5_000, total - start)
            await port.send([Message("jobs", f"{start + n}", body(start + n)) for n in range(size)])
        await asyncio.to_thread(_checkpoint, file)  # what was sent long ago lies in the file, not in the log
        began = time.perf_counter()
        made.engine.begin()
        await made.until(lambda: runs >= count)
        seconds = time.perf_counter() - began
        if waiting:
            return count / seconds, 0, 0
        await made.until(lambda: made.engine.settled)
        await asyncio.sleep(0.2)
        depth = await port.depth()
        lost = total - len(seen) + depth.ready + depth.claimed
        return count / seconds, lost, runs - len(seen)


def _checkpoint(file: Path) -> None:
    base = sqlite3.connect(file)
    base.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    base.close()


def tidemill(count: int, waiting: int = 0, *, inline: bool = False) -> tuple[float, int, int]:
    """Messages a second of a whole replica, lost, doubled. `waiting`: so many more stay in the queue."""
    with TemporaryDirectory() as folder:
        return asyncio.run(_tidemill(count, waiting, Path(folder) / "bench.db", inline))
