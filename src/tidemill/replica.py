"""One replica from start to exit: what is opened, in which order, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from random import SystemRandom

from tidemill.app.worker import Declared, Worker
from tidemill.core.member import Identity
from tidemill.core.probes import NEVER, USUAL, Snapshot
from tidemill.engine.bind import bind
from tidemill.engine.clock import SystemClock
from tidemill.engine.drain import LOOK, Ended, drain
from tidemill.engine.engine import Engine, Fault, Machine
from tidemill.engine.handlers import Handlers
from tidemill.engine.health_server import HealthServer
from tidemill.engine.housekeeping import Housekeeper
from tidemill.engine.outlet import Outlet
from tidemill.engine.places import Places, worked
from tidemill.engine.publish import Publisher
from tidemill.engine.rules import Rules
from tidemill.engine.watchdog import Watchdog, arm, disarm
from tidemill.engine.work import Stuck
from tidemill.errors import TidemillError
from tidemill.locate import Adapters, locate, transactional
from tidemill.model import Fact
from tidemill.ports import Clock
from tidemill.settings import Settings
from tidemill.telemetry.facts import log_fact
from tidemill.telemetry.metrics import Metrics
from tidemill.telemetry.process import Limit, Process, age
from tidemill.web.serve import Web

VERSION = "0.1.0"
ARM_EVERY = 2.0
CLOSE = 3.0
"""Seconds that the stores get to close, out of the budget's reserve. One that does not answer is left to itself: who
waited for it would be killed by the platform before the exit code said what was left behind."""

_log = logging.getLogger("tidemill")


class Replica:
    """Everything of one process. `live()` once."""

    def __init__(self, declared: Declared, settings: Settings, adapters: Adapters | None = None) -> None:
        self.settings = settings
        self.clock: SystemClock = SystemClock()
        self.places: Places = locate(declared, settings, self.clock, adapters)
        self.declared: Declared = worked(declared, self.places)
        self.workers: tuple[Worker, ...] = settings.chosen(self.declared)
        self.metrics: Metrics = self._metrics()
        self._health = self._health_server()
        self._web = self._bind_web()
        self._dead: asyncio.Future[None] | None = None
        self._armed = float("-inf")

    async def live(self, told: asyncio.Event, hurry: asyncio.Event) -> int:
        """Start, work until `told` to stop or a fault, drain; the exit code."""
        loop = asyncio.get_running_loop()
        self._dead = loop.create_future()
        if self._health is not None:
            self._health.start()
        try:
            await self.places.open()
            for database in self.places.databases:
                for warning in getattr(database, "warnings", ()):
                    _log.warning("%s", warning)
            return await self._work(told, hurry, Outlet(self.places, loop))
        finally:
            await _within(CLOSE, self.places.close())
            if self._health is not None:
                self._health.stop()
            disarm()

    # --- working --------------------------------------------------------------------------------------------

    async def _work(self, told: asyncio.Event, hurry: asyncio.Event, outlet: Outlet) -> int:
        handlers = self._handlers(outlet)
        engine = self._engine(handlers)
        publisher = self._publisher(engine, handlers)
        host = _Host(handlers, self._web, outlet, self.clock)
        fault = ""
        await engine.join()
        engine.spawn("tick", engine.tick(lambda: self._tick(publisher)))
        try:
            await self._begin(engine, handlers, told)
            publisher.started = not told.is_set()
            if publisher.started:
                _log.info("ready: %s", ", ".join(w.name for w in self.workers) or "no workers")
            fault = await self._until_told(engine, told)
        except TidemillError:
            await self._abandon(engine, handlers)
            raise
        publisher.draining = True
        publisher.tick()
        _log.info("stopping%s", f": {fault}" if fault else "")
        if self._web is not None:
            self._web.leave()
        ended = await drain(engine, host, self.settings.budget(), hurry)
        return self._told(ended, fault)

    async def _begin(self, engine: Engine, handlers: Handlers, told: asyncio.Event) -> None:
        """Lifespan, web, intake; nothing more once we are told to stop."""
        starting = asyncio.ensure_future(handlers.start())
        stop = asyncio.ensure_future(told.wait())
        await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not starting.done():
            starting.add_done_callback(lambda done: done.cancelled() or done.exception())
            return
        starting.result()
        if told.is_set():
            return
        if self._web is not None:
            handlers.run_web(self._web.serve)
            while not (self._web.ready or self._web.ended or told.is_set()):
                await self.clock.sleep(0.01)
        engine.begin()

    async def _until_told(self, engine: Engine, told: asyncio.Event) -> str:
        """Why we stop: "" when told to, else the fault in one line."""
        assert self._dead is not None
        watching = asyncio.ensure_future(engine.watch())
        stop = asyncio.ensure_future(told.wait())
        await asyncio.wait((watching, stop, self._dead), return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if self._dead.done():
            watching.cancel()
            error: BaseException | None = self._dead.exception()
            return f"the handlers' side has ended: {error}"
        if watching.done():
            error = watching.exception()
            _log.error("a service has ended by itself", exc_info=error)
            return str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
        watching.cancel()
        return ""

    async def _abandon(self, engine: Engine, handlers: Handlers) -> None:
        """The start failed: leave as little behind as possible."""
        await handlers.stop(self.settings.budget().lifespan)
        for membership in engine.memberships:
            try:
                await membership.leave()
            except TidemillError:
                continue
        await engine.end_services()

    def _told(self, ended: Ended, fault: str) -> int:
        for line in ended.left:
            _log.error("%s", line)
        code = 1 if fault else ended.code
        _log.info("stopped, exit code %d", code)
        return code

    def _tick(self, publisher: Publisher) -> None:
        publisher.tick()
        now = self.clock.monotonic()
        if not self.settings.debug and now - self._armed >= ARM_EVERY:  # each arming starts a C thread
            self._armed = now
            arm()

    # --- making the parts -----------------------------------------------------------------------------------

    def _handlers(self, outlet: Outlet) -> Handlers:
        return Handlers(
            self.workers,
            self.clock,
            lifespan=self.declared.lifespan,
            client=outlet,
            transactional=transactional(self.workers, self.places),
            on_death=self._died,
        )

    def _engine(self, handlers: Handlers) -> Engine:
        settings = self.settings
        identity = Identity(
            settings.replica,
            tuple(sorted({w.group for w in self.workers})),
            settings.pod_uid,
            settings.container,
            settings.weight,
        )
        machine = Machine(self.clock, SystemRandom(), identity, settings.clockwork(), self._observe)
        return Engine(self.workers, self.places, handlers, machine, stuck=lambda: self._stuck(handlers))

    def _stuck(self, handlers: Handlers) -> Stuck:
        return Stuck(0.0) if self.settings.debug else handlers.stuck()

    def _publisher(self, engine: Engine, handlers: Handlers) -> Publisher:
        names = {worker.name for worker in self.workers}
        rules = Rules(
            [rule for rule in self.declared.rules if not rule.workers or names & set(rule.workers)],
            self.clock,
            handlers.spawn,
        )
        self._rules = rules
        engine.on_begin("rules", rules.run)
        if "store" in self.places.store.features:
            keeper = Housekeeper(
                self.declared, self.places, clock=self.clock, random=SystemRandom(), observer=self._observe
            )
            engine.on_begin("housekeeping", keeper.run)
        publish: Callable[[Snapshot], None] = self._health.publish if self._health else lambda snapshot: None
        return Publisher(engine, publish=publish, stuck=handlers.stuck, rules=rules.checks)

    def _metrics(self) -> Metrics:
        settings, old = self.settings, age()
        groups = {worker.group for worker in self.workers} | ({"api"} if settings.serves_api(self.declared) else set())
        process = Process(
            self.clock.monotonic() - old,
            tuple(sorted(groups)),
            tuple(Limit(worker.name, worker.group, worker.policy.time_limit) for worker in self.workers),
            settings.budget().grace,
        )
        return Metrics(version=VERSION, started_at=time.time() - old, process=process)

    def _health_server(self) -> HealthServer:
        settings = self.settings
        limits = NEVER if settings.debug else USUAL
        return HealthServer(
            bind(settings.health_host, settings.health_port),
            Snapshot(self.clock.monotonic()),
            monotonic=self.clock.monotonic,
            metrics=self.metrics.render,
            watch=Watchdog(limits=limits),
            limits=limits,
        )

    def _bind_web(self) -> Web | None:
        if not self.settings.serves_api(self.declared):
            return None
        listener = bind(self.settings.api_host, self.settings.api_port)
        return Web(self.declared.api, listener, self._health.page if self._health else None)

    def _observe(self, fact: Fact) -> None:
        self.metrics(fact)
        log_fact(fact)

    def _died(self, error: BaseException) -> None:
        if self._dead is not None and not self._dead.done():
            self._dead.set_exception(TidemillError(f"{type(error).__name__}: {error}"))


class _Host:
    """What the drain needs of the handlers' side and the web."""

    def __init__(self, handlers: Handlers, web: Web | None, outlet: Outlet, clock: Clock) -> None:
        self._handlers = handlers
        self._web = web
        self._outlet = outlet
        self._clock = clock

    async def stop_web(self, timeout: float) -> bool:
        web = self._web
        if web is None:
            return True
        web.stop()
        deadline = self._clock.monotonic() + timeout
        while not web.ended and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.02)
        web.hurry()
        return web.ended

    async def leave(self, timeout: float) -> str:
        deadline = self._clock.monotonic() + timeout
        problem = await self._handlers.stop(timeout)
        if await _within(max(deadline - self._clock.monotonic(), LOOK), self._outlet.close()):
            return problem
        return "; ".join(filter(None, (problem, "what handlers sent or wrote was not answered in time")))


async def _within(seconds: float, work: Coroutine[None, None, None]) -> bool:
    """Whether it has ended by then. It is not cancelled, for it may be in the middle of a write."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait((task,), timeout=seconds)
    if done:
        task.result()
    return bool(done)
