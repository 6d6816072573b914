"""A thread with a connection of its own, fed from the event loop in batches.

State: `_pending` and the futures belong to the loop; the queue hands whole lists of jobs to the thread; the
thread owns its connection and the jobs it took until it hands them back. All jobs that the tasks of one loop
iteration submit travel together, so they land in one group commit; results come back in one wake-up a batch.

Failures first. A job that the thread did not begin within `PATIENCE` fails with `Unavailable` while the thread
may still be blocked (a stopped process holds the file); the thread passes over it later, so nothing wedges and
work goes on at once when the file is free. A job that was begun may take effect although its future failed: its
outcome is unknown, as everywhere. The thread survives every error of a job. A handle used after fork raises
`Forked`; one that is closed or was never opened raises `Unavailable`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from queue import Empty, SimpleQueue
from sqlite3 import Connection
from threading import Thread
from typing import Any, Protocol, TypeVar

from tidemill.errors import Forked, Unavailable

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds after which a job that waits for the file is given up."""

GROUP = 500
"""No more jobs than this are done together."""


class Job:
    """One call: `run(connection)` on the thread, then `after(value)` on the loop if it took effect, also when
    nobody waits for the future any more."""

    __slots__ = ("after", "durable", "error", "future", "patient", "run", "timer", "value")

    def __init__(self, run: Callable[[Connection], Any], future: asyncio.Future[Any]) -> None:
        self.run: Callable[[Connection], Any] = run
        self.future: asyncio.Future[Any] = future
        self.after: Callable[[Any], None] | None = None
        self.durable: bool = True
        self.patient: bool = False
        self.timer: asyncio.TimerHandle | None = None
        self.value: Any = None
        self.error: Exception | None = None


class Work(Protocol):
    """What is done on the thread; every method is called there."""

    interval: float | None
    """Seconds between calls of `idle` while there are no jobs; None: never."""

    def enter(self) -> None:
        """Open the connection; what this raises is raised by `Lane.start`."""
        ...

    def perform(self, jobs: list[Job]) -> None:
        """Run the jobs; sets `value` or `error` of each."""
        ...

    def idle(self) -> None: ...

    def leave(self) -> None: ...


class Lane:
    """The loop's side of one such thread."""

    def __init__(self, name: str, work: Work) -> None:
        self._name = name
        self._work = work
        self._pid = os.getpid()
        self._pending: list[Job] = []
        self._queue: SimpleQueue[list[Job] | None] = SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended: asyncio.Future[None] | None = None

    async def start(self) -> None:
        """Returns when the connection is open; raises what opening it raised."""
        loop = self._loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        entered: asyncio.Future[None] = loop.create_future()
        Thread(target=self._main, args=(loop, entered, self._ended), name=self._name, daemon=True).start()
        done, _ = await asyncio.wait((entered,), timeout=PATIENCE)
        if not done:
            self._queue.put(None)
            self._loop = None
            raise Unavailable(f"{self._name}: not opened within {PATIENCE:.0f} s; another process holds the file")
        if entered.exception() is not None:
            self._loop = None
        entered.result()

    async def close(self) -> None:
        """Do what was submitted, end the thread. Idempotent, legal before `start`; gives up after `PATIENCE`."""
        loop, self._loop = self._loop, None
        if loop is None or self._ended is None:
            return
        self._flush(loop)
        self._queue.put(None)
        await asyncio.wait((self._ended,), timeout=PATIENCE)

    def submit(
        self,
        run: Callable[[Connection], T],
        *,
        after: Callable[[T], None] | None = None,
        durable: bool = True,
        patient: bool = False,
    ) -> asyncio.Future[T]:
        """Have `run` called on the thread. `patient`: wait without end (work at the start)."""
        if os.getpid() != self._pid:
            raise Forked()
        loop = self._loop
        if loop is None:
            raise Unavailable(f"{self._name}: not open")
        future: asyncio.Future[T] = loop.create_future()
        job = Job(run, future)
        job.after, job.durable, job.patient = after, durable, patient
        if not self._pending:
            loop.call_soon(self._flush, loop)
        self._pending.append(job)
        return future

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        if jobs := self._pending:
            self._pending = []
            jobs[0].timer = loop.call_later(PATIENCE, self._expire, jobs)
            self._queue.put(jobs)

    def _expire(self, jobs: list[Job]) -> None:
        for job in jobs:
            if not job.patient and not job.future.done():
                job.future.set_exception(Unavailable(f"{self._name}: no answer within {PATIENCE:.0f} s"))

    def _resolve(self, jobs: list[Job]) -> None:
        for job in jobs:
            if job.timer is not None:
                job.timer.cancel()
            if job.error is None and job.after is not None:
                job.after(job.value)
            if job.future.done():
                continue
            if job.error is None:
                job.future.set_result(job.value)
            else:
                job.future.set_exception(job.error)

    # --- the thread's side ---

    def _main(
        self, loop: asyncio.AbstractEventLoop, entered: asyncio.Future[None], ended: asyncio.Future[None]
    ) -> None:
        try:
            self._work.enter()
        except Exception as error:
            post(loop, settle, entered, error)
        else:
            post(loop, settle, entered, None)
            while (jobs := self._take()) is not None:
                self._perform(jobs)
                post(loop, self._resolve, jobs)
        self._work.leave()
        post(loop, settle, ended, None)

    def _take(self) -> list[Job] | None:
        """The next jobs, and with them what else is there already; None at the end."""
        while True:
            try:
                jobs = self._queue.get(timeout=self._work.interval)
                break
            except Empty:
                self._work.idle()
        while jobs is not None and len(jobs) < GROUP and not self._queue.empty():
            more = self._queue.get()
            if more is None:
                self._queue.put(None)
                break
            jobs += more
        return jobs

    def _perform(self, jobs: list[Job]) -> None:
        for start in range(0, len(jobs), GROUP):
            group = jobs[start : start + GROUP]
            try:
                self._work.perform(group)
            except Exception as error:
                for job in group:
                    job.error = job.error or Unavailable(f"{self._name}: {error!r}")


def wanted(jobs: list[Job]) -> list[Job]:
    """The jobs that somebody still waits for; the others are passed over."""
    for job in jobs:
        if job.future.done():
            job.error = Unavailable("given up before it was begun")
    return [job for job in jobs if job.error is None]


def post(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
    """Have the loop call this; a loop that is closed has nobody left who waits."""
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:
        pass


def settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
