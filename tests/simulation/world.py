"""A world for one seed: an app on several hosts over one memory database, and what befalls them.

Time is virtual. The first part is rough (or calm, by the seed): documents are written, messages sent, hosts stopped,
killed, drained and started again. Then the weather clears, what was poison is healed and replayed, and all must come
to rest with nothing lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from tests.simulation.history import History, Run
from tests.simulation.plan import PARTITIONS, Letter, Plan, Thing, plan_of
from tests.simulation.truth import Truth
from tests.simulation.weather import FaultyDatabase, Host, Weather
from tidemill.adapters.memory import Memory
from tidemill.adapters.memory.state import partition_of
from tidemill.app.app import App
from tidemill.app.context import Context
from tidemill.app.values import Change
from tidemill.core.backoff import Backoff
from tidemill.core.member import Identity
from tidemill.engine.drain import drain
from tidemill.engine.effects import OUTBOX
from tidemill.engine.engine import Engine, Machine
from tidemill.engine.handlers import Handlers
from tidemill.engine.places import places
from tidemill.engine.work import NORMAL, Budget
from tidemill.model import CollectionSpec, Fact, Message, Put, QueueSpec, Swap
from tidemill.testing.clock import FakeClock


class Outage(Exception):
    """What the handlers depend on is away."""


class Replica:
    """One process: host, engine, handlers, as the harness composes them."""

    def __init__(self, world: World, name: str) -> None:
        plan = world.plan
        self.world = world
        self.name = name
        self.host = Host(name, world.clock, world.weather, Random(f"host {plan.seed} {name}"), world.history)
        declared = world.declare(self).declared()
        found = places(declared, FaultyDatabase(world.memory, self.host, world.truth))
        self.handlers = Handlers(declared.workers, self.host, inline=True)
        groups = tuple(sorted({worker.group for worker in declared.workers}))
        machine = Machine(
            self.host, Random(f"engine {plan.seed} {name}"), Identity(name, groups), NORMAL, self._observe
        )
        self.engine = Engine(declared.workers, found, self.handlers, machine)
        self.gone = False

    async def start(self) -> None:
        await self.engine.places.open()
        await self.engine.join()
        await self.handlers.start()
        self.engine.spawn("tick", self.engine.tick(lambda: None))
        self.engine.begin()
        self.world.spawn(self.engine.watch())

    async def stop(self) -> None:
        """As SIGTERM does."""
        await self.host.awake()
        self.world.history.note(f"{self.name} drains")
        ended = await drain(self.engine, self, Budget(), asyncio.Event())
        self.gone = True
        self.world.history.note(f"{self.name} has ended: {ended.left}")

    def kill(self) -> None:
        """As `kill -9` does."""
        if self.host.dead or self.gone:
            return
        self.world.history.note(f"{self.name} is killed")
        self.host.dead = self.gone = True
        self.host.going.set()
        for run in self.world.history.running(self.name):
            self.world.history.ended(run, "killed")
        if self.world.random.random() < 0.6 or self.world.plan.killer:
            for membership in self.engine.memberships:
                self.world.memory.presence().vanish(membership.member)

    async def stop_web(self, timeout: float) -> bool:
        return True

    async def leave(self, timeout: float) -> str:
        return await self.handlers.stop(timeout)

    def trusted(self) -> bool:
        return self.host.monotonic() < self.host.trust

    def _observe(self, fact: Fact) -> None:
        if fact.name in _TOLD:
            self.world.history.note(f"{self.name} {fact.name} {fact.worker} {dict(fact.detail)}")


_TOLD = frozenset({"fenced", "buried", "resumed", "leases_forgotten", "lease_lost", "parked", "dead", "claims_lost"})


class World:
    """Everything of one seed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = Random(f"world {plan.seed}")
        self.clock = FakeClock()
        self.memory = Memory(self.clock)
        self.history = History(self.clock.monotonic)
        self.weather = Weather() if plan.calm else Weather(0.02, 0.02, 0.08, 1.5, 0.1)
        self.truth = Truth(self.memory, self.clock, self.history, lambda key: partition_of(key, PARTITIONS))
        self.replicas: list[Replica] = []
        self.changes: dict[str, list[tuple[int, float]]] = {}
        self.messages: dict[str, tuple[str, float]] = {}
        self.failures: dict[str, int] = {}
        self.healed: set[str] = set()
        self.away = False
        self.joined_or_left: list[float] = []
        self.faults: list[BaseException] = []
        self._count = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def keys(self) -> list[str]:
        return ["a", "b", "c", "d", "flaky", *(["bad", "worse"] if self.plan.poison else [])]

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.replicas if not replica.gone]

    # --- the app --------------------------------------------------------------------------------------------

    def declare(self, replica: Replica) -> App:
        app = App("simulation")
        things = app.collection("things", Thing, id="id", key="key", partitions=PARTITIONS)
        letters = app.queue("letters", Letter)
        retry = Backoff(attempts=3, first=1.0)

        async def watch(change: Change[Thing], context: Context) -> None:
            await self._work(replica, "watch", change.id, change.value.key, change.value.n, context)

        async def watch_many(changes: list[Change[Thing]], context: Context) -> None:
            for nth, change in enumerate(changes):
                value = change.value
                await self._work(replica, "watch", change.id, value.key, value.n, context, first=not nth)

        async def read(letter: Letter, context: Context) -> None:
            await self._work(replica, "read", letter.id, letter.kind, 0, context)

        async def sweep(context: Context) -> None:
            assert context.scheduled_at is not None
            at = int(context.scheduled_at.timestamp())
            if self.clock.now() < at:
                self.history.blame("J10", f"{replica.name}: {at} was run early")
            await self._work(replica, "sweep", f"sweep {at}", "sweep", at, context)

        handler = watch_many if self.plan.batch else watch
        app.on_change(things, name="watch", concurrency=4, retry=retry, batch=self.plan.batch)(handler)  # type: ignore[arg-type]
        app.on_message(letters, name="read", concurrency=4, retry=retry)(read)
        app.every(10, name="sweep", misfire="all")(sweep)
        return app

    async def _work(
        self, replica: Replica, worker: str, item: str, key: str, number: int, context: Context, *, first: bool = True
    ) -> None:
        """One item in a handler: looked at as it starts, worked on, and written down as it ends."""
        if replica.host.dead:
            await replica.host.awake()  # which it never is: nothing starts in a process that is gone
        if first:
            self._starts(replica, worker, item, key, number, context)
        run = Run(replica.name, worker, item, key, number, self.clock.monotonic())
        self.history.began(run)
        how = "failed"
        try:
            await self._body(replica, worker, item, key)
            how = "done"
        except asyncio.CancelledError:
            how = "cancelled"
            raise
        finally:
            if run.end is None:
                self.history.ended(run, how)
                self.failures[item] = self.failures.get(item, 0) + (how == "failed")

    async def _body(self, replica: Replica, worker: str, item: str, key: str) -> None:
        random = Random(f"{self.plan.seed} {item}")
        takes = random.uniform(3, 9) if key == "slow" else random.choice((0.0, 0.0, 0.1, 0.6))
        if takes:
            await replica.host.sleep(takes)
        if self.away and worker != "sweep":
            raise Outage
        if key == "killer":
            replica.kill()
            await replica.host.awake()
        if key in ("bad", "worse") and key not in self.healed:
            raise ValueError(key)
        if key == "flaky" and not self.plan.outage and self.failures.get(item, 0) < random.choice((0, 1)):
            raise ValueError(key)

    def _starts(self, replica: Replica, worker: str, item: str, key: str, number: int, context: Context) -> None:
        name = f"{replica.name}: {worker} {key}#{number}"
        if not replica.trusted():
            self.history.blame("J13", f"{name} started without trust")
        counted = worker == "read" or (worker == "watch" and not self.plan.batch)  # a batch fails as one
        if counted and context.attempt > self.failures.get(item, 0) + 1:
            self.history.blame("J6", f"{name}: attempt {context.attempt} after {self.failures.get(item, 0)} failures")
        engine = replica.engine
        if any(queue._stopping for queue in engine.queues) or any(feed._stopping for feed in engine.feeds):
            self.history.blame("J8", f"{name} started after intake had ended")
        if worker == "watch" and context.fence is not None:
            partition = partition_of(key, PARTITIONS)
            self.truth.started(partition, context.fence.epoch)
            since = self.truth.acquired.get((f"lease/watch/{partition}", context.fence.epoch))
            if since is not None and since < replica.host.trusted_anew:
                self.history.blame("J13", f"{name} started under a token from before the fence passed")
            self._redelivered(name, item, key, partition)

    def _redelivered(self, name: str, item: str, key: str, partition: str) -> None:
        """Nothing below the stored cursor comes again, unless it is parked."""
        lease, park = (self.truth.records.get(f"{what}/watch/{partition}") for what in ("lease", "park"))
        parked = park.value.get("keys") if park else None
        below = lease is not None and int(item) <= int(str(lease.value.get("cursor")))
        if below and not (isinstance(parked, dict) and key in parked):
            self.history.blame("I10", f"{name} came again from below the checkpoint")

    # --- what befalls it ------------------------------------------------------------------------------------

    async def live(self) -> None:
        """The rough part, then rest."""
        await self.memory.open([CollectionSpec("things", PARTITIONS)], [QueueSpec("letters"), OUTBOX])
        for _ in range(self.plan.hosts):
            self.add()
        end = self.clock.monotonic() + self.plan.length
        outage = end - self.random.uniform(16, 30)
        while self.clock.monotonic() < end:
            self.away = self.plan.outage and outage <= self.clock.monotonic() < outage + 14
            await self._befall()
            await self.clock.advance(0.5)
        self.away = False
        await self._rest()

    def add(self) -> None:
        """A new process."""
        self._count += 1
        replica = Replica(self, f"r{self._count}")
        self.replicas.append(replica)
        self.joined_or_left.append(self.clock.monotonic())
        self.spawn(replica.start())

    async def _befall(self) -> None:
        random, plan = self.random, self.plan
        for _ in range(random.choice((0, 1, 1, 2, 3))):
            await self._put(random.choice(self.keys))
        if random.random() < 0.6:
            await self._send()
        for replica in self.alive:
            if random.random() < plan.pauses / 2 and replica.host.going.is_set():
                self._stop_for(replica, random.uniform(0.5, plan.longest_pause))
            if random.random() < plan.kills / 2:
                replica.kill()
                self._later(random.uniform(0.2, 4), self.add)
            elif random.random() < plan.drains / 2 and not replica.host.ending:
                self.end(replica)
        if random.random() < 0.05:
            await self.replay()

    def end(self, replica: Replica) -> None:
        """SIGTERM, and a new one in its place."""
        replica.host.ending = True
        self.joined_or_left.append(self.clock.monotonic())
        self.spawn(replica.stop())
        self._later(self.random.uniform(0.2, 4), self.add)

    def _stop_for(self, replica: Replica, seconds: float) -> None:
        self.history.note(f"{replica.name} stands still for {seconds:.1f} s")
        replica.host.going.clear()

        def go_on() -> None:
            self.history.note(f"{replica.name} goes on")
            replica.host.going.set()

        self._later(seconds, go_on)

    async def _put(self, key: str) -> None:
        numbers = self.changes.setdefault(key, [])
        thing = Thing(id=key, key=key, n=len(numbers))
        numbers.append((thing.n, self.clock.monotonic()))
        documents = self.memory.documents(CollectionSpec("things", PARTITIONS))
        await documents.write([Put("things", key, key, thing.model_dump_json().encode())])

    async def _send(self) -> None:
        kinds = ["fine"] * 8 + ["slow"] * 2 + (["bad"] if self.plan.poison else [])
        kind = self.random.choice(kinds)
        if self.plan.killer and "killer" not in {k for k, _ in self.messages.values()}:
            kind = "killer"
        id = f"m{len(self.messages)}"
        self.messages[id] = (kind, self.clock.monotonic())
        body = Letter(id=id, kind=kind).model_dump_json().encode()
        await self.memory.queue(QueueSpec("letters")).send([Message("letters", id, body)])

    async def replay(self) -> None:
        """Somebody decides: every parked key is to be tried again."""
        for partition, keys in self.parked().items():
            for key, state in keys.items():
                if state == "parked":
                    wish = f"control/feed/watch/{partition}/{key}"
                    swap = Swap(wish, None, {"format": 1, "wish": "replay", "key": key})
                    await self.truth.swap([swap], "operator")

    def parked(self) -> dict[str, dict[str, str]]:
        """By partition: the keys in the park and their states."""
        found: dict[str, dict[str, str]] = {}
        for key, record in self.truth.records.items():
            keys = record.value.get("keys")
            if key.startswith("park/") and isinstance(keys, dict):
                found[key.rsplit("/", 1)[1]] = {name: str(parked["state"]) for name, parked in keys.items()}
        return found

    async def _rest(self) -> None:
        self.weather.clear()
        self.healed.update(("bad", "worse"))
        self.history.note("the weather clears")
        for replica in self.alive:
            replica.host.going.set()
        for _ in range(60):
            await self.clock.advance(5.0)
            if not self.alive:
                self.add()
            if self.finished():
                break
            await self.replay()
        await self.clock.advance(3.0)

    def finished(self) -> bool:
        """Every change is done and every message done or dead; nothing is parked."""
        done = {(run.key, run.number) for run in self.history.runs_of if run.worker == "watch" and run.how == "done"}
        changes = all((key, n) in done for key, numbers in self.changes.items() for n, _ in numbers)
        return changes and not any(self.parked().values()) and not self.undone_messages()

    def undone_messages(self) -> list[str]:
        done = {run.item for run in self.history.runs_of if run.worker == "read" and run.how == "done"}
        return [id for id in self.messages if id not in done and id not in self.dead()]

    def dead(self) -> dict[str, str]:
        """The dead messages and why."""
        letters = self.memory._state.letters.get("queue/letters", {})
        return {letter.id: letter.reason for letter in letters.values()}

    # --- running --------------------------------------------------------------------------------------------

    def _later(self, seconds: float, act: Callable[[], None]) -> None:
        async def wait() -> None:
            await self.clock.sleep(seconds)
            act()

        self.spawn(wait())

    def spawn(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)

    def _spawned_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(error)
            self.history.blame("fault", f"{type(error).__name__}: {error}")

    async def close(self) -> None:
        """End every task of this world."""
        self.history.over = True
        for replica in self.replicas:
            for worker in (*replica.engine.feeds, *replica.engine.queues):
                worker.stop()  # before the handlers, as in a drain: else they hand each other the same call for ever
        ending = asyncio.gather(*(replica.handlers.stop(0.1) for replica in self.replicas), return_exceptions=True)
        await self.clock.run_until(ending.done, 1.0)
        me = asyncio.current_task()
        for _ in range(20):
            others = [task for task in asyncio.all_tasks() if task is not me]
            if not others:
                return
            for task in others:
                task.cancel()
            await asyncio.wait(others, timeout=0)


async def run(seed: int) -> World:
    """The world of a seed from its beginning to rest."""
    return await run_plan(plan_of(seed))


async def run_plan(plan: Plan) -> World:
    """A world from its beginning to rest."""
    world = World(plan)
    try:
        await world.live()
    finally:
        await world.close()
    return world
