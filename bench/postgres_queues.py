"""The PostgreSQL queue, durable (fsync and synchronous_commit on), a no-op async handler per message; beside a raw
loop, PgQueuer and Procrastinate on the same server.

Each is filled first and then drained, in turn, so that a noisy machine hits all alike. What is counted: messages in,
handler runs, distinct ids; lost and doubled must be 0. Each run has a database of its own, made on the server whose
URL is given.

    python -m bench.postgres_queues postgresql://postgres@127.0.0.1:5432/postgres [--rounds 5] [--million]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from bench.queues import body
from bench.rig import Rig, rig
from tidemill.adapters.postgres.database import Postgres
from tidemill.app.app import App
from tidemill.engine.clock import SystemClock
from tidemill.model import Message
from tidemill.run import tune

BATCH = 500


@asynccontextmanager
async def database(server: str) -> AsyncIterator[str]:
    """The URL of an empty database, dropped at the end."""
    name = f"queue_bench_{uuid4().hex[:8]}"
    await _on(server, f"CREATE DATABASE {name}")
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        await _on(server, f"DROP DATABASE {name} WITH (FORCE)")


async def _on(url: str, *statements: str) -> Any:
    link = await asyncpg.connect(url)
    try:
        return [await link.fetchval(statement) for statement in statements][-1]
    finally:
        await link.close()


async def _settle_down(url: str) -> None:
    """What was filled lies in the files and the planner knows of it."""
    await _on(url, "VACUUM ANALYZE", "CHECKPOINT")


def raw(server: str, count: int) -> float:
    """Messages a second of a bare loop: claim 500 by UPDATE … RETURNING, delete 500, each in its own commit. The rows
    have the fields and the order that a queue needs (with an id and a body alone it is 1.7 times as fast)."""
    return asyncio.run(_raw(server, count))


RAW = """
CREATE TABLE job (
    seq bigserial PRIMARY KEY, id text COLLATE "C" NOT NULL UNIQUE, priority bigint NOT NULL DEFAULT 0,
    due timestamptz NOT NULL DEFAULT clock_timestamp(), sent_at float8 NOT NULL DEFAULT 0, key text, dedup text,
    attempt int NOT NULL DEFAULT 0, deliveries int NOT NULL DEFAULT 0, reason text NOT NULL DEFAULT '',
    headers text NOT NULL DEFAULT '', body bytea NOT NULL, owner text, nonce text);
CREATE INDEX ready ON job (priority DESC, due, seq) WHERE owner IS NULL;
CREATE INDEX held ON job (owner) WHERE owner IS NOT NULL;
"""

CLAIM = """
UPDATE job SET owner = 'me', nonce = 'n', deliveries = deliveries + 1 WHERE seq = ANY (ARRAY(
    SELECT seq FROM job WHERE owner IS NULL AND due <= statement_timestamp() ORDER BY priority DESC, due, seq
    LIMIT 500 FOR UPDATE SKIP LOCKED))
