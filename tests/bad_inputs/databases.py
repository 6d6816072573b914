"""Files and ports in the state that a row needs. What they return is put into the row's command by name."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

NAME = "x.db"


@contextmanager
def nothing(folder: Path) -> Iterator[Mapping[str, object]]:
    yield {}


@contextmanager
def folders(folder: Path) -> Iterator[Mapping[str, object]]:
    """A folder where a file is meant."""
    (folder / NAME).mkdir()
    yield {}


@contextmanager
def dotenv_folder(folder: Path) -> Iterator[Mapping[str, object]]:
    (folder / ".env").mkdir()
    yield {}


@contextmanager
def no_text(folder: Path) -> Iterator[Mapping[str, object]]:
    (folder / ".env").write_bytes(b"\xff\xfe\x00")
    yield {}


@contextmanager
def read_only(folder: Path) -> Iterator[Mapping[str, object]]:
    (folder / NAME).touch(mode=0o444)
    yield {}


@contextmanager
def with_table(folder: Path) -> Iterator[Mapping[str, object]]:
    with closing(sqlite3.connect(folder / NAME)) as base:
        base.execute("CREATE TABLE orders (number TEXT PRIMARY KEY, customer TEXT)")
    yield {}


@contextmanager
def newer(folder: Path) -> Iterator[Mapping[str, object]]:
    """As a later release would leave it."""
    with closing(sqlite3.connect(folder / NAME)) as base:
        base.execute("CREATE TABLE tidemill_meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID")
        base.execute("INSERT INTO tidemill_meta VALUES ('version', 0), ('format', 99)")
        base.commit()
    yield {}


@contextmanager
def locked(folder: Path) -> Iterator[Mapping[str, object]]:
    """By another program, for as long as the command runs."""
    with closing(sqlite3.connect(folder / NAME, isolation_level=None)) as base:
        base.execute("CREATE TABLE theirs (id INTEGER)")
        base.execute("BEGIN EXCLUSIVE")
        yield {}


@contextmanager
def full(folder: Path) -> Iterator[Mapping[str, object]]:
    """A disk of a few pages, which needs the right to mount one."""
    (folder / "full").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32k", "tmpfs", str(folder / "full")], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield {}
    finally:
        subprocess.run(["umount", str(folder / "full")], check=True)


@contextmanager
def taken(folder: Path) -> Iterator[Mapping[str, object]]:
    """A port on which another program listens."""
    with closing(socket.socket()) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield {"port": listening.getsockname()[1]}
