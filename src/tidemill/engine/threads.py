"""Slots in threads of our own, for plain functions and for the keepers of child processes.

One daemon thread for each slot, started when it is first needed, named after its worker: nothing joins it at the end,
so a stuck function cannot hold the exit. Threads take their calls from the worker's line themselves and never
need the handlers' loop, so they go on while it is stuck.

State: at least as many tokens in the queue as calls in line, so a free thread wakes for each; a token may find no
call (it was taken back) and is then dropped. Taking a call and marking the slot happen under the pool's lock: a
cancel finds each call in line, in a slot, or ended, never between. A thread cannot be cancelled: it is told
through `context.cancelled` and keeps its slot until it returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any, Protocol, TypeVar

from tidemill.engine.call_plan import CallPlan, holds
from tidemill.engine.frames import line as line_of
from tidemill.engine.frames import trace
from tidemill.engine.outbox import Outbox
from tidemill.engine.slot import Line, Slot
from tidemill.engine.work import Call, End, Failed

T = TypeVar("T")


class Performer(Protocol):
    """What a slot's thread makes its calls with. All methods but `interrupt` are called in that thread."""

    @property
    def interrupt(self) -> Callable[[], object] | None:
        """How to end the running call from outside, if there is a way."""
        ...

    def ready(self) -> None:
        """Get ready for a call; may take long and must not fail."""
        ...

    def perform(self, call: Call, slot: Slot) -> tuple[End, ...]:
        """Make the call."""
        ...

    def close(self) -> None:
        """No more calls."""
        ...


class ThreadPool:
    """The slots of one worker in threads."""

    def __init__(
        self,
        line: Line,
        outbox: Outbox,
        now: Callable[[], float],
        *,
        name: str,
        size: int,
        performer: Callable[[], Performer],
    ) -> None:
        self.line = line
        self._outbox = outbox
        self._now = now
        self._name = name
        self._size = size
        self._performer = performer
        self._slots: list[Slot] = []
        self._tokens: SimpleQueue[None] = SimpleQueue()
        self._lock = Lock()
        self._closed = False

    def wake(self) -> None:
        """Calls were put in line. On the engine's side; starts threads that are missing."""
        for _ in range(len(self.line) - self._tokens.qsize()):
            self._tokens.put(None)
        while len(self._slots) < min(self._size, self.line.outstanding) and not self._closed:
            self._add()

    def cancel(self, calls: Sequence[Call], why: str) -> None:
        """Tell those of these calls that run. From any thread."""
        wanted = {id(call) for call in calls}
        for slot in self._slots:
            if (call := slot.call) is not None and id(call) in wanted:
                slot.cancel(call, why)

    def withdraw(self, calls: Sequence[Call]) -> list[Call]:
        """Those of these calls that still wait leave the line."""
        with self._lock:
            withdrawn = self.line.withdraw(calls)
        self.wake()  # whoever looked while the line was empty dropped its token
        return withdrawn

    def sweep(self, now: float) -> None:
        """Tell what runs longer than its limit."""
        for slot in self._slots:
            slot.expire(now)

    def close(self) -> None:
        """No more calls; threads end when theirs do, what can be interrupted is."""
        self._closed = True
        for slot in self._slots:
            self._tokens.put(None)
            if (call := slot.call) is not None:
                slot.cancel(call, "stopped")
            with self._lock:
                if slot.interrupt is not None:
                    slot.interrupt()

    def _add(self) -> None:
        performer = self._performer()
        slot = Slot(self._lock, performer.interrupt)
        self._slots.append(slot)
        name = f"{self._name}-{len(self._slots)}"
        Thread(target=self._run, args=(slot, performer), name=name, daemon=True).start()

    def _run(self, slot: Slot, performer: Performer) -> None:
        while True:
            self._tokens.get()
            if self._closed:
                performer.close()
                return
            if not len(self.line):
                continue
            performer.ready()
            with self._lock:
                call = None if self._closed else self.line.take()
                if call is not None:
                    slot.begin(call)
            if call is not None:
                ends = self._work(call, slot, performer)
                slot.end()
                self._outbox.put(call, slot, ends)

    def _work(self, call: Call, slot: Slot, performer: Performer) -> tuple[End, ...]:
        now = self._now()
        ends = holds(call.fence, now, len(call.items))
        if ends is not None:
            return ends
        slot.start(now)
        try:
            return performer.perform(call, slot)
        except BaseException as error:  # a fault of ours must fail the call, not lose it with its thread
            return (Failed(line_of(error), trace(error)),) * len(call.items)


