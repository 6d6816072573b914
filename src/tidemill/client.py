"""Handles outside of a worker: in a script, a notebook, a web view of another framework."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tidemill import settings as settings_module
from tidemill.app.client import using
from tidemill.app.worker import Declared
from tidemill.engine.clock import SystemClock
from tidemill.engine.outlet import Outlet
from tidemill.locate import Adapters, locate


class AppClient:
    """`async with app.client():` opens the handles on this loop; `with app.client():` on a loop of its own, for
    `wait(…)`. Options are settings by name (`database="sqlite:///work.db"`)."""

    def __init__(self, declared: Declared, options: Mapping[str, Any], adapters: Adapters | None = None) -> None:
        self._declared = declared
        self._options = options
        self._adapters = adapters
        self._stack: AsyncExitStack | None = None
        self._sync: ExitStack | None = None

    async def __aenter__(self) -> Self:
        outlet = await self._open()
        assert self._stack is not None
        self._stack.enter_context(using(outlet, asyncio.get_running_loop()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._stack is not None
        await self._stack.aclose()

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="tidemill-client", daemon=True)
        thread.start()

        def end() -> None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

        with ExitStack() as stack:
            stack.callback(end)
            outlet = asyncio.run_coroutine_threadsafe(self._open(), loop).result()
            stack.callback(lambda: asyncio.run_coroutine_threadsafe(self._close(), loop).result())
            stack.enter_context(using(outlet, loop))
            self._sync = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sync is not None
        self._sync.close()

    async def _open(self) -> Outlet:
        settings = settings_module.load(os.environ, folder=Path.cwd(), options=self._options)
        settings.fit(self._declared)
        places = locate(self._declared, settings, SystemClock(), self._adapters)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(places.close)
            await places.open()
            outlet = Outlet(places, asyncio.get_running_loop())
            stack.push_async_callback(outlet.close)
            self._stack = stack.pop_all()
        return outlet

    async def _close(self) -> None:
        assert self._stack is not None
        await self._stack.aclose()


def client(declared: Declared, options: Mapping[str, Any], adapters: Adapters | None = None) -> AppClient:
    """What `App.client` opens."""
    return AppClient(declared, options, adapters)
