"""The bounds of a request: bytes of its body, seconds in all, how many at once. And every error as a problem.

A request that meets a bound gets an answer at once; nothing waits in a line that nobody sees the end of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.routing import APIRoute

from tidemill.errors import TidemillError
from tidemill.web.problems import Problem, problem_of, refused

MOST_BODY = 1 << 20
"""Bytes of a request's body."""

_CLOSE = {"Connection": "close"}
"""What is left of the body will not be read, so the connection is of no more use."""


class Bounds:
    """What the routes of one router share: how many requests are in work, out of `in_flight`, and for how long."""

    def __init__(self, *, time_limit: float, in_flight: int) -> None:
        self.time_limit: float = time_limit
        self.in_flight: int = in_flight
        self.working = 0


class BodyRequest(Request):
    """A request whose body is bounded, and handed over as the bytes it is."""

    whole: bool = False
    """The body was read to its end."""

    async def body(self) -> bytes:
        """All of it. Raises `Refused` beyond the bound."""
        if not hasattr(self, "_body"):
            length = self.headers.get("content-length", "")
            if length.isdecimal() and int(length[:20]) > MOST_BODY:
                raise _too_large()
            body = bytearray()
            async for chunk in self.stream():
                body += chunk
                if len(body) > MOST_BODY:
                    raise _too_large()
            self._body = bytes(body)
        self.whole = True
        return self._body

    async def json(self) -> Any:
        """The bytes: the collection's own codec decodes them, as it does for workers."""
        return await self.body()


def bounded(bounds: Bounds) -> type[APIRoute]:
    """The kind of route that keeps these bounds."""

    class BoundedRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            inner = super().get_route_handler()

            async def handle(request: Request) -> Response:
                return await _answer(inner, request, bounds)

            return handle

    return BoundedRoute


async def _answer(
    inner: Callable[[Request], Coroutine[Any, Any, Response]], request: Request, bounds: Bounds
) -> Response:
    if bounds.working >= bounds.in_flight:
        return Problem("overloaded", f"{bounds.in_flight} requests are in work already").response()
    bounds.working += 1
    bounded_request = BodyRequest(request.scope, request.receive)
    try:
        async with asyncio.timeout(bounds.time_limit) as limit:
            return await inner(bounded_request)
    except (TidemillError, HTTPException, RequestValidationError) as error:
        return problem_of(error).response()
    except TimeoutError:
        if not limit.expired():
            raise
        if request.method in ("POST", "PUT", "PATCH") and not bounded_request.whole:
            late = Problem("too_slow", f"the body did not come within {bounds.time_limit:g} s", (), _CLOSE)
        else:
            late = Problem("time_limit", f"no answer within {bounds.time_limit:g} s; it may have taken effect")
        return late.response()
    finally:
        bounds.working -= 1


def _too_large() -> Exception:
    return refused("too_large", f"the body has more than {MOST_BODY} bytes", headers=_CLOSE)
