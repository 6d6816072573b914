"""Helpers for tests of the handlers' side: items, calls, and a sink that keeps what comes back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tidemill.app.app import App
from tidemill.app.worker import Worker
from tidemill.core.fence import Fence
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.engine.work import Call, End, Item, Result
from tidemill.model import Delivery, Kind, Logged

LONG = 20.0
"""Seconds after which a test gives up waiting: never a measure of anything."""


class Sink:
    """Keeps results; `ends(n)` waits for n of them."""

    def __init__(self) -> None:
        self.all: list[Result] = []
        self._came = asyncio.Event()

    def results(self, results: Sequence[Result]) -> None:
        self.all.extend(results)
        self._came.set()

    async def wait(self, count: int) -> list[Result]:
        async with asyncio.timeout(LONG):
            while len(self.all) < count:
                self._came.clear()
                await self._came.wait()
        return self.all

    async def ends(self, count: int = 1) -> list[End]:
        return [end for result in await self.wait(count) for end in result.ends]


def delivery(body: bytes = b"7", id: str = "m1", **fields: Any) -> Delivery:
    usual: dict[str, Any] = {
        "queue": "numbers", "key": None, "headers": {}, "priority": 0, "sent_at": 0.0, "attempt": 0,
        "deliveries": 1, "reason": "", "claim": id,
    }  # fmt: skip
    return Delivery(id=id, body=body, **(usual | fields))


def logged(kind: Kind = "put", body: bytes | None = b"7", id: str = "c1", before: bytes | None = None) -> Logged:
    return Logged(id, "0", 1, None, kind, "doc", "key", body, before, 12.5)


def message_worker(handler: Callable[..., Any], type_: Any = int, **options: Any) -> Worker:
    """The worker of a handler on a queue of numbers."""
    app = App("test")
    app.on_message(app.queue("numbers", type_), name="w", **options)(handler)
    return app.declared().workers[0]


def change_worker(handler: Callable[..., Any], **options: Any) -> Worker:
    """The worker of a handler on a table whose rows are numbers."""
    app = App("test")
    app.on_change(app.table("rows", int, id="id"), name="w", **options)(handler)
    return app.declared().workers[0]


def timer_worker(handler: Callable[..., Any], **options: Any) -> Worker:
    app = App("test")
    app.every("1m", name="w", **options)(handler)
    return app.declared().workers[0]


def call(worker: Worker, sink: Sink, *items: Item, deadline: float = float("inf"), **fields: Any) -> Call:
    return Call(worker, items or (delivery(),), Fence(deadline), sink, **fields)


@asynccontextmanager
async def hands(*workers: Worker, **options: Any) -> AsyncIterator[Handlers]:
    """Handlers that run, on the test's loop unless `inline=False`."""
    handlers = Handlers(workers, options.pop("clock", None) or SystemClock(), **({"inline": True} | options))
    await handlers.start()
    try:
        yield handlers
    finally:
        await handlers.stop(LONG)


async def end_of(worker: Worker, *items: Item, inline: bool = True, **fields: Any) -> tuple[End, ...]:
    """The ends of one call in handlers of its own."""
    sink = Sink()
    async with hands(worker, inline=inline) as handlers:
        handlers.submit([call(worker, sink, *items, **fields)])
        [result] = await sink.wait(1)
        return result.ends
