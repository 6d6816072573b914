"""A connection as the parts use it. The driver has no types of its own."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeAlias

Row: TypeAlias = Any
"""A row: a sequence of values that are also found by name."""


class Link(Protocol):
    """What asyncpg's connection does, as far as it is needed. Parameters are `$1`, `$2`, …"""

    async def execute(self, sql: str, *args: Any) -> str:
        """The command's tag: `UPDATE 3`."""
        ...

    async def fetch(self, sql: str, *args: Any) -> Sequence[Row]: ...

    async def fetchrow(self, sql: str, *args: Any) -> Row | None: ...

    async def fetchval(self, sql: str, *args: Any) -> Any: ...

    def transaction(self) -> AbstractAsyncContextManager[Any]: ...
