"""Azurite, Microsoft's emulator of Azure Storage: its queue service, as a process of ours.

It is installed into `.venv/azurite` by `scripts/servers.py`. It checks the version of the API that a client asks for as
the service does, so `url` asks for one that it knows. What it keeps it keeps in its folder, not in memory: there each
message is an extent of its own, and it was seen to answer nobody for ten seconds and more under some thousands of them.
"""

from __future__ import annotations

import base64
import json
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from azure.storage.queue.aio import QueueClient, QueueServiceClient

from tests.servers import process

VERSION: Final = "3.35.0"
"""Later ones need Node 22."""

FOLDER: Final = Path(__file__).parent.parent.parent / ".venv" / "azurite"
PACKAGE: Final = FOLDER / "node_modules" / "azurite"
MISSING: Final = f"no Azurite {VERSION} that runs: none in .venv/azurite, or no node on PATH"
API_VERSION: Final = "2025-11-05"
NAME: Final = "tidemill"


@cache
def find() -> Path | None:
    """The queue service's program, if it is of our version and runs, also for the account that it would run as."""
    node, program = shutil.which("node"), PACKAGE / "dist" / "src" / "queue" / "main.js"
    if node is None or not program.is_file() or full_version() != VERSION:
        return None
    line = process.command([node, program, "--version"])
    return program if subprocess.run(line, cwd="/", capture_output=True, check=False).returncode == 0 else None


def full_version() -> str:
    version: str = json.loads((PACKAGE / "package.json").read_text())["version"]
    return version


class Azurite:
    """The queue service with one account, which has a key of its own."""

    def __init__(self, program: Path, folder: Path, port: int) -> None:
        self.program, self.folder, self.port = program, folder, port
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()
        self._log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start_in(cls, folder: Path) -> Self:
        """Start it; `folder` is one that the servers' account can reach."""
        program = find()
        if program is None:
            raise FileNotFoundError(MISSING)
        process.own(folder)
        server = cls(program, folder, process.free_port())
        server.start()
        return server

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/{NAME}"

    @property
    def connection(self) -> str:
        """As the portal would show it."""
        return f"AccountName={NAME};AccountKey={self.key};QueueEndpoint={self.endpoint};"

    def url(self, options: str = "", *, key: str | None = None) -> str:
        """The URL by which an app would name it; options as `&name=value`."""
        secret = quote(self.key if key is None else key, safe="")
        host = f"127.0.0.1:{self.port}/{NAME}"
        version = "" if "api_version=" in options else f"&api_version={API_VERSION}"
        return f"azure-storage-queue://:{secret}@{host}?tls=no{version}{options}"

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        assert self._process is None, "it runs already"
        begun = process.start(
            [
                "env",
                f"AZURITE_ACCOUNTS={NAME}:{self.key}",
                "node",
                self.program,
                "--silent",
                "--location",
                self.folder,
                "--disableTelemetry",
                "--queueHost",
                "127.0.0.1",
                "--queuePort",
                f"{self.port}",
            ],
            self._log,
            at_our_end="KILL",
        )
        process.wait(begun, lambda: process.listens(self.port), self._log)
        self._process = begun

    def stop(self) -> None:
        """End it at once: nothing in its folder is needed again."""
        if self._process is None:
            return
        ended, self._process = self._process, None
        ended.kill()
        ended.wait()


@dataclass(frozen=True)
class Account:
    """The account with the queues whose names begin with `prefix`."""

    server: Azurite
    prefix: str

    def url(self, options: str = "", *, key: str | None = None) -> str:
        return self.server.url(f"&prefix={self.prefix}{options}", key=key)

    def service(self) -> QueueServiceClient:
        """Microsoft's client, as another program would use it; to be entered."""
        who = {"account_name": NAME, "account_key": self.server.key}
        return QueueServiceClient(self.server.endpoint, who, api_version=API_VERSION)

    def client(self, service: QueueServiceClient, queue: str) -> QueueClient:
        """One of its queues, whose messages are texts."""
        return service.get_queue_client(self.prefix + queue)
