"""Figures of whole processes: send → handler at 100/s, in one process and across two, and an idle `tidemill run`."""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from bench.rig import rig
from tidemill.app.app import App

APP = """
import time
from tidemill import App

app = App("bench")
jobs = app.queue("jobs", dict)
seen = open({log!r}, "a", buffering=1)

@app.on_message(jobs, concurrency=10)
async def work(job: dict) -> None:
    seen.write(f"{{job['n']}} {{time.time() - job['at']}}\\n")
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Child:
    """A `tidemill run` in a process of its own. `ready`: seconds from its start to its readiness."""

    process: subprocess.Popen[bytes]
    ready: float


@contextmanager
def running(folder: Path) -> Iterator[Child]:
    """The app above, group queues, on a SQLite file in the folder."""
    (folder / "app.py").write_text(APP.format(log=str(folder / "seen")))
    port = free_port()
    command = [sys.executable, "-m", "tidemill", "run", "app:app", "--group", "queues"]
    env = os.environ | {"TIDEMILL_DATABASE": f"sqlite:///{folder / 'bench.db'}", "TIDEMILL_HEALTH_PORT": str(port)}
    began = time.monotonic()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        while time.monotonic() - began < 30:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=1):
                    break
            except (urllib.error.URLError, OSError):
                time.sleep(0.01)
        yield Child(process, time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(60)


def idle() -> dict[str, float]:
    """Seconds to ready, MB of RSS and percent of one CPU of an idle worker, watched for ten seconds."""
    with TemporaryDirectory() as folder, running(Path(folder)) as child:
        time.sleep(2.0)
        seen = psutil.Process(child.process.pid)
        before = sum(seen.cpu_times()[:2])
        time.sleep(10.0)
        cpu = (sum(seen.cpu_times()[:2]) - before) / 10.0 * 100
        return {"ready": child.ready, "rss": seen.memory_info().rss / 1e6, "cpu": cpu}


def across(count: int = 500) -> dict[str, float]:
    """Milliseconds from before the send to the handler in another process, at 100/s."""

    async def send(database: str) -> None:
        app = App("bench")
        jobs: Any = app.queue("jobs", dict)
        async with app.client(database=database):
            for n in range(count):
                await jobs.send({"n": n, "at": time.time()})
                await asyncio.sleep(0.01)

    with TemporaryDirectory() as folder, running(Path(folder)):
        asyncio.run(send(f"sqlite:///{Path(folder) / 'bench.db'}"))
        time.sleep(1.0)
        lines = [line.split() for line in (Path(folder) / "seen").read_text().splitlines()]
    return _summary([float(seconds) for _, seconds in lines], len({n for n, _ in lines}), count)


def inside(count: int = 500) -> dict[str, float]:
    """The same within one process: sent by a handler-side client, received by the same replica."""
    latencies: list[float] = []
    numbers: set[int] = set()

    async def run(file: Path) -> None:
        app = App("bench")
        jobs: Any = app.queue("jobs", dict)

        @app.on_message(jobs, concurrency=10)
        async def work(job: dict) -> None:  # type: ignore[type-arg]
            latencies.append(time.time() - job["at"])
            numbers.add(job["n"])

        async with rig(app, file) as made:
            made.engine.begin()
            for n in range(count):
                await jobs.send({"n": n, "at": time.time()})
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.5)

    with TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder) / "bench.db"))
    return _summary(latencies, len(numbers), count)


def _summary(latencies: list[float], distinct: int, count: int) -> dict[str, float]:
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "p50": cuts[49] * 1000,
        "p99": cuts[98] * 1000,
        "lost": count - distinct,
        "doubled": len(latencies) - distinct,
    }
