"""Who certainly lives no more: a locked file for each member in the folder `<name>.d` beside the database.

The kernel frees the lock at the process's end, however it ends. A file that can be locked belongs to the dead; a
file that is not there tells nothing (another host, or long ago). The lock is kept until `drop`, also when the
database is closed: handlers may still run then. Children that were *spawned* do not inherit it (close on exec);
a child that was forked keeps it, so its parent counts as alive until both are gone, which errs to the safe side.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from tidemill.adapters.sqlite.session import beside
from tidemill.errors import Unavailable

KEPT = 86_400.0
"""Seconds for which the file of a dead member is kept, so that every observer can see it."""


class Presence:
    """`ports.Presence` by lock files."""

    def __init__(self, path: Path) -> None:
        self._folder = beside(path, ".d")
        self._held: dict[str, int] = {}

    async def hold(self, member: str) -> None:
        if member in self._held:
            return
        try:
            self._folder.mkdir(exist_ok=True)
            descriptor = os.open(self._file(member), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise Unavailable(f"sqlite {self._folder}: member {member} cannot be shown: {error}") from error
        self._held[member] = descriptor
        os.utime(descriptor)
        self._tidy(os.fstat(descriptor).st_mtime)

    async def drop(self, member: str) -> None:
        if (descriptor := self._held.pop(member, None)) is not None:
            self._file(member).unlink(missing_ok=True)
            os.close(descriptor)

    async def gone(self, members: Sequence[str]) -> Sequence[str]:
        return [member for member in members if member not in self._held and free(self._file(member))]

    def _file(self, member: str) -> Path:
        return self._folder / f"member-{quote(member, safe='')}.lock"

    def _tidy(self, now: float) -> None:
        """Remove the files of those who died long ago; `now` by the file system's own clock."""
        for file in self._folder.glob("member-*.lock"):
            try:
                if now - file.stat().st_mtime > KEPT and free(file):
                    file.unlink(missing_ok=True)
            except OSError:
                continue  # somebody else was faster


def free(file: Path) -> bool:
    """Whether the file is there and nobody holds its lock."""
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(descriptor)
