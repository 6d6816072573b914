"""Where the handlers live: a loop in a thread of its own, or the loop that is there, and one task around it all.

State: made → starting → there → leaving → over. One task enters the lifespan, says that it is there, and leaves it when
told to; nothing else ends it in order. If it ends otherwise, or the loop does (a SystemExit in a task of the
user's passes through it), the cause is told on the engine's loop, once: to who waits for the start, to who
waits for the stop, else to `on_death`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, copy_context
from typing import Any, Protocol, TypeVar

from tidemill.engine.frames import alone, line, where
from tidemill.errors import ConfigurationError, TidemillError
from tidemill.ports import Clock

T = TypeVar("T")

_TIDY = 0.5


class Live(Protocol):
    """The life of the handlers' side as a coroutine: enter, call `entered`, wait for `leave`, leave."""

    def __call__(self, *, entered: Callable[[Context], None], leave: asyncio.Event) -> Coroutine[Any, Any, None]: ...


class Home:
    """Starts and ends the handlers' loop, and takes work to it."""

    def __init__(
        self, clock: Clock, *, inline: bool = False, on_death: Callable[[BaseException], None] | None = None
    ) -> None:
        self._clock = clock
        self._inline = inline
        self._on_death = on_death
        self._engine: asyncio.AbstractEventLoop | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready: asyncio.Future[None] | None = None
        self._life: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()
        self._over = asyncio.Event()
        self._fault: BaseException | None = None
        self._leaving = False
        self._base = Context()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The handlers' loop. Raises `TidemillError` before the start."""
        if self._loop is None:
            raise TidemillError("the handlers are not running")
        return self._loop

    @property
    def thread(self) -> int | None:
        """The identity of the loop's own thread; None if it has none."""
        return self._thread.ident if self._thread is not None else None

    # --- from the engine's loop -----------------------------------------------------------------------------

    async def start(self, live: Live, entered: Callable[[Context], None]) -> None:
        """Return when `live` has entered; `entered` was then called on the handlers' loop."""
        self._engine = asyncio.get_running_loop()
        ready = self._ready = self._engine.create_future()

        def there(base: Context) -> None:
            self._base = base
            entered(base)
            self._tell(self._said_ready)

        if self._inline:
            self._loop = self._engine
            self._life = self._engine.create_task(live(entered=there, leave=self._leave), context=copy_context())
            self._life.add_done_callback(self._inline_over)
        else:
            loop = self._loop = asyncio.new_event_loop()
            life = self._life = loop.create_task(live(entered=there, leave=self._leave), context=copy_context())
            self._thread = threading.Thread(target=self._run, args=(loop, life), name="tidemill handlers", daemon=True)
            self._thread.start()
        await ready

    async def stop(self, timeout: float, closing: Callable[[], None]) -> str:
        """Call `closing` on the handlers' loop, end its other tasks, leave. "" or what went wrong in one line."""
        self._leaving = True
        if self._loop is None:
            return ""

        def leave() -> None:
            closing()
            for task in self._tasks:
                task.cancel()
            self._leave.set()

        self.post(leave)
        if not await self._clock.wait(self._over, timeout):
            self.post(self._give_up)
            return f"the lifespan did not end within {timeout:g} s"
        return "" if self._fault is None else str(_told("the lifespan failed at its end", self._fault))

    def post(self, callback: Callable[[], object]) -> None:
        """Call this on the handlers' loop, soon."""
        loop = self.loop
        try:
            if self._inline:
                loop.call_soon(callback)
            else:
                loop.call_soon_threadsafe(callback)
        except RuntimeError:  # the loop is closed: what ended it has been told
            pass

    async def spawn(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await this on the handlers' loop, in the lifespan's context. Cancelling the wait cancels the work."""
        if self._inline:
            return await self.keep(work())

        async def kept() -> T:
            return await self.keep(work())

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(kept(), self.loop))

    def run(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        """Run this on the handlers' loop until the stop. If it fails, that is the death of all."""

        def ended(task: asyncio.Task[None]) -> None:
            error = None if task.cancelled() else task.exception()
            if error is not None and not self._leaving:
                fault = _told(f"{what} failed", error)
                self._tell(lambda: self._died(fault))

        self.post(lambda: self.keep(work()).add_done_callback(ended))

    # --- on the handlers' loop ------------------------------------------------------------------------------

    def keep(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task in the lifespan's context that the stop ends."""
        task = self.loop.create_task(work, context=self._base.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _give_up(self) -> None:
        if self._life is not None:
            self._life.cancel()

    def _tell(self, callback: Callable[[], object]) -> None:
        """Call this on the engine's loop."""
        engine = self._engine
        if engine is None:
            return
        try:
            if self._inline:
                engine.call_soon(callback)
            else:
                engine.call_soon_threadsafe(callback)
        except RuntimeError:  # the engine's loop is closed: the process is on its way out
            pass

    def _run(self, loop: asyncio.AbstractEventLoop, life: asyncio.Task[None]) -> None:
        asyncio.set_event_loop(loop)
        fault: BaseException | None = None
        try:
            loop.run_until_complete(life)
        except BaseException as error:
            fault = error
        if fault is not None:
            self._tell(lambda: self._ended(fault))
        tidy(loop)
        if fault is None:
            self._tell(lambda: self._ended(None))

    def _inline_over(self, life: asyncio.Task[None]) -> None:
        self._ended(asyncio.CancelledError() if life.cancelled() else life.exception())

    # --- on the engine's loop -------------------------------------------------------------------------------

    def _said_ready(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_result(None)

    def _ended(self, fault: BaseException | None) -> None:
        self._over.set()
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(_told("the lifespan failed", fault))
        elif self._leaving:
            self._fault = fault
        else:
            self._died(_told("the handlers' loop ended", fault))

    def _died(self, fault: BaseException) -> None:
        if self._on_death is not None:
            self._on_death(fault)


def _told(what: str, fault: BaseException | None) -> TidemillError:
    """A fault as one line, with the place in the user's code. A mistake of configuration stays what it is."""
    if fault is None:
        return TidemillError(f"{what}: it ended by itself")
    error = alone(fault)
    if isinstance(error, ConfigurationError):
        return error
    place = where(error)
    told = TidemillError(f"{what}: {line(error)}" + (f" ({place})" if place else ""))
    told.__cause__ = fault
    return told


def tidy(loop: asyncio.AbstractEventLoop) -> None:
    """End the tasks that are left, for a moment, and close the loop.

    A loop that died once may do so again at each of these; its cause has been told.
    """
    with suppress(BaseException):
        for task in (left := asyncio.all_tasks(loop)):
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=_TIDY))
    with suppress(BaseException):
        loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
