"""Avalon as a child process: started, waited for, sent orders, stopped or killed. The demo and its tests drive it."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import Event

import httpx

ORDERS = Path(__file__).with_name("orders.csv")
CONNECTIONS = 24


@dataclass(frozen=True)
class Row:
    """One line of orders.csv, as it is sent."""

    number: str
    day: str
    customer: str
    total: str

    def json(self) -> dict[str, str]:
        return {"number": self.number, "day": self.day, "customer": self.customer, "total": self.total}


def rows(limit: int | None = None) -> list[Row]:
    """The orders of the file; sums of floats are rounded to pence as the shop wrote them."""
    with ORDERS.open(newline="") as file:
        found = [
            Row(line["InvoiceNo"], line["InvoiceDate"], line["CustomerID"], f"{float(line['TotalPrice']):.2f}")
            for line in csv.DictReader(file)
        ]
    return found[:limit]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class System:
    """All of Avalon in one process, on a SQLite file in its folder or on the database of `url`."""

    folder: Path
    url: str = ""
    api: int = field(default_factory=free_port)
    probes: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def database(self) -> str:
        return self.url or f"sqlite:///{self.folder / 'avalon.db'}"

    @property
    def log(self) -> Path:
        return self.folder / "avalon.log"

    def start(self) -> None:
        """Start it; it is ready when `ready()` says so."""
        command = [sys.executable, "-m", "tidemill", "dev", "examples.avalon.app:app", "--database", self.database]
        env = os.environ | {"TIDEMILL_API_PORT": str(self.api), "TIDEMILL_HEALTH_PORT": str(self.probes)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(  # a session of its own: Ctrl-C is for us, and we tell it to stop
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def check(self) -> None:
        """Raises with the end of its log if it is not running."""
        if not self.running:
            raise RuntimeError(f"Avalon is not running; the end of its log:\n{self._tail()}")

    async def ready(self, limit: float = 30.0) -> float:
        """Wait until it is ready; the seconds that took. Raises with the end of its log if that does not happen."""
        began = time.monotonic()
        async with httpx.AsyncClient() as client:
            while time.monotonic() - began < limit:
                self.check()
                try:
                    if (await client.get(f"http://127.0.0.1:{self.probes}/readyz")).status_code == 200:
                        return time.monotonic() - began
                except httpx.TransportError:
                    pass  # not listening yet
                await asyncio.sleep(0.02)
        raise RuntimeError(f"Avalon is not ready after {limit:g} s; the end of its log:\n{self._tail()}")

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, limit: float = 60.0) -> int:
        """SIGTERM; its exit code."""
        if self.process is None:
            return 0
        if self.running:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"Avalon did not stop within {limit:g} s; the end of its log:\n{self._tail()}") from None

    def _tail(self) -> str:
        return self.log.read_text(errors="replace")[-2000:]

    async def send(self, orders: Sequence[Row], *, sent: Callable[[], object] = lambda: None) -> None:
        """Post every order until it is acknowledged. A server that is away is waited for."""
        waiting: Iterator[Row] = iter(orders)
        stopped = Event()
        connections = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="orders")
        loop = asyncio.get_running_loop()
        posting = [
            loop.run_in_executor(connections, self._post_all, waiting, sent, stopped) for _ in range(CONNECTIONS)
        ]
        try:
            await asyncio.gather(*posting)
        finally:
            stopped.set()
            connections.shutdown(wait=False)

    async def metrics(self) -> dict[str, float]:
        """The samples of /metrics by name and labels."""
        async with httpx.AsyncClient() as client:
            text = (await client.get(f"http://127.0.0.1:{self.probes}/metrics")).text
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def _post_all(self, waiting: Iterator[Row], sent: Callable[[], object], stopped: Event) -> None:
        """One connection that is kept alive; its thread takes one order after the other."""
        connection = HTTPConnection("127.0.0.1", self.api, timeout=30.0)
        for row in waiting:  # next() on an iterator of a list is atomic: each order is taken by one thread
            while not (stopped.is_set() or _post(connection, row)):
                stopped.wait(0.05)
            if stopped.is_set():
                break
            sent()
        connection.close()


def _post(connection: HTTPConnection, row: Row) -> bool:
    """Whether the order was acknowledged. If not, it is sent again: the same order again is the same order."""
    try:
        connection.request("POST", "/orders", json.dumps(row.json()), {"Content-Type": "application/json"})
        response = connection.getresponse()
        said = response.read()
    except (OSError, HTTPException):
        connection.close()  # it is restarting; the next request connects anew
        return False
    if 400 <= response.status < 500:
        raise RuntimeError(f"order {row.number} was refused: {response.status} {said.decode(errors='replace')}")
    return response.status == 201
