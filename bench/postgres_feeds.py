"""The PostgreSQL feed of a captured table: to a batch handler and to a handler per change, beside the raw driver.

Fill first, then drain: writers and readers never share the clock. Rows are about 360 bytes of JSON and are decoded to a
dataclass by both sides: Tidemill and `raw` by pydantic, `raw by hand` by `json` and the class. The peers: an asyncpg
loop over the very same log rows, and `pg_recvlogical`, which decodes the same rows of a table without capture out of
the WAL and throws them away.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import asyncpg

from bench.rig import rig
from tests.servers.postgres import Postgres as Server
from tidemill import App, Change
from tidemill.adapters.postgres import Postgres
from tidemill.core.codec import Codec
from tidemill.engine.clock import SystemClock

PARTITIONS = 16
ROWS = """
CREATE TABLE {name} (id bigint PRIMARY KEY, key text NOT NULL, n bigint NOT NULL, label text NOT NULL,
    price double precision NOT NULL, at timestamptz NOT NULL DEFAULT now(), pad text NOT NULL)
"""
INSERT = """
INSERT INTO {name} SELECT i, 'k' || i % 500, i, 'some text', i / 7.0, now(), repeat('x', 220)
FROM generate_series($1::int, $2::int) i
"""


@dataclass(slots=True)
class Row:
    """A row of the table."""

    id: int
    key: str
    n: int
    label: str
    price: float
    at: str
    pad: str


class History:
    """What a handler saw, per key."""

    def __init__(self) -> None:
        self.count = 0
        self.last: defaultdict[str, int] = defaultdict(lambda: -1)
        self.seen: set[int] = set()
        self.disordered = 0

    def add(self, row: Row) -> None:
        self.count += 1
        self.disordered += row.n < self.last[row.key]
        self.last[row.key] = row.n
        self.seen.add(row.n)

    def wrong(self, count: int) -> int:
        """Lost, doubled and disordered."""
        return (count - len(self.seen)) + (self.count - len(self.seen)) + self.disordered


def app_of(history: History, batch: int | None) -> App:
    app = App("bench")
    rows = app.table("rows", Row, id="id", key="key", table="public.rows", partitions=PARTITIONS)
    if batch:

        @app.on_change(rows, batch=batch, concurrency=4, name="watch", start="beginning")
        async def watch(changes: list[Change[Row]]) -> None:
            for change in changes:
                history.add(change.value)
    else:

        @app.on_change(rows, concurrency=64, name="watch", start="beginning")
        async def watch_each(change: Change[Row]) -> None:
            history.add(change.value)

    return app


async def fill(url: str, count: int, *, table: str = "rows", size: int = 50) -> None:
    """Rows in transactions of 50."""
    link = await asyncpg.connect(url)
    for start in range(0, count, size):
        await link.execute(INSERT.format(name=table), start, min(start + size, count) - 1)
    await link.execute("VACUUM ANALYZE")
    await link.execute("CHECKPOINT")
    await link.close()


async def raw(url: str, *, each: bool, decode: Callable[[bytes], Row] | None = None) -> float:
    """Rows a second of a bare loop over the same log: read, decode to the same type, count (and await)."""
    decode = decode or Codec(Row).decode
    link = await asyncpg.connect(url)
    history = History()

    async def handler(row: Row) -> None:
        history.add(row)

    began = time.perf_counter()
    last = 0
    sql = (
        "SELECT part, seq, kind, doc, key, body, before, date_part('epoch', at) FROM tidemill.log_rows"
        " WHERE seq > $1 ORDER BY seq LIMIT 5000"
    )
    while rows := await link.fetch(sql, last):
        for _, _, _, _, _, body, _, _ in rows:
            row = decode(body)
            if each:
                await handler(row)
            else:
                history.add(row)
        last = rows[-1][1]
    seconds = time.perf_counter() - began
    await link.close()
    return history.count / seconds


def by_hand(body: bytes) -> Row:
    """As one decodes it with the standard library."""
    return Row(**json.loads(body))


async def ours(url: str, count: int, *, batch: int | None) -> tuple[float, int]:
    """Changes a second of a whole replica that begins at the beginning, and what was wrong."""
    history = History()
    async with rig(app_of(history, batch), Postgres.from_url(url, SystemClock())) as made:
        made.engine.begin()
        await made.until(lambda: len(made.engine.feeds[0].parts) == PARTITIONS)
        began, before = time.perf_counter(), history.count
        await made.until(lambda: history.count >= count)
        seconds = time.perf_counter() - began
        await asyncio.sleep(0.2)
    return (count - before) / seconds, history.wrong(count)


async def forget(url: str) -> None:
    """The readers' places: the next reader begins at the beginning again."""
    link = await asyncpg.connect(url)
    await link.execute("TRUNCATE tidemill.record")
    await link.close()


