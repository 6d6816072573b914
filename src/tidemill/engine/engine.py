"""The engine of one replica: which services run, in which order they start, and what it sees of itself.

Order of start: databases, members, handlers (lifespan), then the services that take work in; a process that cannot do
its work claims none. A service that ends by itself is a fault of ours: it ends the process with its cause, for a
replica that lives on without one of its services is the silent kind of broken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from tidemill.app.worker import Cron, Every, OnChange, OnMessage, Worker
from tidemill.core.foreign import Rules
from tidemill.core.member import Identity
from tidemill.core.probes import GAP
from tidemill.engine.alone import Alone
from tidemill.engine.controls import Controls
from tidemill.engine.effects import Effects
from tidemill.engine.feeds import FeedWorker
from tidemill.engine.forwarder import Forwarder
from tidemill.engine.keeper import KEEP_EVERY
from tidemill.engine.leases import Leases
from tidemill.engine.membership import Membership
from tidemill.engine.observe import charges
from tidemill.engine.places import Places
from tidemill.engine.queues import RETURN_AFTER, QueueWorker
from tidemill.engine.standing import Unbound
from tidemill.engine.timers import Timers
from tidemill.engine.work import Hands, Profile, Stuck
from tidemill.errors import TidemillError
from tidemill.model import Fact, Observer
from tidemill.ports import Clock, Database

TICK = 0.25
STALLED_AFTER = 5.0
MEASURE_EVERY = 5.0
LOOK_EVERY = 1.0
ENDING = 2.0


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine takes from outside: time, chance, who it is, who watches."""

    clock: Clock
    random: Random
    identity: Identity
    profile: Profile
    observer: Observer


class Fault(Exception):
    """A service of the engine has ended by itself; the process must end."""


