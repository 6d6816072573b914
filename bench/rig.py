"""A replica in this process, as `tidemill run` composes it (three loops, SQLite), but for probes and signals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tidemill.adapters.sqlite import SQLite
from tidemill.app.app import App
from tidemill.app.client import using
from tidemill.core.member import Identity
from tidemill.engine.clock import SystemClock
from tidemill.engine.drain import Ended, drain
from tidemill.engine.engine import Engine, Machine
from tidemill.engine.handlers import Handlers
from tidemill.engine.outlet import Outlet
from tidemill.engine.places import Places, places
from tidemill.engine.work import NORMAL, Budget
from tidemill.locate import transactional
from tidemill.ports import Database


@dataclass
class Rig:
    """`begin()` lets it take work in."""

    places: Places
    engine: Engine
    handlers: Handlers
    outlet: Outlet

    async def stop_web(self, timeout: float) -> bool:
        return True

    async def leave(self, timeout: float) -> str:
        problem = await self.handlers.stop(timeout)
        await self.outlet.close()
        return problem

    async def until(self, ready: object, limit: float = 120.0) -> None:
        """Wait until `ready()`."""
        end = asyncio.get_running_loop().time() + limit
        while not ready():  # type: ignore[operator]
            if asyncio.get_running_loop().time() > end:
                raise TimeoutError("the bench did not come to its end")
            await asyncio.sleep(0.002)


@asynccontextmanager
async def rig(
    app: App, home: Path | Database, *, groups: tuple[str, ...] = (), inline: bool = False
) -> AsyncIterator[Rig]:
    """The app's workers on a SQLite file or another database, made ready and not begun. `inline`: handlers on the
    engine's own loop."""
    clock = SystemClock()
    declared = app.declared()
    workers = [w for w in declared.workers if not groups or w.group in groups]
    where = places(declared, SQLite.from_url(f"sqlite:///{home}", clock) if isinstance(home, Path) else home)
    await where.open()
    loop = asyncio.get_running_loop()
    outlet = Outlet(where, loop)
    handlers = Handlers(workers, clock, client=outlet, transactional=transactional(workers, where), inline=inline)
    identity = Identity("bench", tuple(sorted({w.group for w in workers})))
    machine = Machine(clock, Random(), identity, NORMAL, lambda fact: None)
    engine = Engine(workers, where, handlers, machine)
    await engine.join()
    await handlers.start()
    engine.spawn("tick", engine.tick(lambda: None))
    made = Rig(where, engine, handlers, outlet)
    with using(outlet, loop):
        yield made
    ended: Ended = await drain(engine, made, Budget(grace=10.0), asyncio.Event())
    await where.close()
    if ended.left:
        raise RuntimeError("; ".join(ended.left))