def received(server: Server, url: str, slot: str) -> float:
    """Seconds that `pg_recvlogical` takes for all there is in its slot."""
    end = server.psql("SELECT pg_current_wal_lsn()", database=url.rsplit("/", 1)[1]).strip()
    began = time.perf_counter()
    subprocess.run(
        [server.bin / "pg_recvlogical", "-d", url, "-S", slot, "--start", f"--endpos={end}", "-f", "/dev/null",
         "-o", "proto_version=1", "-o", "publication_names=bench", "--no-loop"],
        check=True, stderr=subprocess.DEVNULL, timeout=120,
    )  # fmt: skip
    return time.perf_counter() - began


async def prepare(url: str, count: int) -> None:
    """The captured table, filled; beside it the same rows in a table without capture, for the slot."""
    link = await asyncpg.connect(url)
    await link.execute(ROWS.format(name="rows"))
    await link.execute(ROWS.format(name="plain"))
    await link.close()
    async with rig(app_of(History(), None), Postgres.from_url(url, SystemClock())):
        pass  # makes what is missing
    link = await asyncpg.connect(url)
    await link.execute("UPDATE tidemill.source SET backfill = '\"done\"'")  # all rows come by the triggers
    await link.close()
    await fill(url, count)


def slot_seconds(server: Server, url: str, count: int, name: str) -> float:
    """Rows a second out of the WAL, of rows that were just written."""
    database = url.rsplit("/", 1)[1]
    server.psql("TRUNCATE plain", database=database)
    server.psql(
        "DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_publication) THEN CREATE PUBLICATION bench FOR TABLE plain;"
        " END IF; END $$", database=database,
    )  # fmt: skip
    server.psql(f"SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')", database=database)
    asyncio.run(fill(url, count, table="plain"))
    rate = count / received(server, url, name)
    server.psql(f"SELECT pg_drop_replication_slot('{name}')", database=database)
    return rate


async def with_open_transaction(url: str, count: int) -> tuple[float, int]:
    """Like `ours`, while a transaction that has written stays open."""
    link = await asyncpg.connect(url)
    transaction = link.transaction()
    await transaction.start()
    await link.execute("INSERT INTO rows VALUES (-1, 'idle', -1, '', 0, now(), '')")
    try:
        return await ours(url, count, batch=500)
    finally:
        await transaction.rollback()
        await link.close()


def run(server: Server, url: str, count: int, turn: int) -> dict[str, Any]:
    """One round, in turns, over the same rows."""
    found: dict[str, Any] = {"wrong": 0}

    def mine(name: str, result: tuple[float, int]) -> None:
        found[name] = result[0]
        found["wrong"] += result[1]
        asyncio.run(forget(url))

    asyncio.run(forget(url))
    found["raw"] = asyncio.run(raw(url, each=False))
    mine("batch", asyncio.run(ours(url, count, batch=500)))
    found["raw"] = (found["raw"] + asyncio.run(raw(url, each=False))) / 2
    found["raw by hand"] = asyncio.run(raw(url, each=False, decode=by_hand))
    mine("open", asyncio.run(with_open_transaction(url, count)))
    mine("batch again", asyncio.run(ours(url, count, batch=500)))
    found["raw each"] = asyncio.run(raw(url, each=True))
    mine("each", asyncio.run(ours(url, count, batch=None)))
    found["raw each"] = (found["raw each"] + asyncio.run(raw(url, each=True))) / 2
    found["raw each by hand"] = asyncio.run(raw(url, each=True, decode=by_hand))
    found["slot"] = slot_seconds(server, url, count, f"bench{turn}")
    return found
