"""A coroutine in a context of its own, without a task of its own.

A task per call would cost half of the throughput. So the long-lived runner of a slot drives each call's coroutine
itself and steps it inside the call's own copy of the context: `asyncio.current_task()` stays the runner, time-outs
and cancellation reach the coroutine through it, and what the call sets in its ContextVars ends with the call. The
first step is the runner's own, `context.run(work.send, None)`: most calls end in it.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextvars import Context
from types import coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@coroutine
def going_on(context: Context, work: Coroutine[Any, Any, T], waiting_for: Any) -> Generator[Any, Any, T]:
    """Go on with `work`, whose first step inside `context` has yielded `waiting_for`, to its end."""
    while True:
        failure: BaseException | None = None
        try:
            value = yield waiting_for
        except GeneratorExit:
            context.run(work.close)
            raise
        except BaseException as error:
            failure = error
        try:
            waiting_for = context.run(work.send, value) if failure is None else context.run(work.throw, failure)
        except StopIteration as end:
            result: T = end.value
            return result
