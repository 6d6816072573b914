"""The user's lifespan and the app-scoped dependencies: entered and left in one and the same task.

Task groups, time-outs and anyio's scopes must be left by the task that entered them. So one task runs `live` from start
to stop: it enters, says that it is ready with a copy of its context, waits, and leaves in reverse order.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from contextvars import Context, copy_context
from typing import Any

from tidemill.app.client import Client, using
from tidemill.core.inject import AppScope
from tidemill.errors import ConfigurationError


async def live(
    lifespan: Callable[[], Any] | None,
    client: Client | None,
    scope: AppScope,
    *,
    entered: Callable[[Context], None],
    leave: asyncio.Event,
) -> None:
    """Enter all, call `entered`, and leave all when `leave` is set. Raises what any of it raises."""
    async with AsyncExitStack() as stack:
        if client is not None:
            stack.enter_context(using(client, asyncio.get_running_loop()))
        if lifespan is not None:
            await _enter(stack, lifespan)
        await scope.open()
        stack.push_async_callback(scope.close)
        entered(copy_context())
        await leave.wait()


async def _enter(stack: AsyncExitStack, lifespan: Callable[[], Any]) -> None:
    if inspect.isasyncgenfunction(lifespan):
        lifespan = asynccontextmanager(lifespan)
    elif inspect.isgeneratorfunction(lifespan):
        lifespan = contextmanager(lifespan)
    manager = lifespan()
    if hasattr(manager, "__aenter__"):
        await stack.enter_async_context(manager)
    elif hasattr(manager, "__enter__"):
        stack.enter_context(manager)
    else:
        raise ConfigurationError(
            "lifespan must be a function that returns a context manager: "
            "decorate it with contextlib.asynccontextmanager and yield once"
        )
