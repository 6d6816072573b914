"""What the threads do: `Writer` in group commits behind an flock queue, `Reader` in short read transactions.

Group commit: jobs run one after the other in one transaction and get their results only after COMMIT. No
savepoints: when any job raises, the transaction is rolled back and every job of the group runs again alone (a
full disk rolls back everything anyway). When COMMIT raises, all get the error.

The flock on the side file comes before BEGIN IMMEDIATE: the kernel queues it first come, first served, while
SQLite's own busy handler starves whole processes. A group without a durable job (claims: after a power cut
their owners are dead) commits without waiting for the disk; the next durable commit carries it along.

Foreign commits are seen by `PRAGMA data_version`, which stands still for commits of the same connection. So the
writer's thread looks, every 1 ms after any activity, slowing down to every 25 ms.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tidemill.adapters.sqlite.connection import connect_reader, connect_writer, translate
from tidemill.adapters.sqlite.lane import Job, wanted

LOOK_MIN, LOOK_MAX, LOOK_GROWTH = 0.001, 0.08, 1.15
"""Seconds between two looks for foreign commits, and the factor from one to the next while nothing happens."""


class Writer:
    """The work of a writer's thread. `changed` is called there when another process has committed."""

    def __init__(
        self,
        path: Path,
        prepare: Callable[[sqlite3.Connection], None],
        changed: Callable[[], None] | None,
    ) -> None:
        self.interval = None if changed is None else LOOK_MIN
        self._path = path
        self._prepare = prepare
        self._changed = changed
        self._lock = -1
        self._connection: sqlite3.Connection | None = None
        self._durable = True
        self._version = 0

    def enter(self) -> None:
        try:
            self._lock = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            try:
                self._connection = connect_writer(self._path)
                self._prepare(self._connection)
            finally:
                fcntl.flock(self._lock, fcntl.LOCK_UN)
            self._version = self._data_version(self._connection)
        except Exception as error:
            raise translate(error, self._path, opening=True) from error

    def perform(self, jobs: list[Job]) -> None:
        connection = self._opened()
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        try:
            jobs = wanted(jobs)  # some may have been given up while the file was held
            if jobs and not self._together(connection, jobs):
                for job in jobs:
                    self._together(connection, [job])
        finally:
            fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._look(active=True)

    def idle(self) -> None:
        self._look(active=False)

    def leave(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._lock >= 0:
            os.close(self._lock)

    def _together(self, connection: sqlite3.Connection, jobs: list[Job]) -> bool:
        """Run the jobs in one transaction. False: one of several failed and nothing took effect."""
        try:
            self._begin(connection, durable=any(job.durable for job in jobs))
        except Exception as error:
            return self._fail(connection, jobs, error)
        try:
            for job in jobs:
                job.value = job.run(connection)
        except Exception as error:
            self._fail(connection, jobs if len(jobs) == 1 else [], error)
            return len(jobs) == 1
        try:
            connection.execute("COMMIT")
        except Exception as error:
            return self._fail(connection, jobs, error)
        return True

    def _begin(self, connection: sqlite3.Connection, *, durable: bool) -> None:
        if durable is not self._durable:
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable
        connection.execute("BEGIN IMMEDIATE")

    def _fail(self, connection: sqlite3.Connection, jobs: list[Job], error: Exception) -> bool:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        for job in jobs:
            job.error = translate(error, self._path)
        return True

    def _look(self, *, active: bool) -> None:
        """Tell of foreign commits, and choose when to look again."""
        if self._changed is None or self.interval is None:
            return
        try:
            version = self._data_version(self._opened())
        except sqlite3.Error:
            version = self._version  # the next job meets the error and reports it
        if version != self._version:
            self._version = version
            self._changed()
            active = True
        self.interval = LOOK_MIN if active else min(LOOK_MAX, self.interval * LOOK_GROWTH)

    def _data_version(self, connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA data_version").fetchone()[0])

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError("the writer was not entered")
        return self._connection


class Reader:
    """The work of a reader's thread: the jobs of a batch see one state of the file."""

    interval: float | None = None

    def __init__(self, path: Path, members: Path) -> None:
        self._path = path
        self._members = members
        self._connection: sqlite3.Connection | None = None

    def enter(self) -> None:
        try:
            self._connection = connect_reader(self._path, self._members)
        except Exception as error:
            raise translate(error, self._path, opening=True) from error

    def perform(self, jobs: list[Job]) -> None:
        connection = self._connection
        if connection is None:
            raise RuntimeError("the reader was not entered")
        connection.execute("BEGIN")
        try:
            for job in wanted(jobs):
                self._run(connection, job)
        finally:
            connection.execute("COMMIT")

    def idle(self) -> None: ...

    def leave(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def _run(self, connection: sqlite3.Connection, job: Job) -> None:
        try:
            job.value = job.run(connection)
        except Exception as error:
            job.error = translate(error, self._path)
