"""The SQLite feed beside a bare loop over the same log rows.

Raw reads, in pages of 1,000, what a change consists of (order, kind, document, key, time, body), decodes the body and
counts it; `each` awaits a coroutine per change for that. It runs before and after Tidemill's turn, for a machine may
change its speed between. Tidemill's figures are whole replicas with leases, lanes, contexts and time limits on, from
the beginning of the same rows. Lost, doubled and disordered (per key) changes are counted; they must be 0.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import defaultdict
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

from bench.rig import rig
from tidemill.app.app import App
from tidemill.app.values import Change
from tidemill.model import Put

KEYS = 500
PAD = "x" * 250


def documents(count: int) -> list[Put]:
    return [
        Put("things", f"{n}", key, json.dumps({"id": f"{n}", "key": key, "n": n, "pad": PAD}).encode())
        for n in range(count)
        for key in (f"k{n % KEYS}",)
    ]


def raw(file: Path, count: int, *, each: bool) -> float:
    """Changes a second of a bare loop over the log table, pages of 1,000."""

    history = History()

    async def loop() -> float:
        async def handler(change: dict[str, Any]) -> None:
            history.add(change)

        base = sqlite3.connect(file)
        began = time.perf_counter()
        last = seen = 0
        while rows := base.execute(
            "SELECT seq, kind, doc, key, at, body FROM tidemill_log WHERE seq > ? ORDER BY seq LIMIT 1000", (last,)
        ).fetchall():
            for *_, body in rows:
                change = json.loads(body)
                if each:
                    await handler(change)
                else:
                    history.add(change)
            seen += len(rows)
            last = rows[-1][0]
        seconds = time.perf_counter() - began
        base.close()
        if seen != count:
            raise RuntimeError(f"raw: {seen} of {count}")
        return count / seconds

    return asyncio.run(loop())


class History:
    """What a handler saw, per key."""

    def __init__(self) -> None:
        self.count = 0
        self.last: defaultdict[str, int] = defaultdict(lambda: -1)
        self.seen: set[int] = set()
        self.disordered = 0

    def add(self, value: dict[str, Any]) -> None:
        self.count += 1
        n = value["n"]
        self.disordered += n < self.last[value["key"]]
        self.last[value["key"]] = n
        self.seen.add(n)


def _app(history: History, batch: int | None) -> App:
    app = App("bench")
    things = app.collection("things", dict, id="id", key="key")

    if batch:

        @app.on_change(things, batch=batch, concurrency=4, name="watch")
        async def watch(changes: list[Change[dict[str, Any]]]) -> None:
            for change in changes:
                history.add(change.value)
    else:

        @app.on_change(things, concurrency=64, name="watch")
        async def watch_each(change: Change[dict[str, Any]]) -> None:
            history.add(change.value)

    return app


async def _fill(file: Path, count: int) -> None:
    async with rig(_app(History(), None), file) as made:
        port, writes = made.places.documents("things"), documents(count)
        for start in range(0, count, 5_000):
            await port.write(writes[start : start + 5_000])


async def _tidemill(file: Path, count: int, *, batch: int | None) -> tuple[float, int, int, int]:
    history = History()
    async with rig(_app(history, batch), file) as made:
        made.engine.begin()
        await made.until(lambda: len(made.engine.feeds[0].parts) == 16)
        began = time.perf_counter()
        before = history.count
        await made.until(lambda: history.count >= count)
        seconds = time.perf_counter() - began
        await asyncio.sleep(0.3)
    lost = count - len(history.seen)
    return (count - before) / seconds, lost, history.count - len(history.seen), history.disordered


def run(count: int) -> dict[str, Any]:
    """One round: raw and Tidemill over the same rows, per change and in batches."""
    found: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        filled = Path(folder) / "filled.db"
        asyncio.run(_fill(filled, count))
        for name, batch in (("each", None), ("batch", 500)):
            file = Path(folder) / f"{name}.db"
            copyfile(filled, file)
            before = raw(filled, count, each=batch is None)
            found[name] = asyncio.run(_tidemill(file, count, batch=batch))
            found[f"raw {name}"] = (before + raw(filled, count, each=batch is None)) / 2
    return found
