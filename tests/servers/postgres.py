"""One PostgreSQL server of our own."""

from __future__ import annotations

import importlib.util
import shutil
import signal
import subprocess
from functools import cache
from pathlib import Path
from typing import Final, Literal, Self, TypeAlias

import psutil

from tests.servers import process

MISSING: Final = "no PostgreSQL that runs: none in /usr/lib/postgresql, none by pg_config, no package pgserver"

Mode: TypeAlias = Literal["smart", "fast", "immediate"]
Setting: TypeAlias = str | int | bool

_SIGNALS: Final = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
_SETTINGS: Final[dict[str, Setting]] = {"max_connections": 60, "shared_buffers": "32MB"}


@cache
def find() -> Path | None:
    """The folder of the newest server's programs: Debian's, else pg_config's, else those in the package pgserver."""
    debian = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    places = [program.parent for program in sorted(debian, key=lambda program: int(program.parts[-3]), reverse=True)]
    if (asked := shutil.which("pg_config")) is not None:
        said = subprocess.run([asked, "--bindir"], capture_output=True, text=True, check=False)
        places.append(Path(said.stdout.strip()))
    if (package := importlib.util.find_spec("pgserver")) is not None and package.origin is not None:
        places.append(Path(package.origin).parent / "pginstall" / "bin")
    return next((place for place in places if _runs(place)), None)


def _runs(place: Path) -> bool:
    """Also for the account that it would run as, to whom the folder may be closed."""
    if not ((place / "initdb").exists() and (place / "psql").exists() and (place / "postgres").exists()):
        return False
    line = process.command([place / "initdb", "--version"])  # it looks for its libraries there, too
    return subprocess.run(line, cwd="/", capture_output=True, check=False).returncode == 0


@cache
def version(bin: Path) -> int:
    """15 for PostgreSQL 15.18."""
    return int(full_version(bin).split(".")[0])


def full_version(bin: Path) -> str:
    said = subprocess.run([bin / "postgres", "--version"], capture_output=True, text=True, check=True)
    return said.stdout.split()[2]


class Postgres:
    """A server with its data in `folder`; the superuser `postgres` needs no password.

    It can be stopped and started again; port and data stay. Without `fsync` data survive everything but a crash of the
    machine itself.
    """

    def __init__(self, bin: Path, folder: Path, port: int) -> None:
        self.bin, self.folder, self.port = bin, folder, port
        self._data, self._log = folder / "data", folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start_in(cls, folder: Path, *, fsync: bool = False, **settings: Setting) -> Self:
        """Make a cluster in this folder, which the servers' account must be able to reach, and start it."""
        bin = find()
        if bin is None:
            raise FileNotFoundError(MISSING)
        process.own(folder)
        server = cls(bin, folder, process.free_port())
        make: list[str | Path] = [
            bin / "initdb",
            "-D",
            server._data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
        ]
        said = subprocess.run(
            process.command([*make, "--no-sync"]), env=process.environment(), cwd="/", capture_output=True, check=False
        )
        if said.returncode != 0:
            raise RuntimeError(f"initdb failed in {folder}:\n{said.stderr.decode(errors='replace')}")
        chosen: dict[str, Setting] = {
            "listen_addresses": "127.0.0.1",
            "port": server.port,
            "unix_socket_directories": "",
            "fsync": fsync,
            "full_page_writes": fsync,
            **_SETTINGS,
            **settings,
        }
        with (server._data / "postgresql.conf").open("a") as file:
            file.writelines(f"{name} = '{_spelt(value)}'\n" for name, value in chosen.items())
        server.start()
        return server

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        assert self._process is None, "it runs already"
        begun = process.start([self.bin / "postgres", "-D", self._data], self._log, at_our_end="INT")
        process.wait(begun, lambda: self._says_ready(begun.pid), self._log)
        self._process = begun

    def stop(self, mode: Mode = "fast") -> None:
        """End it; a server that is stopped already stays so."""
        if self._process is None:
            return
        ended, self._process = self._process, None
        ended.send_signal(_SIGNALS[mode])
        try:
            ended.wait(30)
        except subprocess.TimeoutExpired:
            _kill(ended)
            raise

    def restart(self, mode: Mode = "fast") -> None:
        """`immediate` ends every connection without a word and recovers from the log, as after a crash."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """SIGKILL for the postmaster, and return when the last of its processes is gone."""
        assert self._process is not None, "it does not run"
        ended, self._process = self._process, None
        _kill(ended)

    def psql(self, sql: str, database: str = "postgres") -> str:
        """What psql prints: a line for each row, `|` between its columns. Each statement commits by itself."""
        line: list[str | Path] = [
            self.bin / "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            self.url(database),
            "-f",
            "-",
        ]
        said = subprocess.run(line, input=sql, env=process.environment(), capture_output=True, text=True, check=False)
        if said.returncode != 0:
            raise RuntimeError(f"{sql}\n{said.stderr}")
        return said.stdout.removesuffix("\n")

    def trust(self, network: str) -> None:
        """Take connections from these addresses, too, where it listens for them (`listen_addresses`)."""
        with (self._data / "pg_hba.conf").open("a") as file:
            file.write(f"host all all {network} trust\n")
        self.psql("SELECT pg_reload_conf()")

    def create(self, name: str) -> str:
        """A new, empty database; its url."""
        self.psql(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def drop(self, name: str) -> None:
        """Also when somebody is still connected."""
        self.psql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def _says_ready(self, pid: int) -> bool:
        """As pg_ctl asks: first line whose file it is (one of a killed server may lie there), eighth how it is."""
        try:
            lines = (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[0] == f"{pid}" and lines[7].strip() == "ready"


def _spelt(value: Setting) -> str:
    return ("on" if value else "off") if isinstance(value, bool) else f"{value}".replace("'", "''")


def _kill(postmaster: subprocess.Popen[bytes]) -> None:
    children = psutil.Process(postmaster.pid).children()
    postmaster.kill()
    postmaster.wait()
    _, left = psutil.wait_procs(children, timeout=30)
    for (
        child
    ) in left:  # it was asked by its id when it was the postmaster's child; psutil checks that it still is the same
        child.kill()
    psutil.wait_procs(left, timeout=10)
