"""From a raw call to its ends: decode, inject, call the user's function, and say what became of each item.

Compiled once for each worker. `CallPlan.perform` is one coroutine for every kind of handler: on the loop it is stepped
there; in a thread or a child process, where each awaitable is taken through `reach`, it never suspends.

It never raises: whatever the user's code does, SystemExit and KeyboardInterrupt included, is an end of the item. A body
that does not fit ends its own item only. Of what we asked to end (cancel), a returned verdict counts; a plain
return does not, because a handler that stopped half-way returns just like one that was ready: its item comes again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from tidemill.app.client import enter_scope
from tidemill.app.worker import Worker
from tidemill.core.around import through
from tidemill.core.fence import Fence
from tidemill.core.inject import Injector, Plan, Reach, here
from tidemill.core.signature import Kind, name_of
from tidemill.engine.fits import check_first
from tidemill.engine.frames import alone, line, trace
from tidemill.engine.reading import UNASKED, Read, context_of, reader, scope_of
from tidemill.engine.slot import Slot
from tidemill.engine.work import DONE, Call, Cancelled, End, Ended, Failed, Misfit, Unstarted
from tidemill.errors import ConfigurationError, NoJson, Reject, Retry, Snooze, Unfit
from tidemill.model import Dead, Done, Later

ALL_DONE: Final = (DONE,)
FENCED: Final = Unstarted("fenced")
_VERDICTS: Final = (Done, Later, Dead)


class Lapsed(Exception):
    """The fence did not hold when the handler was about to start."""


@dataclass(frozen=True, slots=True)
class CallPlan:
    """How one worker's calls are made. `read` turns an item into what the handler gets (None: it gets nothing)."""

    worker: Worker
    plan: Plan
    read: Read | None
    transactional: bool
    now: Callable[[], float]
    bare: bool = False
    """Nothing is injected and nothing stands around it."""

    async def perform(self, call: Call, slot: Slot, reach: Reach = here) -> tuple[End, ...]:
        """The ends of the call's items, in their order."""
        if self.worker.policy.batch is not None:
            return await self._batch(call, slot, reach)
        item = call.items[0]
        try:
            enter_scope(partial(scope_of, call))
            arguments = () if self.read is None else (self.read(item),)
        except BaseException as error:
            return (_unread(error, slot),)
        if arguments and arguments[0] is UNASKED:
            return ALL_DONE
        try:
            if self.bare:  # what nearly all are, without a coroutine between
                returned = self.plan.function(*arguments)
                if hasattr(returned, "__await__"):
                    returned = await reach(returned)
            else:
                returned = await self._call(call, slot, arguments, reach)
        except BaseException as error:
            return (_judge(error, slot, self.worker),)
        if returned is None and not slot.expired and not slot.why:
            return ALL_DONE
        return (_verdict(returned, slot, self.worker),)

    async def _batch(self, call: Call, slot: Slot, reach: Reach) -> tuple[End, ...]:
        enter_scope(partial(scope_of, call))
        ends, values = self._read_all(call.items, slot)
        if not values:
            return tuple(end or DONE for end in ends)
        given: Sequence[End]
        try:
            returned = await self._call(call, slot, (values,), reach)
            given = _verdicts(returned, len(values), slot, self.worker)
        except BaseException as error:
            given = [_judge(error, slot, self.worker)] * len(values)
        if len(values) == len(ends):
            return tuple(given)
        following = iter(given)
        return tuple(next(following) if end is None else end for end in ends)

    def _read_all(self, items: Sequence[Any], slot: Slot) -> tuple[list[End | None], list[Any]]:
        """The end of each item that is not to be worked on, and the values of the others."""
        if self.read is not None:
            with suppress(BaseException):  # below each is read for itself, to see which one does not fit
                read = list(map(self.read, items))
                values = [value for value in read if value is not UNASKED]
                return [DONE if value is UNASKED else None for value in read], values
        found = [self._read_one(item, slot) for item in items]
        return [end for end, _ in found], [value for end, value in found if end is None]

    def _read_one(self, item: Any, slot: Slot) -> tuple[End | None, Any]:
        try:
            value = self.read(item) if self.read else None
        except BaseException as error:
            return _unread(error, slot), None
        return (DONE, None) if value is UNASKED else (None, value)

    async def _call(self, call: Call, slot: Slot, arguments: tuple[Any, ...], reach: Reach) -> Any:
        plan = self.plan
        around = self.worker.middleware
        if self.bare:
            returned = plan.function(*arguments)
            return await reach(returned) if hasattr(returned, "__await__") else returned
        context = None
        if plan.needs_context or around:
            context = slot.context = context_of(call, slot.deadline, slot.connect, self.transactional)

        def still_ours() -> None:  # middleware, and making the dependencies, may have taken long
            if not call.fence.holds(self.now()):
                raise Lapsed

        if around:
            return await through(around, context, lambda: plan.call(arguments, context, reach, still_ours), reach)
        return await plan.call(arguments, context, reach, still_ours if plan.steps else None)


