"""Middleware around a call, on the loop and from threads alike.

A middleware is one coroutine that waits, in its middle, for the call it is around. It is stepped to that point where
loops are (through `reach`, as dependencies are); then the call is made right here, which may be a thread that no loop
can enter; then the middleware is stepped on with what came of it. So it keeps one task and one context from start to
end, its time-outs and task groups hold, and the ContextVars it sets are seen by the call, in a thread too.

A failure cannot be made to unhappen by forgetting it: what a middleware caught and did not raise again still stands
unless it returned something in its place. Nor can a call be left out by forgetting it: who never proceeds must
return a verdict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextvars import Context, copy_context
from types import coroutine
from typing import Any, Final, NamedTuple

from tidemill.core.inject import Reach, here
from tidemill.model import Dead, Done, Later

_VERDICTS: Final = (Done, Later, Dead)
_NOTHING: Final = object()


class Step(NamedTuple):
    """Where a middleware is: `asked` for the call to be made, or ended with `value`. `seen` is its context then."""

    asked: bool
    value: Any
    seen: Context | None


class Proceeding:
    """What a middleware is given to go on with."""

    __slots__ = ("asked",)

    def __init__(self) -> None:
        self.asked: bool = False

    def __call__(self) -> Proceeding:
        return self

    def __await__(self) -> Generator[Any, Any, Any]:
        if self.asked:
            raise RuntimeError("proceed() was awaited twice: a call is made once; what should be tried again is raised")
        self.asked = True
        return (yield self)

    def __repr__(self) -> str:
        return "proceed(): await it in the middleware itself, not in another task"


async def through(
    around: Sequence[Callable[..., Any]], context: Any, call: Callable[[], Awaitable[Any]], reach: Reach = here
) -> Any:
    """What `call` gives, through these middlewares, outermost first. Raises what is left of its failure."""
    if not around:
        return await call()
    proceed = Proceeding()
    work: Coroutine[Any, Any, Any] = around[0](context, proceed)
    result: Any = None
    failure: BaseException | None = None
    try:
        step = await reach(_step(work, proceed, None, None))
        if not step.asked:
            return _instead(step.value, around[0])
        if reach is not here and step.seen is not None:
            _adopt(step.seen)
        try:
            result = await through(around[1:], context, call, reach)
        except BaseException as error:
            failure = error
        step = await reach(_step(work, proceed, result, failure))
    finally:
        work.close()
    if step.value is not None:
        return step.value
    if failure is not None:
        raise failure
    return result


@coroutine
def _step(
    work: Coroutine[Any, Any, Any], proceed: Proceeding, result: Any, failure: BaseException | None
) -> Generator[Any, Any, Step]:
    """Go on with a middleware until it asks for the call, or ends."""
    try:
        waits_for = work.send(result) if failure is None else work.throw(failure)
        while waits_for is not proceed:
            try:
                value = yield waits_for
            except GeneratorExit:
                raise
            except BaseException as error:
                waits_for = work.throw(error)
            else:
                waits_for = work.send(value)
    except StopIteration as end:
        return Step(False, end.value, None)
    return Step(True, None, copy_context())


def _adopt(seen: Context) -> None:
    """Set here what the middleware has set where it runs."""
    for variable, value in seen.items():
        if variable.get(_NOTHING) is not value:
            variable.set(value)


def _instead(value: Any, middleware: Callable[..., Any]) -> Any:
    """What stands in the place of a call that was not made: a verdict, or one for each item."""
    verdicts = value if isinstance(value, list | tuple) else [value]
    if verdicts and all(isinstance(verdict, _VERDICTS) for verdict in verdicts):
        return value
    name = getattr(middleware, "__name__", type(middleware).__name__)
    raise RuntimeError(
        f"middleware {name!r} ended without a call of the handler: await proceed(), or return Done, Later or Dead"
    )
