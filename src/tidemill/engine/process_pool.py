"""Slots whose calls run in child processes: one child for each slot that was ever busy, kept and used again.

State of a child: none, starting, ready, in a call. It belongs to one thread of ours, which starts it, sends it a
call, and blocks for the answer; a time limit or a cancel kills it from outside, and the next call gets a new one.

Failure cases first. *The child dies* (a signal, an exit, memory): its pipe ends, only its call fails. *We die*,
however: the kernel kills the child (Linux: PR_SET_PDEATHSIG, which hangs on the thread that started it) and,
everywhere, a thread of the child reads a pipe that only we hold open, and ends the process at its end. *Ctrl-C or
SIGTERM for the whole group*: blocked while the child starts, then ignored; only we decide when it ends. *We exit in
order*: an atexit hook kills children before `multiprocessing` would wait for them.

What crosses are our own values (raw bodies, and the ends of a call) and the name `module:function`, never code.
"""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from os import getpid
from threading import Lock

from tidemill.engine.child import Job, Target, child_main
from tidemill.engine.frames import line, trace
from tidemill.engine.slot import Slot
from tidemill.engine.work import Call, Cancelled, End, Failed
from tidemill.errors import ProcessEnded

_START_LIMIT = 60.0
_LOOK = 1.0


class ChildCalls:
    """Calls of one slot in its child process."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._process: SpawnProcess | None = None
        self._work: Connection | None = None
        self._life: Connection | None = None
        self._lock = Lock()
        self._closed = False
        self._broken: Failed | None = None

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is a child."""
        return self._process.pid if self._process is not None else None

    def interrupt(self) -> None:
        """Kill the child, if there is one. From any thread."""
        process = self._process
        if process is not None:
            process.kill()

    def ready(self) -> None:
        """Have a child that waits for work; what prevented that is the answer to the next call."""
        if self._process is not None and not self._process.is_alive():
            self._discard()
        if self._process is not None or self._closed:
            return
        try:
            self._start()
            answer = self._receive(_START_LIMIT)
            self._broken = answer if isinstance(answer, Failed) else None
        except ProcessEnded as error:
            self._broken = Failed(f"ProcessEnded: the child process could not start: {error}")
        except Exception as error:  # no more processes, descriptors or memory
            self._broken = Failed(f"ProcessEnded: the child process could not start: {line(error)}", trace(error))

    def perform(self, call: Call, slot: Slot) -> tuple[End, ...]:
        """Send the call, wait for its ends. A child that was killed, or died, is not used again."""
        ends = (self._broken,) * len(call.items) if self._broken is not None else self._ask(call, slot)
        if self._broken is not None or slot.expired or slot.why:
            self._discard()
        return ends

    def close(self) -> None:
        """End the child."""
        self._closed = True
        self._discard()

    def _ask(self, call: Call, slot: Slot) -> tuple[End, ...]:
        try:
            if self._work is None:
                raise ProcessEnded()
            self._work.send(Job(call.items, call.attempt, call.delivery, call.token, call.started))
            ends = self._receive(None)
            if isinstance(ends, tuple):
                return ends
            raise ProcessEnded("the child process answered something else")
        except (ProcessEnded, OSError) as error:
            return (self._ended(call, slot, error),) * len(call.items)

    def _ended(self, call: Call, slot: Slot, error: Exception) -> End:
        if slot.expired:
            limit = call.worker.policy.time_limit
            return Failed(f"HandlerTimeout: ran longer than its limit of {limit:g} s; its process was killed")
        if slot.why:
            return Cancelled(slot.why)
        how = self._discard()
        return Failed(f"ProcessEnded: the child process ended ({how}) during it")

    def _receive(self, timeout: float | None) -> object:
        """What the child says next. Raises `ProcessEnded`."""
        process, work = self._process, self._work
        if process is None or work is None:
            raise ProcessEnded()
        waited = 0.0
        try:
            while not work.poll(_LOOK):  # the pipe's end may stay open in a grandchild: look at the process too
                waited += _LOOK
                if not process.is_alive() and not work.poll(0):
                    raise ProcessEnded(f"it ended ({_how(process.exitcode)})")
                if timeout is not None and waited >= timeout:
                    raise ProcessEnded(f"it was not ready after {timeout:g} s")
            said: object = work.recv()
        except (EOFError, OSError):
            process.join(_LOOK)
            raise ProcessEnded(f"it ended ({_how(process.exitcode)})") from None
        return said

    def _start(self) -> None:
        spawn = get_context("spawn")
        work, their_work = spawn.Pipe()
        their_life, life = spawn.Pipe(duplex=False)
        process = spawn.Process(
            target=child_main, args=(self._target, their_work, their_life, getpid()), name=self._target.name
        )
        with _signals_blocked():
            process.start()
        their_work.close()
        their_life.close()
        self._process, self._work, self._life = process, work, life
        atexit.register(self.interrupt)
        if self._closed:
            self.interrupt()

    def _discard(self) -> str:
        """Kill and forget the child. How it ended."""
        process, self._process = self._process, None
        self._broken = None
        if process is None:
            return "before it began"
        atexit.unregister(self.interrupt)
        process.join(0)
        if process.exitcode is None:
            process.kill()
        process.join(_LOOK)
        for end in (self._work, self._life):
            if end is not None:
                end.close()
        return _how(process.exitcode)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """What this thread starts meanwhile starts with SIGINT and SIGTERM held back."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "no answer"
    return f"signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"
