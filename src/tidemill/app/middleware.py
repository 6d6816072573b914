"""Middleware: one callable around each call of a handler.

    @app.middleware
    async def timing(context: Context, proceed: Proceed) -> None:
        began = perf_counter()
        try:
            await proceed()
        finally:
            print(context.worker, context.id, perf_counter() - began)

`await proceed()` gives what the handler returned, or raises what it raised. What the middleware returns counts as
the handler's return; None leaves things as they are, a failure that it caught included: to change how a call ends,
return a verdict or raise. So a middleware that forgets to return, or to raise again, loses nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from tidemill.app.context import Context
from tidemill.core.signature import Kind, kind_of
from tidemill.errors import ConfigurationError


class Proceed(Protocol):
    """Goes on with the call: the next middleware, then dependencies and handler. To be awaited once, in place."""

    def __call__(self) -> Awaitable[Any]: ...


Middleware: TypeAlias = Callable[[Context, Proceed], Awaitable[Any]]


def checked(middleware: Any) -> Any:
    """The middleware, if it can be one. Raises `ConfigurationError` with its name and the fix."""
    name = getattr(middleware, "__name__", None) or type(middleware).__name__
    if kind_of(middleware) is not Kind.ASYNC:
        raise ConfigurationError(
            f"middleware {name!r} must be an async function: async def {name}(context: Context, proceed: Proceed)"
        )
    try:
        inspect.signature(middleware).bind(None, None)
    except TypeError:
        raise ConfigurationError(f"middleware {name!r} must take (context, proceed), and nothing else") from None
    return middleware
