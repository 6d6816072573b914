"""Handlers at module level, where a child process finds them, and a parent that can be killed."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from tidemill.app.app import App
from tidemill.app.client import running
from tidemill.app.context import Context
from tidemill.app.depends import Depends
from tidemill.core.fence import Fence
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.engine.work import Call, Result
from tidemill.errors import NotRunning, Reject
from tidemill.model import Dead, Delivery


class Order(BaseModel):
    """A message that says what its handler should do."""

    do: str
    path: str = ""


app = App("children")
orders = app.queue("orders", Order)
also = app.queue("also", Order)
lists = app.queue("lists", int)


@app.on_message(orders, process=True, concurrency=2, time_limit=0.5)
def work(order: Order) -> Any:
    """One function for all that may happen in a child."""
    match order.do:
        case "pid":
            raise Reject(str(os.getpid()))
        case "hang":
            Path(order.path).write_text(str(os.getpid()))
            time.sleep(60)
        case "hold":  # the GIL, so that no thread of the child can run
            Path(order.path).write_text(str(os.getpid()))
            ctypes.PyDLL(None).sleep(60)
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(7)
        case "sys.exit":
            sys.exit(8)
        case "signals":
            for number in (signal.SIGINT, signal.SIGTERM):
                os.kill(os.getpid(), number)
        case "raise":
            raise ValueError("in the child")
        case "handle":
            try:
                running()
            except NotRunning:
                return Dead("no client")
    return None


async def twice() -> AsyncIterator[int]:
    async with asyncio.timeout(60):
        yield 2


@app.on_message(also, process=True)
async def work_async(order: Order, context: Context, factor: Annotated[int, Depends(twice)]) -> Dead:
    """Async, with a dependency and the context."""
    await asyncio.sleep(0)
    return Dead(f"{order.do} {context.id} {context.attempt} {factor} {context.deadline is not None}")


@app.on_message(lists, process=True, batch=10)
def work_many(numbers: list[int]) -> list[Dead]:
    return [Dead(str(number)) for number in numbers]


@app.task(process=True)
def resize(width: int, height: int = 3) -> Dead:
    return Dead(f"{width}x{height}")


class _Print:
    def results(self, results: Any) -> None:
        for result in results:
            assert isinstance(result, Result)
            print(result.ends, flush=True)


async def parent(what: str, path: str) -> None:
    """Run a handler in a child until somebody kills us."""
    [worker] = [w for w in app.declared().workers if w.name == "work"]
    handlers = Handlers([worker], SystemClock())
    await handlers.start()
    body = Order(do=what, path=path).model_dump_json().encode()
    item = Delivery("orders", "1", body, None, {}, 0, 0.0, 0, 1, "", "c")
    handlers.submit([Call(worker, (item,), Fence(float("inf")), _Print())])
    if what == "leave":
        await asyncio.sleep(1.5)
        return
    await asyncio.sleep(60)


if __name__ == "__main__":
    asyncio.run(parent(*sys.argv[1:3]))
