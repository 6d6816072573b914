"""The parts of `make bench` that need a PostgreSQL server: each starts one of its own, with fsync on."""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench import postgres_capture, postgres_feeds, postgres_latency, postgres_queues
from tests.servers.fixtures import server_folder
from tests.servers.postgres import Postgres as Server

Figures = dict[str, Any]

SETTINGS: dict[str, str] = {"wal_level": "logical", "shared_buffers": "512MB", "max_wal_size": "4GB"}


@contextmanager
def server() -> Iterator[Server]:
    with server_folder("bench") as folder:
        started = Server.start_in(folder, fsync=True, **SETTINGS)
        try:
            yield started
        finally:
            started.stop()


def feed(rounds: int, count: int = 200_000) -> Figures:
    """PostgreSQL: the feed of a table beside the raw driver and `pg_recvlogical`, and with a transaction open."""
    with server() as started:
        url = started.create("bench")
        asyncio.run(postgres_feeds.prepare(url, count))
        found = [postgres_feeds.run(started, url, count, turn) for turn in range(rounds)]

    def ratio(name: str, peer: str) -> float:
        return statistics.median(one[name] / one[peer] for one in found)

    return {
        "changes/s, batches of 500": statistics.median(one["batch"] for one in found),
        "× raw": ratio("batch", "raw"),
        "× raw by hand (≥ 0.6)": ratio("batch", "raw by hand"),
        "× pg_recvlogical (≥ 0.75)": ratio("batch", "slot"),
        "transaction open × none (≥ 0.95)": statistics.median(
            2 * one["open"] / (one["batch"] + one["batch again"]) for one in found
        ),
        "changes/s, one by one": statistics.median(one["each"] for one in found),
        "× raw, one by one": ratio("each", "raw each"),
        "× raw by hand, one by one (≥ 0.3)": ratio("each", "raw each by hand"),
        "lost and doubled and disordered": sum(one["wrong"] for one in found),
    }


def latency(rounds: int) -> Figures:
    """PostgreSQL: commit to handler at 100/s, the first change after idleness, and what an idle replica asks."""
    with server() as started:
        found = [asyncio.run(postgres_latency.measure(started.create(f"bench{n}"))) for n in range(max(rounds // 2, 1))]

    def median(name: str) -> float:
        return statistics.median(one[name] for one in found)

    return {
        "p50 ms (≤ 6)": median("p50"),
        "p99 ms (≤ 25)": median("p99"),
        "first after idle s (≤ 1)": max(one["first after idle"] for one in found),
        "queries/s idle (≤ 4)": median("queries/s idle"),
        "lost": sum(one["lost"] for one in found),
    }


def capture(rounds: int) -> Figures:
    """PostgreSQL: what the capture of a table costs its writers."""
    with server() as started:
        return postgres_capture.run(started, started.create("bench"), max(rounds, 7))


def queue(rounds: int) -> Figures:
    """PostgreSQL: the queue beside a raw claim and delete loop, PgQueuer and Procrastinate; and a million messages."""
    of_raw, pgqueuer, procrastinate, ours, void = [], [], [], [], 0
    with server() as started:
        url = started.url()
        for _ in range(rounds):
            before = postgres_queues.raw(url, 50_000)
            rate, lost, doubled = postgres_queues.tidemill(url, 50_000)
            of_raw.append(2 * rate / (before + postgres_queues.raw(url, 50_000)))
            pgqueuer.append(rate / postgres_queues.pgqueuer(url, 5_000, 100))
            procrastinate.append(rate / postgres_queues.procrastinate(url, 1_000))
            ours.append(rate)
            void += lost + doubled
        million = postgres_queues.million(url)
    return {
        "messages/s": statistics.median(ours),
        "× raw (≥ 0.4)": statistics.median(of_raw),
        "× PgQueuer (≥ 2)": statistics.median(pgqueuer),
        "× Procrastinate (≥ 50)": statistics.median(procrastinate),
        **{f"1,000,000: {name}": value for name, value in million.items()},
        "lost and doubled": void,
    }
