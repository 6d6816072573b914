"""Tasks beside a service's own: kept while they run, and never failing in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Tasks:
    """Whoever owns it raises `fault` from its own `run`, so that a failure ends the process with its cause."""

    def __init__(self) -> None:
        self.fault: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this beside; its failure becomes the fault."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def check(self) -> None:
        """Raises the first failure, if there was one."""
        if self.fault is not None:
            raise self.fault

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and self.fault is None:
            self.fault = error
