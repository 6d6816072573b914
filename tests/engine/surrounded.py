"""Handlers and middleware at module level, where a child process finds them."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Any

from tidemill.app.app import App
from tidemill.app.context import Context
from tidemill.app.middleware import Proceed
from tidemill.model import Dead

CALLER: ContextVar[str] = ContextVar("caller", default="nobody")

app = App("surrounded")
numbers = app.queue("numbers", int)


@app.middleware
async def naming(context: Context, proceed: Proceed) -> None:
    token = CALLER.set(context.worker)
    try:
        await proceed()
    finally:
        CALLER.reset(token)


@app.middleware
async def telling(context: Context, proceed: Proceed) -> Dead:
    return Dead(f"{await proceed()} after {CALLER.get()} in {os.getpid()}")


@app.on_message(numbers, process=True)
def plain(number: int) -> str:
    return f"{CALLER.get()} {number}"


@app.on_message(numbers, process=True)
async def coroutine(number: int) -> str:
    return f"{CALLER.get()} {number}"


def anything(item: Any) -> None:
    """Takes what comes."""
