"""What handles need from whoever runs the app: the worker, a client, or the test harness.

A handle (`Queue`, `Collection`) holds its declaration only. The running client is found through a ContextVar,
so one declaration serves a worker, a web request, a script and a test, and importing an app does no I/O.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from tidemill.errors import Forked, NotRunning, TidemillError
from tidemill.model import Commit, Message, Query, Rows, Statement, Stored, Write, Written

T = TypeVar("T")


class Client(Protocol):
    """The ports as a handle sees them, on the loop of its caller."""

    async def send(self, queue: str, messages: Sequence[Message]) -> Sequence[str]: ...

    def check(self, queue: str, messages: Sequence[Message]) -> None:
        """Raises `BadOption` or `TooLarge` for what the queue's backend does not take. No I/O; `send` does it too."""
        ...

    def statements(self, commit: Commit) -> Sequence[Statement]:
        """The commit as SQL for a connection of the user's own. Raises `BadOption` where there is no such thing."""
        ...

    async def get(self, collection: str, ids: Sequence[str]) -> Sequence[Stored | None]: ...

    async def write(self, collection: str, writes: Sequence[Write]) -> Sequence[Written]: ...

    async def query(self, collection: str, query: Query) -> Rows: ...

    async def pause(self, worker: str) -> None:
        """Wish that no replica starts anything more of this worker, until somebody resumes it. Durable."""
        ...


@dataclass(slots=True)
class Running:
    """A client in use: where it lives, and in which process."""

    client: Client
    loop: asyncio.AbstractEventLoop
    pid: int


@dataclass(slots=True)
class Scope:
    """The handler call that sends: its name makes default ids, so that a rerun sends nothing twice."""

    name: Callable[[], str]
    sent: int = 0

    def next_id(self) -> str:
        self.sent += 1
        return f"{self.name()}/{self.sent}"


_running: ContextVar[Running | None] = ContextVar("tidemill_client", default=None)
_scope: ContextVar[Scope | None] = ContextVar("tidemill_scope", default=None)


@contextmanager
def using(client: Client, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Make `client` the one that handles find, in this context and in tasks started from it."""
    token = _running.set(Running(client, loop, os.getpid()))
    try:
        yield
    finally:
        _running.reset(token)


def running() -> Running:
    """The client in use. Raises `NotRunning`, or `Forked` in a child that inherited it."""
    found = _running.get()
    if found is None:
        raise NotRunning()
    if found.pid != os.getpid():
        raise Forked()
    return found


def check_unsent(message: Message) -> None:
    """Let the client in use refuse now what is sent later, with a commit. Without a client nothing is known of the
    backend: a handler that is called by a unit test."""
    found = _running.get()
    if found is not None:
        found.client.check(message.queue, [message])


def enter_scope(name: Callable[[], str]) -> None:
    """From here on sends in this context take their default ids from `name`, which is asked for with the first."""
    _scope.set(Scope(name))


def default_id() -> str | None:
    """The next default id of the handler call we are in, None outside of one."""
    scope = _scope.get()
    return scope.next_id() if scope else None


def wait(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine of a handle from plain code: a `def` handler, a script, a Django view.

    Blocks this thread until it is done. Raises what it raises; `TidemillError` when called on the very loop
    that would have to run it (use `await` there).
    """
    try:
        loop = running().loop
    except TidemillError:
        work.close()
        raise
    if _current_loop() is loop:
        work.close()
        raise TidemillError("wait() would block the loop it waits for: use await here")
    return asyncio.run_coroutine_threadsafe(work, loop).result()


def _current_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