def compile_call(
    worker: Worker, injector: Injector, now: Callable[[], float], *, type_: Any, transactional: bool = False
) -> CallPlan:
    """The plan of a worker whose items' bodies are of `type_`. Raises `ConfigurationError`."""
    owner = f"worker {worker.name!r}"
    policy = worker.policy
    plan = injector.compile(
        worker.handler,
        owner=owner,
        items=0 if type_ is None else 1,
        app_scope=not policy.process,
    )
    if plan.kind in (Kind.GENERATOR, Kind.ASYNC_GENERATOR):
        raise ConfigurationError(
            f"{owner}: {name_of(worker.handler)} yields; a handler returns (a dependency may yield)"
        )
    if plan.first is not None:
        check_first(worker, name_of(worker.handler), plan.first)
    read = None if plan.first is None else reader(worker, type_, plan.first.annotation)
    single = policy.batch is None and not policy.process
    return CallPlan(worker, plan, read, transactional and single, now, plan.free and not worker.middleware)


def holds(fence: Fence, now: float, items: int) -> tuple[End, ...] | None:
    """What a call of this many items ends as if it may not start now; None if it may."""
    return None if fence.holds(now) else (FENCED,) * items


# --- what became of it --------------------------------------------------------------------------------------


def _unread(error: BaseException, slot: Slot) -> End:
    match error:
        case NoJson():
            return Misfit(str(error), dead=True)
        case Unfit():
            return Misfit(str(error), dead=False)
        case _:  # a validator of the user's raised what no validator should
            return Failed(line(error), trace(error))


def _judge(raised: BaseException, slot: Slot, worker: Worker) -> End:
    if slot.expired:
        return _timed_out(worker, trace(raised))
    if slot.why:
        return Cancelled(slot.why)
    error = alone(raised)
    match error:
        case Retry(after=float() | int() as after):
            return Ended(Later(float(after), str(error), attempt=True))
        case Snooze():
            return Ended(Later(error.after, str(error), attempt=False))
        case Reject():
            return Ended(Dead(str(error)))
        case Lapsed():
            return FENCED
        case _:
            return Failed(line(error), trace(raised))


def _verdict(returned: Any, slot: Slot, worker: Worker) -> End:
    if slot.expired:
        return _timed_out(worker, "")
    if isinstance(returned, _VERDICTS):
        return Ended(returned)
    return Cancelled(slot.why) if slot.heard else DONE


def _verdicts(returned: Any, items: int, slot: Slot, worker: Worker) -> Sequence[End]:
    if not isinstance(returned, list | tuple) or slot.expired:
        return [_verdict(returned, slot, worker)] * items
    if not returned or any(isinstance(one, _VERDICTS) for one in returned):
        if len(returned) == items:
            return [_verdict(one, slot, worker) for one in returned]
        error = f"the handler returned {len(returned)} verdicts for {items} items; return one for each, or None"
        return [Failed(f"ValueError: {error}")] * items
    return [_verdict(None, slot, worker)] * items


def _timed_out(worker: Worker, where: str) -> Failed:
    return Failed(f"HandlerTimeout: ran longer than its limit of {worker.policy.time_limit:g} s", where)
