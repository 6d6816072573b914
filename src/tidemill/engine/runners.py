"""Slots on the handlers' loop: one long-lived task each, no task and no timer per call.

A runner takes the next call of its worker's line, compares the fence, and steps the call inside a fresh copy of the
context. It gives the loop a turn every few calls even if none of them waits. A cancellation of the runner's task
belongs to the call it is in (time limit, cancel, the user's own time-outs); one that came too late is shaken off, so
that it hits neither the next call nor the runner. Everything here happens on the handlers' loop, except `Line`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from threading import Lock

from tidemill.engine.call_plan import FENCED, CallPlan
from tidemill.engine.isolate import going_on
from tidemill.engine.outbox import Outbox
from tidemill.engine.slot import Line, Slot
from tidemill.engine.work import Call, End

TASK = "tidemill worker "
"""What the name of a runner's task starts with; the worker's name follows."""

_IN_A_ROW = 16
_TURN = 0.001
_AT_ONCE = 2


class LoopPool:
    """The slots of one worker on the handlers' loop."""

    def __init__(self, plan: CallPlan, line: Line, outbox: Outbox, now: Callable[[], float]) -> None:
        self.line = line
        self._plan = plan
        self._outbox = outbox
        self._now = now
        self._base = Context()
        self._slots: list[Slot] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._resting: list[asyncio.Future[None]] = []
        self._lock = Lock()
        self._closed = False

    def open(self, base: Context) -> None:
        """Calls run in copies of this context from now on. Wakes for what is in line already."""
        self._base = base
        self.wake()

    def wake(self) -> None:
        """Calls were put in line, or one of those that run waits for something: a few runners get up.

        Each takes call after call for as long as none of them waits; when one does, it wakes others in turn. So calls
        that never wait cost no runner's getting up (measured: a tenth of the time), and n that do have all begun
        after log n turns of the loop.
        """
        calls = 0 if self._closed else min(len(self.line), _AT_ONCE)
        while calls > 0 and self._resting:
            resting = self._resting.pop()
            if not resting.done():
                resting.set_result(None)
                calls -= 1
        for _ in range(min(calls, self._plan.worker.policy.concurrency - len(self._slots))):
            self._add()

    def cancel(self, calls: Sequence[Call], why: str) -> None:
        """Cancel those of these calls that run."""
        wanted = {id(call) for call in calls}
        for slot in self._slots:
            if slot.call is not None and id(slot.call) in wanted:
                slot.cancel(slot.call, why)

    def sweep(self, now: float) -> None:
        """End what runs longer than its limit."""
        for slot in self._slots:
            slot.expire(now)

    def close(self) -> list[asyncio.Task[None]]:
        """End all runners, whatever they are in. The tasks, to be awaited."""
        self._closed = True
        for slot, task in zip(self._slots, self._tasks, strict=True):
            if slot.call is not None:
                slot.cancel(slot.call, "stopped")
            task.cancel()
        return self._tasks

    def _add(self) -> None:
        slot = Slot(self._lock)
        name = TASK + self._plan.worker.name
        task = asyncio.get_running_loop().create_task(self._run(slot), name=name, context=self._base.copy())
        slot.interrupt = task.cancel
        self._slots.append(slot)
        self._tasks.append(task)

    async def _run(self, slot: Slot) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a runner is a task")
        calls, since = 0, self._now()
        while not self._closed:
            call = self.line.take()
            if call is None:
                await self._rest()
                calls, since = 0, self._now()
            else:
                ended = await self._work(call, slot)
                calls += 1
                if calls >= _IN_A_ROW or ended - since > _TURN:
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(0)
                    calls, since = 0, self._now()
            if task.cancelling():
                await _shake_off(task)

    async def _work(self, call: Call, slot: Slot) -> float:
        slot.begin(call)
        now = self._now()
        ends: tuple[End, ...]
        if not call.fence.holds(now):
            ends = (FENCED,) * len(call.items)
        else:
            slot.start(now)
            context, work = self._base.copy(), self._plan.perform(call, slot)
            try:
                waiting_for = context.run(work.send, None)
            except StopIteration as end:  # it never waited, as most do in a busy moment
                ends = end.value
            else:
                if self.line:
                    self.wake()
                ends = await going_on(context, work, waiting_for)
        slot.end()
        return self._outbox.put_soon(call, slot, ends)

    async def _rest(self) -> None:
        resting = asyncio.get_running_loop().create_future()
        self._resting.append(resting)
        with suppress(asyncio.CancelledError):
            await resting


async def _shake_off(task: asyncio.Task[None]) -> None:
    """A cancellation that was asked for but has not arrived arrives here, and is forgotten."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)
    while task.cancelling():
        task.uncancel()
