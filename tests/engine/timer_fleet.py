"""Replicas with timers on one clock and one store, that can be killed, cut off and slowed down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from tidemill.adapters.memory import Memory
from tidemill.app.worker import Cron, Every, Policy, Worker
from tidemill.core.backoff import Backoff
from tidemill.core.fence import Fence
from tidemill.core.member import Member
from tidemill.engine.membership import Listener
from tidemill.engine.timers import Timers
from tidemill.engine.work import Call, Cancelled, End, Ended, Load, Occurrence, Result, Unstarted
from tidemill.errors import Unavailable
from tidemill.model import Done, Fact, Record, Swap, Swapped
from tidemill.ports import Store
from tidemill.testing.clock import FakeClock

START = 1_780_315_200.0
BURY_AFTER = 14.0
FENCE = 10.0


FEW_TRIES = Backoff(attempts=3, first=0.1, jitter=1.0)


def timer(trigger: Every | Cron, *, name: str = "tick", retry: Backoff = FEW_TRIES) -> Worker:
    return Worker(name, "timers", trigger, lambda: None, Policy(retry=retry))


@dataclass(eq=False)
class Started:
    """One start of the handler. `end` stays None while it runs; `how` is `killed` when its process died."""

    replica: str
    at: float
    attempt: int
    past_due: bool
    start: float
    wall: float
    end: float | None = None
    how: str = ""


async def done(_: Started) -> End:
    return Ended(Done())


class Hands:
    """The handlers' side of one replica: each call is a task that takes `seconds` on the clock."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.waiting: list[Call] = []
        self.tasks: dict[Call, asyncio.Task[None]] = {}
        self.holding = False
        self.deaf = False
        """What runs are threads: they cannot be cancelled."""

    def submit(self, calls: Sequence[Call]) -> None:
        self.waiting += calls
        if not self.holding:
            self.begin()

    def begin(self) -> None:
        """Start what waits (at once, unless `holding`)."""
        calls, self.waiting = self.waiting, []
        for call in calls:
            if not call.fence.holds(self.fleet.clock.monotonic()):
                self.answer(call, Unstarted("fence"))
                continue
            self.tasks[call] = asyncio.get_running_loop().create_task(self._work(call))

    def take_back(self, worker: str, *, waited: float = 0.0) -> Sequence[Call]:
        calls = [call for call in self.waiting if call.worker.name == worker]
        self.waiting = [call for call in self.waiting if call not in calls]
        return calls

    def cancel(self, calls: Sequence[Call], why: str) -> None:
        for call in calls:
            if call in self.waiting:
                self.waiting.remove(call)
                self.answer(call, Unstarted(why))
            elif call in self.tasks and not self.deaf:
                self.tasks[call].cancel(why)

    def load(self, worker: str) -> Load:
        return Load(len(self.tasks), len(self.waiting), 0.0, 0)

    def answer(self, call: Call, end: End) -> None:
        self.fleet.clock.signs += 1
        call.sink.results([Result(call, (end,), 0.1)])

    async def _work(self, call: Call) -> None:
        occurrence = call.items[0]
        assert isinstance(occurrence, Occurrence)
        clock = self.fleet.clock
        started = Started(
            self.name, occurrence.at, occurrence.attempt, occurrence.past_due, clock.monotonic(), clock.now()
        )
        self.fleet.started.append(started)
        end: End
        try:
            await clock.sleep(self.fleet.seconds(started))
            end = await self.fleet.handler(started)
        except asyncio.CancelledError:
            end = Cancelled("cancelled")
        if started.end is None:
            started.end, started.how = clock.monotonic(), type(end).__name__
        self.tasks.pop(call, None)
        self.answer(call, end)

    def kill(self) -> None:
        """The process is gone: nothing it had goes on, and nobody is told."""
        for call, task in self.tasks.items():
            call.sink = Nobody()
            task.cancel()
        for started in self.fleet.started:
            if started.replica == self.name and started.end is None:
                started.end, started.how = self.fleet.clock.monotonic(), "killed"


class Nobody:
    def results(self, results: Sequence[Result]) -> None:
        """The process that asked is gone."""