RETURNING seq, id, body, key, headers, priority, sent_at, attempt, deliveries, reason
"""


async def _raw(server: str, count: int) -> float:
    async with database(server) as url:
        link = await asyncpg.connect(url)
        await link.execute(RAW)
        for start in range(0, count, BATCH):
            numbers = range(start, start + BATCH)
            await link.execute(
                "INSERT INTO job (id, body) SELECT * FROM unnest($1::text[], $2::bytea[])",
                [f"{n}" for n in numbers],
                [body(n) for n in numbers],
            )
        await _settle_down(url)
        done = 0
        began = time.perf_counter()
        while done < count:
            rows = await link.fetch(CLAIM)
            seqs = [row[0] for row in rows]
            await link.execute("DELETE FROM job WHERE seq = ANY ($1::bigint[]) AND nonce = 'n'", seqs)
            done += len(rows)
        seconds = time.perf_counter() - began
        await link.close()
        return count / seconds


def pgqueuer(server: str, count: int, batch: int = 10) -> float:
    """Jobs a second of PgQueuer on asyncpg. It takes 10 at a time unless told otherwise."""
    return asyncio.run(_pgqueuer(server, count, batch))


async def _pgqueuer(server: str, count: int, batch: int) -> float:
    from pgqueuer import PgQueuer
    from pgqueuer.queries import Queries
    from pgqueuer.types import QueueExecutionMode

    async with database(server) as url, asyncpg.create_pool(url, min_size=2, max_size=8) as pool:
        peer = PgQueuer.from_asyncpg_pool(pool)
        queries = Queries.from_asyncpg_pool(pool)
        await queries.install()
        ran = 0

        @peer.entrypoint("jobs")
        async def work(job: Any) -> None:
            nonlocal ran
            ran += 1

        for start in range(0, count, 5_000):
            size = min(5_000, count - start)
            bodies: list[bytes | None] = [body(start + n) for n in range(size)]
            await queries.enqueue(["jobs"] * size, bodies, [0] * size)
        await _settle_down(url)
        began = time.perf_counter()
        await asyncio.wait_for(peer.run(batch_size=batch, mode=QueueExecutionMode.drain), 120)
        seconds = time.perf_counter() - began
        if ran != count:
            raise RuntimeError(f"PgQueuer: {ran} of {count} ran")
        return count / seconds


def procrastinate(server: str, count: int, concurrency: int = 10) -> float:
    """Jobs a second of Procrastinate on psycopg, ten at once, finished jobs deleted."""
    return asyncio.run(_procrastinate(server, count, concurrency))


async def _procrastinate(server: str, count: int, concurrency: int) -> float:
    from procrastinate import App as Peer
    from procrastinate import PsycopgConnector

    async with database(server) as url:
        peer = Peer(connector=PsycopgConnector(conninfo=url, min_size=2, max_size=concurrency + 2))
        ran = 0

        @peer.task(name="work")
        async def work(n: int, text: str) -> None:
            nonlocal ran
            ran += 1

        async with peer.open_async():
            await peer.schema_manager.apply_schema_async()
            jobs: list[Any] = [{"n": n, "text": "x" * 80} for n in range(count)]
            await work.batch_defer_async(*jobs)
            await _settle_down(url)
            began = time.perf_counter()
            await peer.run_worker_async(
                concurrency=concurrency, wait=False, delete_jobs="always", install_signal_handlers=False
            )
            seconds = time.perf_counter() - began
        if ran != count:
            raise RuntimeError(f"Procrastinate: {ran} of {count} ran")
        return count / seconds


class Counted:
    """An app whose handler counts, and its queue on a server."""

    def __init__(self, count: int) -> None:
        self.app = App("bench")
        self.queue = self.app.queue("jobs", dict)
        self.runs = 0
        self.seen = bytearray(count)  # a set of a million numbers is itself felt
        self.app.on_message(self.queue, concurrency=10)(self.work)

    async def work(self, job: dict) -> None:  # type: ignore[type-arg]
        self.runs += 1
        self.seen[job["n"]] = 1

    async def fill(self, made: Rig, count: int) -> None:
        port = made.places.queue("jobs")
        for start in range(0, count, 1_000):
            size = min(1_000, count - start)
            await port.send([Message("jobs", f"{start + n}", body(start + n)) for n in range(size)])

    async def left(self, made: Rig, count: int) -> tuple[int, int]:
        """Lost and doubled, once everything was settled."""
        await made.until(lambda: made.engine.settled)
        await asyncio.sleep(1.1)  # a count may be that old
        depth = await made.places.queue("jobs").depth()
        return count - sum(self.seen) + depth.ready + depth.claimed, self.runs - sum(self.seen)


def tidemill(server: str, count: int, *, inline: bool = False) -> tuple[float, int, int]:
    """Messages a second of a whole replica, lost, doubled."""
    return asyncio.run(_tidemill(server, count, inline))


async def _tidemill(server: str, count: int, inline: bool) -> tuple[float, int, int]:
    counted = Counted(count)
    async with database(server) as url, rig(counted.app, Postgres.from_url(url, SystemClock()), inline=inline) as made:
        await counted.fill(made, count)
        await _settle_down(url)
        began = time.perf_counter()
        made.engine.begin()
        await made.until(lambda: counted.runs >= count)
        seconds = time.perf_counter() - began
        return count / seconds, *await counted.left(made, count)


def million(server: str, count: int = 1_000_000) -> dict[str, float]:
    """A backlog drained: the rate of its first and last tenth, and what it leaves in the tables."""
    return asyncio.run(_million(server, count))


SIZES = """
SELECT sum(pg_table_size(relid)) / 1e6, sum(n_dead_tup), sum(pg_indexes_size(relid)) / 1e6 FROM pg_stat_user_tables
WHERE relname IN ('message_jobs', 'ready_jobs', 'claim_jobs')
"""


async def _million(server: str, count: int) -> dict[str, float]:
    counted, tenth = Counted(count), count // 10
    async with database(server) as url, rig(counted.app, Postgres.from_url(url, SystemClock())) as made:
        await counted.fill(made, count)
        await _settle_down(url)
        link = await asyncpg.connect(url)
        full = (await link.fetchrow(SIZES))[0]
        times = [time.perf_counter()]
        made.engine.begin()
        for n in range(1, 11):
            await made.until(lambda n=n: counted.runs >= n * tenth, 600)
            times.append(time.perf_counter())
        lost, doubled = await counted.left(made, count)
        size, dead, indexes = await link.fetchrow(SIZES)
        for _ in range(75):  # the server looks for dead rows once a minute
            if dead < 100_000 and size < full / 10:
                break
            await asyncio.sleep(1.0)
            size, dead, indexes = await link.fetchrow(SIZES)
        await link.close()
    rates = [tenth / (after - before) for before, after in pairwise(times)]
    return {
        "last / first (≥ 0.9)": rates[-1] / rates[0],
        **{f"tenth {n}/s": rate for n, rate in enumerate(rates, 1)},
        "MB full": float(full), "MB after": float(size), "dead rows after": float(dead),
        "MB of indexes after (free pages)": float(indexes),
        "lost and doubled": lost + doubled,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--million", action="store_true")
    asked = parser.parse_args()
    tune()
    if asked.million:
        for name, value in million(asked.server).items():
            print(f"{name:24} {value:12,.2f}")
        return
    ratios, peers, slow, void = [], [], [], 0
    for _ in range(asked.rounds):
        before = raw(asked.server, 50_000)
        ours, lost, doubled = tidemill(asked.server, 50_000)
        calibrator = (before + raw(asked.server, 50_000)) / 2
        pgq, pro = pgqueuer(asked.server, 5_000, 100), procrastinate(asked.server, 1_000)
        ratios.append(ours / calibrator)
        peers.append(ours / pgq)
        slow.append(ours / pro)
        void += lost + doubled
        print(f"raw {calibrator:9,.0f}/s  tidemill {ours:9,.0f}/s  pgqueuer {pgq:7,.0f}/s  procrastinate {pro:6,.0f}/s")
    print(f"× raw (≥ 0.4) {statistics.median(ratios):.2f}, × PgQueuer (≥ 2) {statistics.median(peers):.1f},"
          f" × Procrastinate (≥ 50) {statistics.median(slow):.0f}, lost and doubled {void}")  # fmt: skip


if __name__ == "__main__":
    main()
