"""What dependencies and middleware cost a call, in microseconds over a call with nothing injected.

One handler in each form is called by its compiled plan, as a slot does it, without queue and threads; the forms take
turns and the median of the rounds counts. The handler counts its calls, each `yield` its closings: what was not made,
or made twice, is printed as lost or doubled and makes the exit code 1.

    python -m bench.inject [--rounds 9] [--calls 20000]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Any

from tidemill.app.app import App
from tidemill.app.context import Context
from tidemill.app.depends import Depends
from tidemill.app.middleware import Proceed
from tidemill.core.fence import Fence
from tidemill.core.inject import Injector
from tidemill.engine.call_plan import CallPlan, compile_call
from tidemill.engine.slot import Slot
from tidemill.engine.work import DONE, Call
from tidemill.model import Delivery

_LIMIT = 3.0
FREE = "nothing injected"


@dataclass
class Counted:
    """What was called, and what was closed."""

    calls: int = 0
    closed: int = 0


Form = tuple[Callable[..., Any], tuple[Callable[[Context, Proceed], Awaitable[Any]], ...]]
"""A handler, and what is around it."""


def forms(counted: Counted) -> dict[str, Form]:
    """The handlers that are measured, by what they have injected."""

    def handler(dependency: Callable[..., Any]) -> Callable[..., Any]:
        async def injected(number: int, x: int = Depends(dependency)) -> None:
            counted.calls += 1

        return injected

    async def plain(number: int) -> None:
        counted.calls += 1

    async def with_context(number: int, context: Context) -> None:
        counted.calls += 1

    def value() -> int:
        return 1

    def opened() -> Iterator[int]:
        yield 1
        counted.closed += 1

    async def opened_async() -> AsyncIterator[int]:
        yield 1
        counted.closed += 1

    async def around(context: Context, proceed: Proceed) -> None:
        await proceed()

    return {
        FREE: (plain, ()),
        "the context": (with_context, ()),
        "a value": (handler(value), ()),
        "a yield": (handler(opened), ()),
        "an async yield": (handler(opened_async), ()),
        "nested five deep": (handler(nested(value, 4)), ()),
        "middleware": (plain, (around,)),
        "two middlewares": (plain, (around, around)),
    }


def nested(innermost: Callable[..., Any], levels: int) -> Callable[..., Any]:
    """A dependency with so many more under it."""
    found = innermost
    for _ in range(levels):

        def over(under: int = Depends(found)) -> int:
            return under

        found = over
    return found


class _Sink:
    def results(self, results: object) -> None:
        """Nobody asks."""


def compiled(form: Form) -> CallPlan:
    handler, middleware = form
    app = App("bench")
    app.on_message(app.queue("numbers", int), name="bench")(handler)
    for each in middleware:
        app.middleware(each)
    [worker] = app.declared().workers
    return compile_call(worker, Injector(Context), time.monotonic, type_=int)


async def microseconds(plan: CallPlan, calls: int) -> float:
    """CPU time a call."""
    delivery = Delivery("numbers", "1", b"7", None, {}, 0, 0.0, 0, 1, "", "1")
    call = Call(plan.worker, (delivery,), Fence(float("inf")), _Sink())
    slot = Slot(Lock())
    began = time.process_time()
    for _ in range(calls):
        slot.begin(call)
        if await plan.perform(call, slot) != (DONE,):
            raise RuntimeError("a call failed")
    return (time.process_time() - began) / calls * 1e6


def measure(rounds: int, calls: int = 20_000) -> dict[str, float]:
    """What dependencies and middleware cost a call, over one with nothing injected (CPU time)."""
    counted = Counted()
    plans = {name: compiled(form) for name, form in forms(counted).items()}
    found: dict[str, list[float]] = {name: [] for name in plans}
    for _ in range(rounds):
        for name, plan in plans.items():
            found[name].append(asyncio.run(microseconds(plan, calls)))
    least = {name: statistics.median(figures) for name, figures in found.items()}
    free = least.pop(FREE)
    figures = {f"{FREE} µs": free}
    for name, cost in least.items():
        figures[f"{name} µs more" + (f" (≤ {_LIMIT:g})" if name == "a yield" else "")] = cost - free
    figures["calls made"] = counted.calls
    figures["lost and doubled"] = abs(counted.calls - rounds * calls * len(plans)) + abs(
        counted.closed - rounds * calls * 2
    )
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=20_000)
    options = parser.parse_args()
    figures = measure(options.rounds, options.calls)
    for name, figure in figures.items():
        print(f"{name:32} {figure:>12,.2f}")
    return 1 if figures["lost and doubled"] else 0


if __name__ == "__main__":
    sys.exit(main())
