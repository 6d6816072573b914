"""Slots whose calls run in child processes: one child for each slot that was ever busy, kept and used again.

State of a child: none, starting, ready, begun with a call (it says so, hence a call whose child died before that
is innocent and goes to the next one). It belongs to one thread of ours, which starts it, sends it a
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from os import getpid

from tidemill.engine.call_plan import holds
from tidemill.engine.child import Job, Target, child_main
from tidemill.engine.frames import line, trace
from tidemill.engine.slot import Slot
from tidemill.engine.work import Call, Cancelled, End, Failed
from tidemill.errors import ProcessEnded

_START_LIMIT = 60.0
_LOOK = 1.0


class ChildCalls:
    """Calls of one slot in its child process."""

    def __init__(self, target: Target, now: Callable[[], float]) -> None:
        self._target = target
        self._now = now
        self._process: SpawnProcess | None = None
        self._work: Connection | None = None
        self._life: Connection | None = None
        self._closed = False
        self._broken: Failed | None = None

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
            self._broken = Failed(f"ProcessEnded: the child process could not start ({error})")
        except Exception as error:  # no more processes, descriptors or memory
            self._broken = Failed(f"ProcessEnded: the child process could not start: {line(error)}", trace(error))

    def perform(self, call: Call, slot: Slot) -> tuple[End, ...]:
        """Send the call, wait for its ends. A child that was told to end, or did, is not used again."""
        job = Job(call.items, call.attempt, call.delivery, call.token, call.started)
        try:
            ends = self._ask(job)
            if ends is None and not slot.asked:  # it died while it was idle: another one
                self._discard()
                self.ready()  # takes its time: the fence is compared anew
                ends = holds(call.fence, self._now(), len(call.items)) or self._ask(job)
            if ends is None:
                raise ProcessEnded("before it began")
        except ProcessEnded as error:
            ends = (_ended(call, slot, error),) * len(call.items)
            self._discard()
        if self._broken is not None or slot.asked:
            self._discard()
        return ends

    def close(self) -> None:
        """End the child."""
        self._closed = True
        self._discard()

    def _ask(self, job: Job) -> tuple[End, ...] | None:
        """The ends of the job; None if the child ended before it began with it. Raises `ProcessEnded`."""
        if self._broken is not None:
            return (self._broken,) * len(job.items)
        if self._work is None:
            return None
        try:
            self._work.send(job)
            self._receive(None)
        except (ProcessEnded, OSError):
            return None
        ends = self._receive(None)
        if not isinstance(ends, tuple):
            raise ProcessEnded(f"it answered {type(ends).__name__}")
        return ends

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
                    raise ProcessEnded(_how(process.exitcode))
                if timeout is not None and waited >= timeout:
                    raise ProcessEnded(f"it was not ready after {timeout:g} s")
            said: object = work.recv()
        except (EOFError, OSError):
            process.join(_LOOK)
            raise ProcessEnded(_how(process.exitcode)) from None
        return said

    def _start(self) -> None:
        spawn = get_context("spawn")
        work, their_work = spawn.Pipe()
        their_life, life = spawn.Pipe(duplex=False)
        process = spawn.Process(
            target=child_main, args=(self._target, their_work, their_life, getpid()), name=self._target.name
        )
        resource_tracker.ensure_running()  # of multiprocessing; its own start would unblock the signals again
        with _signals_blocked():
            process.start()
        their_work.close()
        their_life.close()
        self._process, self._work, self._life = process, work, life
        atexit.register(self.interrupt)
        if self._closed:
            self.interrupt()

    def _discard(self) -> None:
        """Kill and forget the child."""
        process, self._process = self._process, None
        self._broken = None
        if process is None:
            return
        atexit.unregister(self.interrupt)
        process.join(0)
        if process.exitcode is None:
            process.kill()
        process.join(_LOOK)
        for end in (self._work, self._life):
            if end is not None:
                end.close()
        self._work = self._life = None


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


def _ended(call: Call, slot: Slot, how: ProcessEnded) -> End:
    if slot.expired:
        limit = call.worker.policy.time_limit
        return Failed(f"HandlerTimeout: ran longer than its limit of {limit:g} s; its process was killed")
    return Cancelled(slot.why) if slot.why else Failed(f"ProcessEnded: the child process ended ({how}) during it")


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "no answer"
    return f"signal {-exitcode}" if exitcode < 0 else f"exit code {exitcode}"