class Members:
    """What one replica knows of the others, all of it true; a burial comes `BURY_AFTER` after a death."""

    def __init__(self, fleet: Fleet, name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.born = 0
        self.fence = Fence(float("inf"))
        self.listeners: list[Listener] = []

    @property
    def member(self) -> str:
        return f"{self.name}.{self.born}"

    def members(self, group: str | None = None) -> Sequence[Member]:
        return [Member(each, each, ("timers",)) for each in sorted(self.fleet.living)]

    def is_buried(self, member: str) -> bool:
        return member in self.fleet.graves

    async def certainly_buried(self, member: str) -> bool:
        return member not in self.fleet.living

    def listen(self, listener: Listener) -> None:
        self.listeners.append(listener)

    def cut_off(self) -> None:
        """Renewals fail from now on: the fence lapses."""
        self.fence.deadline = self.fleet.clock.monotonic() + FENCE

    def lapse(self) -> None:
        """The fence has lapsed."""
        self.fence.drop()
        for listener in self.listeners:
            listener.fenced()

    def come_back(self) -> None:
        """Renewed in time: still the same member."""
        self.fence.deadline = float("inf")
        for listener in self.listeners:
            listener.resumed()

    def be_buried(self) -> None:
        """Somebody has buried us; back under a new id."""
        self.fence.drop()
        self.fleet.bury(self.member)
        self.born += 1
        self.fleet.living.add(self.member)
        for listener in self.listeners:
            listener.buried()
        self.come_back()


class Weather:
    """A store on which calls fail and reads are old, as a test says. `swaps` counts batches."""

    def __init__(self, store: Store, clock: FakeClock, random: Random) -> None:
        self.store = store
        self.clock = clock
        self.random = random
        self.lost = 0.0
        """The share of swaps whose reply, or which themselves, are lost."""
        self.old = 0.0
        """Seconds that reads may be old."""
        self.slow = 0.0
        self.open = asyncio.Event()
        self.open.set()
        """While it is not set, calls are under way and not answered."""
        self.away = False
        self.swaps = 0
        self.gets = 0
        self._history: list[tuple[float, dict[str, Record]]] = []
        self._known: dict[str, Record] = {}

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        self.gets += 1
        await self._travel()
        if self.away or self.random.random() < self.lost / 2:
            raise Unavailable
        age = self.random.random() * self.old
        if age == 0 or not self._history:
            return await self.store.get(keys)
        then = self.clock.monotonic() - age
        past = [records for moment, records in self._history if moment <= then]
        return [(past[-1] if past else {}).get(key) for key in keys]

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        return await self.store.scan(prefix, after, limit)

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        self.swaps += 1
        await self._travel()
        if self.away or self.random.random() < self.lost / 2:
            raise Unavailable
        results = await self.store.swap(swaps)
        self._known = self._known | {result.key: result for result in results if isinstance(result, Record)}
        self._history.append((self.clock.monotonic(), self._known))
        if self.random.random() < self.lost / 2:
            raise Unavailable
        return results

    async def _travel(self) -> None:
        await self.open.wait()
        if self.slow:
            await self.clock.sleep(self.random.random() * self.slow)


@dataclass
class Replica:
    name: str
    hands: Hands
    members: Members
    timers: Timers
    task: asyncio.Task[None]


@dataclass
class Fleet:
    """All of it. `handler` says how a start ends, `seconds` how long it takes."""

    seed: int = 1
    handler: Callable[[Started], Awaitable[End]] = done
    seconds: Callable[[Started], float] = lambda _: 0.1
    clock: FakeClock = field(default_factory=lambda: FakeClock(START))
    started: list[Started] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    living: set[str] = field(default_factory=set)
    graves: set[str] = field(default_factory=set)
    replicas: dict[str, Replica] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.memory = Memory(self.clock)
        self.store = Weather(self.memory.store(), self.clock, Random(self.seed + 1))

    def join(self, name: str, *workers: Worker) -> Replica:
        """Start a replica."""
        hands, members = Hands(self, name), Members(self, name)
        self.living.add(members.member)
        random = Random(self.random.random())
        timers = Timers(
            workers, self.store, members, hands, clock=self.clock, random=random, observer=self.facts.append
        )
        task = asyncio.get_running_loop().create_task(timers.run())
        self.replicas[name] = Replica(name, hands, members, timers, task)
        return self.replicas[name]

    def kill(self, name: str) -> str:
        """kill -9. Returns the member's id, which nobody has buried yet."""
        replica = self.replicas.pop(name)
        replica.hands.kill()
        replica.task.cancel()
        return replica.members.member

    def bury(self, member: str) -> None:
        self.living.discard(member)
        self.graves.add(member)

    async def kill_and_bury(self, name: str) -> None:
        """Die now; be buried when the others have waited long enough."""
        member = self.kill(name)
        await self.clock.advance(BURY_AFTER)
        self.bury(member)

    def running(self) -> Started | None:
        """What runs at this moment."""
        return next((each for each in self.started if each.end is None), None)

    def told(self, name: str) -> list[Fact]:
        return [fact for fact in self.facts if fact.name == name]

    async def record(self, name: str = "tick") -> Record:
        [record] = await self.store.store.get([f"timer/{name}"])
        assert record is not None
        return record

    async def close(self) -> None:
        for replica in list(self.replicas.values()):
            replica.task.cancel()
            for task in replica.hands.tasks.values():
                task.cancel()
        await asyncio.gather(*(replica.task for replica in self.replicas.values()), return_exceptions=True)


def overlaps(started: Sequence[Started]) -> list[tuple[Started, Started]]:
    """Pairs that ran at the same time."""
    order = sorted(started, key=lambda each: each.start)
    return [
        (one, other)
        for n, one in enumerate(order)
        for other in order[n + 1 :]
        if one.end is None or other.start < one.end
    ]


def early(started: Sequence[Started]) -> list[Started]:
    """Starts before their time."""
    return [each for each in started if each.wall < each.at]
