"""The inside of a child process: it makes one call after the other, until its parent is gone.

It imports the handler's module by name, compiles the same plan as its parent and answers each job with its ends. The
running client is not here: a handle used in a `process=True` handler says so, and may be opened by the handler.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import pickle
import signal
import sys
from collections.abc import Awaitable
from contextvars import copy_context
from dataclasses import dataclass, replace
from importlib import import_module
from multiprocessing.connection import Connection
from threading import Lock, Thread
from typing import Any, TypeVar

from tidemill.app.context import Context
from tidemill.app.decorators import Task
from tidemill.app.worker import OnMessage, Policy, Trigger, Worker
from tidemill.core.fence import Fence
from tidemill.core.inject import Injector
from tidemill.core.signature import Kind
from tidemill.engine.call_plan import CallPlan, compile_call
from tidemill.engine.frames import line, trace
from tidemill.engine.reading import type_of
from tidemill.engine.slot import Slot
from tidemill.engine.threads import run_through
from tidemill.engine.work import Call, End, Failed, Item, Token
from tidemill.errors import ConfigurationError

T = TypeVar("T")

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Target:
    """A worker by the names of its function and middleware, as (module, qualified name). `declared` is its pickled
    trigger and policy: values and types by name."""

    name: str
    group: str
    module: str
    qualname: str
    declared: bytes
    middleware: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """What a child needs to know of a call."""

    items: tuple[Item, ...]
    attempt: int
    delivery: int
    token: Token | None
    started: float


def target_of(worker: Worker) -> Target:
    """The worker as a child finds it. Raises `ConfigurationError` if it could not."""
    owner = f"worker {worker.name!r}"
    handler = worker.handler
    module, qualname = _place_of(handler, owner, "a function")
    around = tuple(_place_of(middleware, owner, "middleware") for middleware in worker.middleware)
    trigger: Trigger = worker.trigger
    if isinstance(trigger, OnMessage) and isinstance(find(module, qualname), Task):
        trigger = replace(trigger, type=None)  # a task's message type is made from its signature, there as here
    try:
        declared = pickle.dumps((trigger, worker.policy))
    except Exception as error:  # pickle raises several unrelated kinds
        raise ConfigurationError(
            f"{owner}: process=True needs a message type at module level ({line(error)}); move it there"
        ) from None
    return Target(worker.name, worker.group, module, qualname, declared, around)


def _place_of(function: Any, owner: str, what: str) -> tuple[str, str]:
    """Where a child finds this function. Raises `ConfigurationError` if it could not."""
    module, qualname = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    try:
        found = _handler_of(find(module, qualname))
    except (ImportError, AttributeError, ValueError):
        found = None
    if found is not function:
        raise ConfigurationError(
            f"{owner}: process=True needs {what} at module level that is found by its name; "
            f"{module}:{qualname} is not; move it there, or drop process=True"
        )
    return module, qualname


def find(module: str, qualname: str) -> Any:
    """The object of that name. Raises ImportError, AttributeError or ValueError."""
    found: Any = import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _handler_of(found: Any) -> Any:
    return found.handler if isinstance(found, Task) else found


def _worker(target: Target) -> Worker:
    found = find(target.module, target.qualname)
    trigger, policy = _declared(target)
    if isinstance(found, Task) and isinstance(trigger, OnMessage):
        trigger = replace(trigger, type=found.queue.type)
    around = tuple(find(module, qualname) for module, qualname in target.middleware)
    return Worker(target.name, target.group, trigger, _handler_of(found), policy, around)


def _declared(target: Target) -> tuple[Trigger, Policy]:
    trigger, policy = pickle.loads(target.declared)  # our own bytes, through our own pipe
    return trigger, policy


# --- the child's main ---------------------------------------------------------------------------------------


def child_main(target: Target, work: Connection, life: Connection, parent: int) -> None:
    """Answer jobs from `work` until it ends; end the process at once when `life` ends."""
    _bind_to(parent, life)
    try:
        calls = _Calls(_worker(target))
    except BaseException as error:
        work.send(Failed(line(error), trace(error)))
        return
    work.send("ready")
    while True:
        try:
            job: Job = work.recv()
        except (EOFError, OSError):
            return
        work.send("begun")
        work.send(calls.perform(job))


def _bind_to(parent: int, life: Connection) -> None:
    signals = {signal.SIGINT, signal.SIGTERM}
    for number in signals:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we asked to be told
        os._exit(1)
    Thread(target=_die_with, args=(life,), name="parent", daemon=True).start()


def _die_with(life: Connection) -> None:
    try:
        life.recv_bytes()
    except (EOFError, OSError):
        pass
    os._exit(1)


class _Sink:
    def results(self, results: object) -> None:
        """Nobody asks: the answer goes through the pipe."""


class _Calls:
    """Makes the calls of one worker, on a loop that lives as long as the child where the handler is async."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._plan: CallPlan = compile_call(
            worker, Injector(Context), _no_time, type_=type_of(worker), transactional=False
        )
        self._runner = asyncio.Runner()

    def perform(self, job: Job) -> tuple[End, ...]:
        call = Call(
            self._worker, job.items, Fence(float("inf")), _Sink(), job.attempt, job.delivery, job.token, job.started
        )
        slot = Slot(Lock())
        slot.begin(call)
        slot.start(job.started)
        return copy_context().run(self._perform, call, slot)

    def _perform(self, call: Call, slot: Slot) -> tuple[End, ...]:
        if self._plan.plan.kind is Kind.ASYNC:
            return self._runner.run(self._plan.perform(call, slot), context=copy_context())
        context = copy_context()  # one for all that the call awaits, so that what is set in it may be reset in it

        async def reach(work: Awaitable[T], /) -> T:
            async def awaited() -> T:
                return await work

            return self._runner.run(awaited(), context=context)

        return run_through(self._plan.perform(call, slot, reach))


def _no_time() -> float:
    """The parent has compared the fence; here it always holds."""
    return 0.0