class Engine:
    """All services of one replica, for the workers that were chosen."""

    def __init__(
        self,
        workers: Sequence[Worker],
        places: Places,
        hands: Hands,
        machine: Machine,
        *,
        stuck: Callable[[], Stuck] = lambda: Stuck(0.0),
    ) -> None:
        self.places = places
        self.machine = machine
        self.hands = hands
        self.ticked: float = machine.clock.monotonic()
        self.stalled: bool = False
        self._stuck = stuck
        self._memberships: dict[int, Membership] = {}
        self._alone = Alone()
        self.queues: list[QueueWorker] = [self._queue(w) for w in workers if isinstance(w.trigger, OnMessage)]
        self.feeds: list[FeedWorker] = [self._feed(w) for w in workers if isinstance(w.trigger, OnChange)]
        timed = [w for w in workers if isinstance(w.trigger, Every | Cron)]
        self.timers: Timers | None = self._timers(timed) if timed else None
        self.leases: Leases | None = self._leases() if self.feeds else None
        self.forwarders: list[Forwarder] = self._forwarders()
        store = places.shared_store() if (self.feeds or self.queues) and "store" in places.store.features else None
        self.controls: Controls | None = Controls(store, self.feeds, self.queues) if store else None
        if store and not self._memberships:  # no claim hangs on it, but who looks at the system sees this replica
            self.membership_of(places.store)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._fault: asyncio.Future[None] | None = None
        self._beside: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = []

    @property
    def memberships(self) -> Sequence[Membership]:
        return list(self._memberships.values())

    # --- life -----------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Become a member of each database. The databases are open."""
        for membership in self.memberships:
            await membership.join()
            self._start(f"membership of {membership.member}", membership.run())

    def begin(self) -> None:
        """Take work in from now on."""
        if self.leases is not None:
            self._start("leases", self.leases.run())
        for feed in self.feeds:
            self._start(feed.worker, feed.run())
        for queue in self.queues:
            self._start(queue.worker.name, queue.run())
            self._start(f"claims of {queue.worker.name}", self._every(KEEP_EVERY, queue.keep))
        for forwarder in self.forwarders:
            self._start("outbox", forwarder.run())
        if self.timers is not None:
            self._start("timers", self.timers.run())
        if self.controls is not None:
            self._start("controls", self._every(LOOK_EVERY, self.controls.look))
        self._start("measures", self._every(MEASURE_EVERY, self.measure))
        for name, service in self._beside:
            self._start(name, service())

    def on_begin(self, name: str, service: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run this beside the services once work is taken in, under the same supervision."""
        self._beside.append((name, service))

    async def watch(self) -> None:
        """Until a service ends by itself. Raises `Fault` with its cause."""
        self._fault = asyncio.get_running_loop().create_future()
        for name, task in self._tasks.items():
            if task.done():
                self._ended(name, task)
        await self._fault

    async def end_services(self) -> None:
        """Cancel what still runs. Only at the very end: nothing that takes is cancelled before. A driver that takes no
        cancellation is waited for `ENDING` seconds: the process ends without it."""
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=ENDING)

    # --- the tick -------------------------------------------------------------------------------------------

    async def tick(self, after: Callable[[], None]) -> None:
        """Four times a second: give back what waits too long, see whether the handlers are stuck, tell (`after`).

        It waits for no store: an outage must not look like a loop that stands still. Nor must our own freeze look like
        the handlers' silence.
        """
        clock = self.machine.clock
        since = self.ticked
        while True:
            now = clock.monotonic()
            if now - self.ticked > GAP:
                since = now
            self.ticked = now
            stuck = self._stuck()
            self._stall(stuck if min(stuck.silent, now - since) >= STALLED_AFTER else None)
            for queue in self.queues:
                queue.give_back(waited=RETURN_AFTER)
            after()
            await clock.sleep(TICK)

    async def _every(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        while True:
            await work()
            await self.machine.clock.sleep(seconds)

    async def measure(self) -> None:
        """Lag, depths, dead letters, what the backends charge, and rows that are needed no more."""
        for queue in self.queues:
            await queue.measure()
        await self._count_letters()
        for fact in charges(self.places.databases):
            self.machine.observer(fact)
        for feed in self.feeds:
            await feed.measure()
            for part in list(feed.parts.values()):
                await feed.tidy(part)

    async def _count_letters(self) -> None:
        for database in self.places.databases:
            if "dead_letters" not in database.features:
                continue
            try:
                counts = await database.dead_letters().count("")
            except TidemillError:
                continue  # a failing backend is told by the polls
            for source, count in counts.items():
                self.machine.observer(Fact("dead_letters", count=count, detail={"source": source}))

    @property
    def idle(self) -> bool:
        """Nothing is taken in, worked on, or being written by this replica."""
        return (
            all(queue.idle for queue in self.queues)
            and all(feed.idle for feed in self.feeds)
            and all(forwarder.idle for forwarder in self.forwarders)
            and (self.timers is None or self.timers.idle)
        )

    @property
    def settled(self) -> bool:
        """Like `idle`, but for receives and reads that wait for something to come."""
        return (
            not any(queue.running or queue.unsettled for queue in self.queues)
            and not any(feed.running for feed in self.feeds)
            and (self.timers is None or not self.timers.running)
        )

    def _stall(self, stuck: Stuck | None) -> None:
        """The handlers' loop is silent: keep only what they have begun, so that others get the rest."""
        if (stuck is not None) == self.stalled:
            return
        self.stalled = stuck is not None
        self.machine.observer(
            Fact("recovered") if stuck is None else Fact("stalled", stuck.worker, detail={"where": stuck.where})
        )
        for queue in self.queues:
            queue.stall(self.stalled)
        for feed in self.feeds:
            feed.stall(self.stalled)
        if self.leases is not None:
            self.leases.stall(self.stalled)

    # --- making the services --------------------------------------------------------------------------------

    def membership_of(self, database: Database) -> Membership:
        """This process as a member of that database: one record for all that it works there."""
        found = self._memberships.get(id(database))
        if found is None:
            m = self.machine
            found = Membership(
                database.store(),
                database.presence(),
                clock=m.clock,
                random=m.random,
                profile=m.profile,
                identity=m.identity,
                observer=m.observer,
            )
            self._memberships[id(database)] = found
        return found

    def _common(self) -> Mapping[str, Any]:
        m = self.machine
        return {"clock": m.clock, "random": m.random, "observer": m.observer}

    def _queue(self, worker: Worker) -> QueueWorker:
        assert isinstance(worker.trigger, OnMessage)
        database = self.places.queue_database(worker.trigger.queue.name)
        bound = "store" in database.features
        return QueueWorker(
            worker,
            database.queue(worker.trigger.queue),
            standing=self.membership_of(database) if bound else Unbound(f"{self.machine.random.getrandbits(96):024x}"),
            hands=self.hands,
            effects=Effects(database, self.places.queues_in(database)),
            alone=self._alone,
            **self._common(),
        )

    def _feed(self, worker: Worker) -> FeedWorker:
        assert isinstance(worker.trigger, OnChange)
        source = worker.trigger.source
        database = self.places.source_database(source.name)
        same = database is self.places.store
        return FeedWorker(
            worker,
            database.feed(source),
            store=self.places.shared_store(),
            letters=database.dead_letters(),
            membership=self.membership_of(self.places.store),
            hands=self.hands,
            effects=Effects(database, self.places.queues_in(database)) if same else None,
            alone=self._alone,
            **self._common(),
        )

    def _timers(self, workers: Sequence[Worker]) -> Timers:
        return Timers(
            workers,
            self.places.shared_store(),
            self.membership_of(self.places.store),
            self.hands,
            **self._common(),
        )

    def _leases(self) -> Leases:
        store = self.places.store
        rules = Rules() if "foreign" in store.features else None
        leases = Leases(store.store(), self.membership_of(store), rules=rules, **self._common())
        for feed in self.feeds:
            leases.register(feed)
        return leases

    def _forwarders(self) -> list[Forwarder]:
        """A forwarder for each database whose handlers may send to another."""
        changing = [self.places.source_database(feed.trigger.source.name) for feed in self.feeds]
        homes = {id(database): database for database in (self.places.main, *changing)}
        several = len({id(database) for _, database in self.places.queues.values()} | set(homes)) > 1
        if not several:
            return []
        return [
            Forwarder(database, self.membership_of(database), self.places, **self._common())
            for database in homes.values()
            if "commit" in database.features  # elsewhere nothing can be put into an outbox
        ]

    # --- supervision ----------------------------------------------------------------------------------------

    def _start(self, name: str, service: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(service, name=name)
        self._tasks[name] = task
        task.add_done_callback(lambda done: self._ended(name, done))

    def spawn(self, name: str, service: Coroutine[Any, Any, None]) -> None:
        """Run something beside the services, under the same supervision."""
        self._start(name, service)

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        fault = Fault(f"{name}: {type(error).__name__}: {error}")
        fault.__cause__ = error
        if self._fault is not None and not self._fault.done():
            self._fault.set_exception(fault)

    async def services_ended(self, names: Sequence[str]) -> None:
        """Wait until these services have ended by themselves (after `stop()`)."""
        tasks: list[Awaitable[None]] = [self._tasks[name] for name in names if name in self._tasks]
        await asyncio.gather(*tasks, return_exceptions=True)
