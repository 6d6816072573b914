"""Document POST over HTTP, 16 clients that stay connected: the router in a whole replica beside two bare routes.

The clients are protocols on raw sockets in this process, so that they are not what is measured; each server is a
process of its own (see `web_servers`). Every 201 is looked up in the server's file afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.processes import free_port

CLIENTS = 16
WARM = 200
KINDS = ("commit", "group", "idle", "busy")


@dataclass
class Round:
    """What the clients saw."""

    began: float = 0.0
    ended: float = 0.0
    stored: list[str] = field(default_factory=list)
    refused: int = 0


class Client(asyncio.Protocol):
    """One connection that posts one order after the other until the numbers are used up."""

    def __init__(self, numbers: Iterator[str], round_: Round, port: int) -> None:
        self._numbers = numbers
        self._round = round_
        self._head = f"POST /orders HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        self._received = b""
        self._number = ""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        received = self._received = self._received + data
        head = received.find(b"\r\n\r\n")
        if head < 0:
            return
        at = received.lower().index(b"content-length:") + len(b"content-length:")
        length = int(received[at : received.index(b"\r\n", at)])
        if len(received) < head + 4 + length:
            return
        self._received = b""
        if received.startswith(b"HTTP/1.1 201"):
            self._round.stored.append(self._number)
        else:
            self._round.refused += 1
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(error or ConnectionError("the server closed a connection"))

    def _next(self) -> None:
        number = self._number = next(self._numbers, "")
        if not number:
            self.done.set_result(None)
            self._transport.close()
            return
        order = {"number": number, "customer": f"c{hash(number) % 997}", "total": len(number), "note": "x" * 100}
        body = json.dumps(order).encode()
        self._transport.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n".encode() + body)


async def post(port: int, numbers: Iterator[str]) -> Round:
    """All numbers, by 16 clients at once."""
    loop = asyncio.get_running_loop()
    round_ = Round(time.perf_counter())
    made = [
        await loop.create_connection(lambda: Client(numbers, round_, port), "127.0.0.1", port) for _ in range(CLIENTS)
    ]
    async with asyncio.timeout(120):
        await asyncio.gather(*(client.done for _, client in made))
    round_.ended = time.perf_counter()
    return round_


@contextmanager
def serving(kind: str, file: Path) -> Iterator[int]:
    """A server of this kind that answers; its port."""
    port = free_port()
    command = [sys.executable, "-m", "bench.web_servers", kind, str(file), str(port)]
    root = Path(__file__).parents[1]
    with (file.parent / f"{kind}.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=root, env=os.environ.copy(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        asyncio.run(_answers(port))
        yield port
    finally:
        process.terminate()
        process.wait(60)


async def _answers(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise TimeoutError("the server did not start")


def measure(kind: str, count: int) -> tuple[float, int, int]:
    """Posts a second, lost, doubled."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "web.db"
        with serving(kind, file) as port:
            asyncio.run(post(port, (f"w{n}" for n in range(WARM))))
            found = asyncio.run(post(port, (f"n{n}" for n in range(count))))
        if found.refused:
            raise RuntimeError(f"{kind}: {found.refused} of {count} posts were refused")
        lost, doubled = check(kind, file, found.stored)
        return count / (found.ended - found.began), lost, doubled


def check(kind: str, file: Path, stored: list[str]) -> tuple[int, int]:
    """How many acknowledged orders are not in the file, and how many are in it more than once."""
    with closing(sqlite3.connect(file)) as connection:
        if kind in ("commit", "group"):
            there = [row[0] for row in connection.execute("SELECT number FROM orders")]
        else:  # the log has one row for each write: a document stored twice is seen there
            there = [row[0] for row in connection.execute("SELECT doc FROM tidemill_log WHERE body IS NOT NULL")]
    return len(set(stored) - set(there)), len(there) - len(set(there)) + len(stored) - len(set(stored))
