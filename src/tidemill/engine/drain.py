"""The way from SIGTERM to exit.

1 not ready, member draining, bell; 2 the API lives on for the lame-duck delay, then stops accepting; 3 nothing more is
taken in, unstarted work goes back at once; 4 grace: what runs may end, each partition is released as it gets quiet;
5 the rest is cancelled and has a moment to clean up; 6 outcomes, marks and releases are written; 7 the user's
lifespan ends; 8 the own member record goes if nothing runs, stores close; 9 telemetry; 10 exit.

Member, leases and claims are renewed until the last settle. What still runs at the end is *not* given back: it ends by
burial or expiry, for whoever took it over would work beside it. A second signal goes to 5, a third exits at once
(`tidemill.signals`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from tidemill.engine.engine import Engine
from tidemill.engine.work import Budget
from tidemill.errors import TidemillError
from tidemill.model import Fact
from tidemill.ports import Clock

LOOK = 0.05


class HandlersEnd(Protocol):
    """What the drain needs of the handlers' side and the web."""

    async def stop_web(self, timeout: float) -> bool:
        """Stop accepting and let requests in flight end; False if some did not."""
        ...

    async def leave(self, timeout: float) -> str:
        """End the user's lifespan and the loop; in words what did not go well."""
        ...


@dataclass(slots=True)
class Ended:
    """How it went: what could not be finished, in words for one line each. Nothing: exit code 0."""

    left: list[str] = field(default_factory=list)

    @property
    def code(self) -> int:
        return 1 if self.left else 0


async def drain(engine: Engine, handlers: HandlersEnd, budget: Budget, hurry: asyncio.Event) -> Ended:
    """All steps from 1 to 8. `hurry` is set by the second signal. Never raises for a store that is away."""
    clock = engine.machine.clock
    ended = Ended()
    for membership in engine.memberships:
        await _attempt(membership.draining(), clock, 1.0)
    if budget.lame_duck > 0:
        await clock.wait(hurry, budget.lame_duck)
    deadline = clock.monotonic() + budget.grace
    web = asyncio.ensure_future(handlers.stop_web(budget.grace))
    _stop_intake(engine)
    leases = asyncio.ensure_future(engine.leases.drain(deadline)) if engine.leases else None
    await _until(lambda: _quiet(engine) and web.done(), deadline, clock, hurry)
    if not _quiet(engine):
        _cancel(engine, "the replica is stopping")
        await _until(lambda: not _running(engine), clock.monotonic() + budget.cleanup, clock)
    await _flush(engine, leases, clock.monotonic() + budget.flush, ended)
    still = _running(engine)
    await asyncio.wait([web], timeout=0)  # in a hurry it may not have been asked yet
    if not web.done():
        web.cancel()
        ended.left.append("requests to the web API were cut off")
    problem = await handlers.leave(budget.lifespan)
    if problem:
        ended.left.append(problem)
    if still:
        ended.left.append(f"still running, will be taken over: {', '.join(still)}")
    await _leave(engine, clock, bool(still), ended)
    return ended


def _stop_intake(engine: Engine) -> None:
    for queue in engine.queues:
        queue.stop()
    for feed in engine.feeds:
        feed.stop()
    for forwarder in engine.forwarders:
        forwarder.stop()
    if engine.timers is not None:
        engine.timers.stop()


def _cancel(engine: Engine, why: str) -> None:
    for queue in engine.queues:
        queue.cancel(why)
    for feed in engine.feeds:
        feed.cancel(why)
    if engine.timers is not None:
        engine.timers.cancel(why)


def _running(engine: Engine) -> list[str]:
    """The workers that have calls running, by name."""
    named = [queue.worker.name for queue in engine.queues if queue.running]
    named += [feed.worker for feed in engine.feeds if feed.running]
    return named + (list(engine.timers.running) if engine.timers is not None else [])


def _quiet(engine: Engine) -> bool:
    leases_free = engine.leases is None or not engine.leases.held
    return engine.idle and leases_free


async def _flush(engine: Engine, leases: asyncio.Future[None] | None, deadline: float, ended: Ended) -> None:
    """Outcomes, last marks and releases: everything of what has ended. The renewals go on meanwhile."""
    clock = engine.machine.clock
    if leases is not None and engine.leases is not None:
        await _until(leases.done, min(deadline, clock.monotonic() + LOOK), clock)
        leases.cancel()
        await _attempt(engine.leases.release_quiet(), clock, max(deadline - clock.monotonic(), LOOK))
    await _until(lambda: not any(queue.unsettled for queue in engine.queues), deadline, clock)
    unsettled = sum(queue.unsettled for queue in engine.queues)
    if unsettled:
        ended.left.append(f"{unsettled} outcomes could not be written; their messages will be delivered again")
    held = engine.leases.held if engine.leases is not None else []
    if held and not _running(engine):
        ended.left.append(f"leases could not be released: {', '.join(held)}")


async def _leave(engine: Engine, clock: Clock, running: bool, ended: Ended) -> None:
    for membership in engine.memberships:
        if running:
            break
        if not await _attempt(membership.leave(), clock, 1.0):
            ended.left.append("the member record could not be removed; it will be buried")
    await engine.end_services()
    engine.machine.observer(Fact("drained", detail={"left": list(ended.left)}))


async def _until(ready: Callable[[], bool], deadline: float, clock: Clock, hurry: asyncio.Event | None = None) -> None:
    while not ready() and clock.monotonic() < deadline and not (hurry and hurry.is_set()):
        await clock.sleep(LOOK)


async def _attempt(work: Awaitable[object], clock: Clock, seconds: float) -> bool:
    """Try something against a store that may be away. It is not cancelled: it may have taken effect."""
    task = asyncio.ensure_future(work)
    await _until(task.done, clock.monotonic() + seconds, clock)
    if not task.done():
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return False
    return not isinstance(task.exception(), TidemillError)
