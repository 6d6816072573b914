"""Many requests as one call, for services that have no batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

AT_ONCE = 16
"""Requests of one call that are under way at the same time."""

T = TypeVar("T")
R = TypeVar("R")


async def each(do: Callable[[T], Awaitable[R]], items: Sequence[T]) -> list[R]:
    """Do it with each, several at once; the first failure is raised, after all have ended."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> R:
        async with free:
            return await do(item)

    results = await asyncio.gather(*(one(item) for item in items), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]
