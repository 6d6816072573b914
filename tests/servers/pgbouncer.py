"""One PgBouncer of our own, in front of a PostgreSQL server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

from tests.servers import process
from tests.servers.postgres import Postgres

MISSING: Final = "no PgBouncer on PATH or in /usr/sbin"

PoolMode: TypeAlias = Literal["session", "transaction", "statement"]


def find() -> Path | None:
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    return None if found is None else Path(found)


def full_version(program: Path) -> str:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[1]


class PgBouncer:
    """Every database of the server under its own name; `ignore_startup_parameters` is left as it comes, so that a
    parameter which a usual PgBouncer refuses is refused here too."""

    def __init__(self, program: Path, folder: Path, port: int) -> None:
        self.program, self.folder, self.port = program, folder, port
        self._settings, self._log = folder / "pgbouncer.ini", folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start_in(
        cls, folder: Path, postgres: Postgres, pool_mode: PoolMode = "transaction", **settings: object
    ) -> Self:
        program = find()
        if program is None:
            raise FileNotFoundError(MISSING)
        process.own(folder)
        bouncer = cls(program, folder, process.free_port())
        chosen: dict[str, object] = {
            "listen_addr": "127.0.0.1",
            "listen_port": bouncer.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": pool_mode,
            "default_pool_size": 10,
            **settings,
        }
        lines = [f"{name} = {value}" for name, value in chosen.items()]
        server = f"* = host=127.0.0.1 port={postgres.port} user=postgres"
        bouncer._settings.write_text("\n".join(["[databases]", server, "[pgbouncer]", *lines, ""]))
        bouncer._settings.chmod(0o644)
        bouncer.start()
        return bouncer

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        assert self._process is None, "it runs already"
        begun = process.start([self.program, self._settings], self._log, at_our_end="KILL")
        process.wait(begun, lambda: process.listens(self.port), self._log)
        self._process = begun

    def stop(self) -> None:
        """End it at once. It keeps nothing, and what SIGTERM means to it changed with its versions: so it is killed."""
        if self._process is None:
            return
        ended, self._process = self._process, None
        ended.kill()
        ended.wait()
