"""`tidemill run` as a child of the test: started, asked, signalled. What it starts it also ends.

with Fleet(tmp_path, "tests.acceptance.apps.sharing:app") as fleet:
    one = fleet.start("one")
    await one.ready()
    one.signal(signal.SIGTERM)
    assert await one.ended() == 0
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from examples.avalon.system import free_port
from tests.acceptance.journal import Journal


@dataclass
class Replica:
    """One process. `name` is its replica id, `log` a file with all that it printed."""

    name: str
    port: int
    log: Path
    process: subprocess.Popen[bytes]

    @property
    def pid(self) -> int:
        return self.process.pid

    def probe(self, path: str, timeout: float = 5.0) -> tuple[int, str]:
        """Status and body; (0, why) if there was no answer."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as reply:
                return reply.status, reply.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()
        except (URLError, OSError) as error:
            return 0, str(error)

    async def ready(self, limit: float = 30.0) -> float:
        """Wait for `/readyz`; the seconds that took."""
        began = time.monotonic()
        await until(lambda: self.probe("/readyz")[0] == 200, limit, lambda: f"{self.name} is not ready: {self.tail()}")
        return time.monotonic() - began

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self, limit: float = 60.0) -> int:
        """Wait for its end; the exit code."""
        await until(lambda: self.process.poll() is not None, limit, lambda: f"{self.name} goes on: {self.tail()}")
        assert self.process.returncode is not None
        return self.process.returncode

    async def stop(self, limit: float = 60.0) -> int:
        """SIGTERM and wait; the exit code."""
        self.signal(signal.SIGTERM)
        return await self.ended(limit)

    def kill(self) -> None:
        """kill -9, waited for."""
        self.process.kill()
        self.process.wait()

    def tail(self, size: int = 3000) -> str:
        return self.log.read_text(errors="replace")[-size:]


class Fleet:
    """The replicas of one app over one SQLite file in `folder`, with a journal that their handlers write.

    The app finds the journal's path in the environment variable JOURNAL.
    """

    def __init__(self, folder: Path, app: str, **env: str) -> None:
        self.folder = folder
        self.app = app
        self.env = env
        self.database = f"sqlite:///{folder / 'work.db'}"
        self.journal = Journal(folder / "journal")
        self.replicas: list[Replica] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.signal(signal.SIGCONT)
                replica.kill()

    def environ(self, name: str, port: int, env: Mapping[str, str]) -> dict[str, str]:
        """What a replica sees: nothing of Tidemill's settings but these."""
        plain = {key: value for key, value in os.environ.items() if not key.startswith(("TIDEMILL_", "COV"))}
        settings = {
            "TIDEMILL_HEALTH_HOST": "127.0.0.1",
            "TIDEMILL_HEALTH_PORT": str(port),
            "TIDEMILL_DATABASE": self.database,
            "TIDEMILL_REPLICA": name,
            "JOURNAL": str(self.journal.path),
        }
        return plain | settings | self.env | dict(env)

    def start(self, name: str, *words: str, prefix: tuple[str, ...] = (), **env: str) -> Replica:
        """Start a replica (`tidemill run APP words…`); `prefix` is a command that runs it, such as `unshare …`."""
        port = free_port()
        log = self.folder / f"{name}.log"
        command = [*prefix, sys.executable, "-m", "tidemill", "run", self.app, *words]
        with log.open("ab") as out:
            process = subprocess.Popen(
                command, env=self.environ(name, port, env), stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        replica = Replica(name, port, log, process)
        self.replicas.append(replica)
        return replica


async def until(
    true: Callable[[], bool], limit: float, why: Callable[[], str] = lambda: "", every: float = 0.05
) -> float:
    """Wait until this is true; the seconds that took. TimeoutError with `why` if it is not within `limit` seconds."""
    began = time.monotonic()
    while not await asyncio.to_thread(true):
        if time.monotonic() - began > limit:
            raise TimeoutError(why() or f"not within {limit:g} s")
        await asyncio.sleep(every)
    return time.monotonic() - began


def percentile(values: list[float], part: float) -> float:
    """The nearest-rank percentile of at least one value; `part` from 0 to 1."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(part * len(ranked)))]
