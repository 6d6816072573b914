"""One connection to a SQLite file: pragmas, the translation of errors, and SQL that several modules need."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

from tidemill.errors import BackendFull, ConfigurationError, TooLarge, Unavailable

BUSY = 10.0
"""Seconds a connection waits for a lock that a foreign program holds (our own processes queue by flock)."""

_ROOM = 32 * 1024
"""Bytes that SQLite needs to begin with: the index of its log."""

WRITER_CACHE = 16 * 1024
READER_CACHE = 16 * 1024
"""Page caches in KiB; they grow only as they are used."""


def connect(path: Path, cache: int) -> sqlite3.Connection:
    """A connection in autocommit mode (transactions are explicit), usable from the thread that asks for it."""
    connection = sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA cache_size = -{cache}")
    connection.execute("PRAGMA mmap_size = 0")
    return connection


def connect_writer(path: Path) -> sqlite3.Connection:
    """The connection that writes; the caller holds the flock. Creates the file, in WAL mode, if it is missing."""
    connection = connect(path, WRITER_CACHE)
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # has effect in a new file only
        connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    connection.execute("PRAGMA secure_delete = OFF")  # some builds overwrite what is deleted, at twice the I/O
    return connection


def connect_reader(path: Path, members: Path) -> sqlite3.Connection:
    """A connection that only reads, with the members' file beside it under the name `members`."""
    connection = connect(path, READER_CACHE)
    connection.execute("ATTACH DATABASE ? AS members", (str(members),))
    connection.execute("PRAGMA query_only = ON")
    return connection


def check_file(path: Path) -> None:
    """Raise `ConfigurationError` for what can be known before SQLite looks at the file."""
    if not path.parent.is_dir():
        raise ConfigurationError(f"sqlite {path}: there is no folder {path.parent}; create it or change the path")
    if path.is_dir():
        raise ConfigurationError(f"sqlite {path}: this is a folder; name a file")
    readonly = path.exists() and (not path.stat().st_mode & 0o222 or not os.access(path, os.W_OK))
    if readonly or not os.access(path.parent, os.W_OK):
        what = "the file" if readonly else f"the folder {path.parent}"
        raise ConfigurationError(f"sqlite {path}: {what} is read-only; give this user the right to write")


def translate(error: Exception, path: Path, *, opening: bool = False) -> Exception:
    """The error as ours; what is not SQLite's comes back as it is.

    `opening`: a file that cannot be opened or written is a mistake of the configuration then, an outage later.
    """
    if isinstance(error, OSError):
        return Unavailable(f"sqlite {path}: {error}")
    if not isinstance(error, sqlite3.Error):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_room(path)):
        return BackendFull(f"sqlite {path}: no room left on the disk; nothing was written")
    if code == sqlite3.SQLITE_TOOBIG:
        return TooLarge(f"sqlite {path}: {error}")
    if code == sqlite3.SQLITE_NOTADB:
        return ConfigurationError(f"sqlite {path}: the file is not a SQLite database; change the path or move it")
    if opening and code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return ConfigurationError(f"sqlite {path}: {error}; check the rights of the file and of its folder")
    return Unavailable(f"sqlite {path}: {error}")


def _no_room(path: Path) -> bool:
    """SQLite says "disk I/O error" when it cannot even make the file beside its log."""
    try:
        return shutil.disk_usage(path.parent).free < _ROOM
    except OSError:
        return False


def warnings_of(version: tuple[int, int, int]) -> tuple[str, ...]:
    """What the start should log about the linked SQLite; a version that lacks what we need is refused."""
    text = ".".join(map(str, version))
    if version < (3, 37, 0):
        raise ConfigurationError(f"sqlite: version {text} is linked, 3.37 or newer is needed")
    if version < (3, 51, 3):
        return (f"sqlite: version {text} has the WAL-reset bug (several processes on one file); 3.51.3 fixes it",)
    return ()


def quoted(name: str) -> str:
    """An identifier for SQL text."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string for SQL text (triggers and indexes take no arguments)."""
    return "'" + text.replace("'", "''") + "'"
