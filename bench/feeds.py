"""The SQLite feed beside a bare loop over the same log rows.

`raw_batch` reads and decodes; `raw_each` reads, decodes and awaits a no-op per change. Tidemill's figures are whole
replicas with leases, lanes, contexts and time limits on, fed with the same documents, from the beginning. Lost, doubled
and disordered (per key) changes are counted; they must be 0.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections import defaultdict
from pathlib import Path
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
            "SELECT seq, body FROM tidemill_log WHERE seq > ? AND body IS NOT NULL ORDER BY seq LIMIT 1000", (last,)
        ).fetchall():
            for _, body in rows:
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


async def _tidemill(file: Path, count: int, *, batch: int | None) -> tuple[float, int, int, int]:
    app = App("bench")
    things = app.collection("things", dict, id="id", key="key")
    history = History()

    if batch:

        @app.on_change(things, batch=batch, concurrency=4, name="watch")
        async def watch(changes: list[Change[dict[str, Any]]]) -> None:
            for change in changes:
                history.add(change.value)
    else:

        @app.on_change(things, concurrency=64, name="watch")
        async def watch_each(change: Change[dict[str, Any]]) -> None:
            history.add(change.value)

    async with rig(app, file) as made:
        port = made.places.documents("things")
        writes = documents(count)
        for start in range(0, count, 5_000):
            await port.write(writes[start : start + 5_000])
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
    """One round: raw and Tidemill over the same file, per change and in batches."""
    found: dict[str, Any] = {}
    for name, batch in (("each", None), ("batch", 500)):
        with TemporaryDirectory() as folder:
            file = Path(folder) / "feed.db"
            found[name] = asyncio.run(_tidemill(file, count, batch=batch))
            found[f"raw {name}"] = raw(file, count, each=name == "each")
    return found