class FunctionCalls:
    """Calls of a plain function, each in its own copy of the context."""

    interrupt = None

    def __init__(self, plan: CallPlan, base: Context, loop: asyncio.AbstractEventLoop) -> None:
        self._plan = plan
        self._base = base
        self._loop = loop

    def ready(self) -> None:
        """A thread always is."""

    def perform(self, call: Call, slot: Slot) -> tuple[End, ...]:
        context = self._base.copy()
        keeper = LoopKeeper(self._loop, slot, context)
        try:
            return context.run(run_through, self._plan.perform(call, slot, keeper.reach))
        finally:
            keeper.close()

    def close(self) -> None:
        """Nothing is held."""


def run_through(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends to its end, without a loop."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    work.close()
    raise RuntimeError("a call in a thread must not wait for a loop")


class LoopKeeper:
    """Awaits on the handlers' loop what a call in a thread depends on, all of it in one task, made when needed.

    One task, so that an async generator is entered and left where its time-outs and task groups belong. A wish to end
    is meant for one job: it may come before the loop has begun with it, and must not be lost then, nor hit the next.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, slot: Slot, context: Context) -> None:
        self._loop = loop
        self._slot = slot
        self._context = context
        self._todo: asyncio.Queue[_Job | None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def reach(self, work: Awaitable[T], /) -> T:
        """The result of `work`; blocks this thread. A cancel or time limit meanwhile cancels the work."""
        job = _Job(work)
        with self._slot.lock:
            self._slot.interrupt = partial(self._interrupt, job)
            job.unwanted = self._todo is None and self._slot.asked  # before anything was made: nothing need be closed
        try:
            if self._todo is None:
                self._todo = asyncio.Queue()
                self._loop.call_soon_threadsafe(self._begin, self._todo, self._context.copy())
            self._loop.call_soon_threadsafe(self._todo.put_nowait, job)
            result: T = job.answer.result()
            return result
        finally:
            with self._slot.lock:
                self._slot.interrupt = None

    def close(self) -> None:
        """The call has ended."""
        if self._todo is not None:
            self._loop.call_soon_threadsafe(self._todo.put_nowait, None)

    def _begin(self, todo: asyncio.Queue[_Job | None], context: Context) -> None:
        self._task = self._loop.create_task(_keep(todo), context=context)

    def _interrupt(self, job: _Job) -> None:
        self._loop.call_soon_threadsafe(self._cancel, job)

    def _cancel(self, job: _Job) -> None:
        job.unwanted = True
        if job.runs and self._task is not None:
            self._task.cancel()


class _Job:
    """One thing to await. On the loop only, but for `answer`. `unwanted`: it was told to end; `runs`: it has begun."""

    __slots__ = ("answer", "runs", "unwanted", "work")

    def __init__(self, work: Awaitable[Any]) -> None:
        self.work: Awaitable[Any] = work
        self.answer: Future[Any] = Future()
        self.runs: bool = False
        self.unwanted: bool = False

    async def run(self) -> None:
        """Answer it, whatever happens."""
        try:
            if self.unwanted:
                close = getattr(self.work, "close", None)
                if close is not None:
                    close()
                raise asyncio.CancelledError
            self.runs = True
            result = await self.work
        except BaseException as error:
            self.runs = False
            self.answer.set_exception(error)
        else:
            self.runs = False
            self.answer.set_result(result)


async def _keep(todo: asyncio.Queue[_Job | None]) -> None:
    task = asyncio.current_task()
    while True:
        try:
            if (job := await todo.get()) is None:
                return
        except asyncio.CancelledError:  # it came too late for the work it was meant for
            job = None
        if job is not None:
            await job.run()
        while task is not None and task.cancelling():
            task.uncancel()
