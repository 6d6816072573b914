"""Replicas in one process: members, leases and a pretended worker each, over one memory store, under one fake clock.

Every write to the store is judged as it happens: no lease leaves an unburied owner, no epoch falls, no cursor goes
back without a reset, no version is used twice. A replica can be frozen, killed, cut off from the store, given old
reads, and replies that are lost although the write took effect.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from tidemill.adapters.memory import Memory
from tidemill.core.member import Identity, key_of
from tidemill.engine.leases import Hold, Leases
from tidemill.engine.membership import Membership
from tidemill.engine.work import NORMAL, Profile
from tidemill.errors import Unavailable
from tidemill.model import Fact, Record, Swap, Swapped, Value
from tidemill.ports import Clock, Presence, Store
from tidemill.testing.clock import FakeClock

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Handover:
    """One change of the owner of a lease, as it was stored."""

    at: float
    key: str
    before: str | None
    after: str | None
    epoch: int


class Judge:
    """The shared store, watching what is written. Keeps what each key held, for who wants to read the past."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.inner: Store = Memory(clock).store()
        self.handovers: list[Handover] = []
        self.calls = 0
        self.past: dict[str, list[tuple[float, Record | None]]] = {}
        self.versions: set[tuple[str, str]] = set()

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        self.calls += 1
        return await self.inner.get(keys)

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        self.calls += 1
        return await self.inner.scan(prefix, after, limit)

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        self.calls += 1
        results: list[Swapped] = []
        for swap in swaps:
            [before] = await self.inner.get([swap.key])
            [result] = await self.inner.swap([swap])
            results.append(result)
            if isinstance(result, Record):
                await self._written(swap.key, before, result)
            elif before is not None and swap.value is None and swap.version == before.version:
                self.past.setdefault(swap.key, []).append((self.clock.monotonic(), None))
        return results

    async def _written(self, key: str, before: Record | None, after: Record) -> None:
        assert (key, after.version) not in self.versions, f"{key}: version {after.version} again (J2)"
        self.versions.add((key, after.version))
        self.past.setdefault(key, []).append((self.clock.monotonic(), after))
        if key.startswith("member/"):
            assert before is None or before.value["state"] == "live", f"{key}: a tombstone was overwritten"
        if key.startswith("lease/"):
            await self._lease_written(key, before.value if before else {}, after.value)

    async def _lease_written(self, key: str, before: Value, after: Value) -> None:
        old, new = before.get("owner"), after.get("owner")
        epochs = before.get("epoch", 0), after.get("epoch", 0)
        assert isinstance(epochs[0], int)
        assert isinstance(epochs[1], int)
        assert epochs[1] >= epochs[0], f"{key}: the epoch fell"
        if epochs[1] == epochs[0]:
            assert before.get("nonce", "") == after.get("nonce"), f"{key}: a nonce without an epoch"
            assert _number(after) >= _number(before), f"{key}: the cursor went back (I3)"
        if old == new:
            return
        if old is not None and new is not None:
            [record] = await self.inner.get([key_of(str(old))])
            assert record is not None, f"{key}: taken from {old} which has no record"
            assert record.value["state"] == "buried", f"{key}: taken from the living {old} (J1)"
        self.handovers.append(
            Handover(self.clock.monotonic(), key, _name(old), _name(new), epochs[1]),
        )

    def at(self, key: str, moment: float) -> Record | None:
        """What stood there then."""
        return next((r for when, r in reversed(self.past.get(key, ())) if when <= moment), None)


def _number(value: Value) -> int:
    cursor = value.get("cursor")
    return int(cursor) if isinstance(cursor, str) and cursor else 0


def _name(owner: object) -> str | None:
    return owner if isinstance(owner, str) else None


class Machine:
    """The clock and the store of one replica: what can go wrong between it and the world."""

    def __init__(self, judge: Judge, random: Random) -> None:
        self.judge = judge
        self.random = random
        self.away = False
        self.lose_replies = 0.0
        self.refuse = 0.0
        self.latency: Callable[[str], float] = lambda _key: 0.0
        self.old_reads = 0.0
        self.running = asyncio.Event()
        self.running.set()
        self.replies_first = True
        self.dead = False
        self.refused: list[float] = []
        self.lost: list[float] = []
        self.in_flight: Counter[str] = Counter()

    # --- the clock ------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.judge.clock.now()

    def monotonic(self) -> float:
        return self.judge.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self.judge.clock.sleep(seconds)
        await self._awake(late=self.replies_first)

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        await self.judge.clock.wait(event, timeout)
        await self._awake(late=self.replies_first)
        return event.is_set()

    # --- the store ------------------------------------------------------------------------------------------

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        found = await self._call(keys[0] if keys else "", lambda: self.judge.get(keys))
        if not self.old_reads:
            return found
        moment = self.monotonic() - self.random.uniform(0, self.old_reads)
        return [self.judge.at(key, moment) for key in keys]

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        found = await self._call(prefix, lambda: self.judge.scan(prefix, after, limit))
        if not self.old_reads:
            return found
        moment = self.monotonic() - self.random.uniform(0, self.old_reads)
        keys = sorted(k for k in self.judge.past if k.startswith(prefix) and k > after)
        return [r for k in keys if (r := self.judge.at(k, moment)) is not None][:limit]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        if self.random.random() < self.refuse:
            self.refused.append(self.monotonic())
            raise Unavailable
        leases = [(swap.key, swap.value) for swap in swaps if swap.key.startswith("lease/") and swap.value]
        keys = Counter(f"{key} {value['nonce']}" for key, value in leases)
        self.in_flight += keys
        assert max(self.in_flight.values(), default=0) <= 1, f"two swaps of one lease in flight: {self.in_flight}"
        try:
            results = await self._call(swaps[0].key, lambda: self.judge.swap(swaps))
        finally:
            self.in_flight -= keys
        if self.random.random() < self.lose_replies:
            self.lost.append(self.monotonic())
            raise Unavailable("committed, but the reply was lost")
        return results

    async def _call(self, key: str, call: Callable[[], Awaitable[R]]) -> R:
        await self._awake()
        if self.away:
            await self.judge.clock.sleep(0.1)
            raise Unavailable
        if latency := self.latency(key):
            await self.judge.clock.sleep(latency / 2)
        result = await call()
        if latency:
            await self.judge.clock.sleep(latency / 2)
        await self._awake(late=not self.replies_first)
        return result

    async def _awake(self, *, late: bool = False) -> None:
        """A frozen process gets nothing; when it goes on, what is `late` comes after the rest."""
        if self.dead:
            await asyncio.get_running_loop().create_future()
        if not self.running.is_set():
            await self.running.wait()
            for _ in range(20 if late else 0):
                await asyncio.sleep(0)


class FakeWorker:
    """Implements `Holder`: works its partitions by raising their cursors once a second."""

    def __init__(self, name: str, partitions: Sequence[str], clock: Clock) -> None:
        self.worker = name
        self.source = "orders"
        self.group = "feeds"
        self.names = list(partitions)
        self.holds: dict[str, Hold] = {}
        self.log: list[tuple[str, str]] = []
        self.starts: dict[str, str] = {}
        self.never_quiet: set[str] = set()
        self.quieted: set[Hold] = set()
        self.beginning: set[str] = set()
        self.begins_in = 0.0
        self.acquiring: Callable[[Hold], None] = lambda _hold: None
        self._clock = clock

    async def partitions(self) -> Sequence[str]:
        return self.names

    async def start(self, partition: str, since: float = 0.0) -> str:
        return self.starts.get(partition, "0")

    async def acquired(self, hold: Hold) -> None:
        self.acquiring(hold)
        assert hold.partition not in self.beginning, f"{hold.partition}: begun twice at once"
        self.beginning.add(hold.partition)
        if self.begins_in:
            await self._clock.sleep(self.begins_in)
        self.beginning.discard(hold.partition)
        if not hold.lost:
            self.log.append(("acquired", hold.partition))
            self.holds[hold.partition] = hold

    async def quiet(self, partition: str, deadline: float) -> bool:
        hold = self.holds.get(partition)
        assert partition not in self.beginning, f"{partition}: asked to be quiet before it had begun"
        if partition in self.never_quiet:
            await self._clock.sleep(max(deadline - self._clock.monotonic(), 0.0))
            return False
        if hold is not None:
            hold.busy = True
            hold.mark(str(int(hold.wanted.cursor) + 1))
            self.quieted.add(hold)
        return True

    def lost(self, partition: str, why: str) -> None:
        self.log.append((why, partition))
        self.holds.pop(partition, None)

    async def run(self) -> None:
        while True:
            await self._clock.sleep(1.0)
            for hold in self.holds.values():
                if not hold.busy:
                    hold.mark(str(int(hold.wanted.cursor) + 1))


class Replica:
    """One process."""

    def __init__(self, fleet: Fleet, name: str, seed: int) -> None:
        self.name = name
        self.machine = Machine(fleet.judge, Random(f"machine {seed}"))
        self.facts: list[Fact] = []
        random = Random(seed)
        self.membership = Membership(
            self.machine,
            fleet.presence,
            clock=self.machine,
            random=random,
            profile=fleet.profile,
            identity=Identity(name, ("feeds",), fleet.pods.get(name, ""), "worker"),
            observer=self.facts.append,
        )
        self.leases = Leases(
            self.machine, self.membership, clock=self.machine, random=random, observer=self.facts.append
        )
        self.workers = {w: FakeWorker(w, p, self.machine) for w, p in fleet.workers.items()}
        for worker in self.workers.values():
            self.leases.register(worker)
        self.tasks: list[asyncio.Task[None]] = []
        self.leaving: asyncio.Task[None] | None = None

    @property
    def worker(self) -> FakeWorker:
        return next(iter(self.workers.values()))

    @property
    def works(self) -> set[str]:
        """What it works on now, as `<worker>/<partition>`: held, trusted, not quiet; and not frozen or dead."""
        machine = self.machine
        if machine.dead or not machine.running.is_set() or not self.membership.fence.holds(machine.monotonic()):
            return set()
        return {
            f"{w.worker}/{p}"
            for w in self.workers.values()
            for p, hold in w.holds.items()
            if not hold.lost and hold not in w.quieted
        }

    async def start(self) -> None:
        async def live() -> None:
            await self.membership.join()
            async with asyncio.TaskGroup() as group:
                group.create_task(self.membership.run())
                group.create_task(self.leases.run())
                for worker in self.workers.values():
                    group.create_task(worker.run())

        self.tasks.append(asyncio.create_task(live()))

    def stop(self) -> asyncio.Task[None]:
        """Begin a clean stop; the task ends with it."""
        if self.leaving is None:
            self.leaving = asyncio.create_task(self._leave())
        return self.leaving

    async def _leave(self) -> None:
        await self.membership.draining()
        await self.leases.drain(self.machine.monotonic() + 25)
        await self.leases.stop()
        await self.membership.leave()
        self.kill()

    def freeze(self) -> None:
        self.machine.running.clear()

    def thaw(self) -> None:
        self.machine.running.set()

    def kill(self) -> None:
        self.machine.dead = True
        for task in self.tasks:
            task.cancel()

    def said(self, name: str) -> int:
        return sum(fact.name == name for fact in self.facts)


@dataclass
class Fleet:
    """Some replicas. Fails when one of their services fails, or when two work one partition at once."""

    workers: Mapping[str, Sequence[str]] = field(default_factory=lambda: {"bill": [f"{n:02}" for n in range(16)]})
    profile: Profile = NORMAL
    presence: Presence | None = None
    pods: Mapping[str, str] = field(default_factory=dict)
    seed: int = 1

    def __post_init__(self) -> None:
        self.clock = FakeClock()
        self.judge = Judge(self.clock)
        self.replicas: dict[str, Replica] = {}

    async def __aenter__(self) -> Fleet:
        return self

    async def __aexit__(self, *_: object) -> None:
        for replica in self.replicas.values():
            replica.kill()
        tasks = [task for replica in self.replicas.values() for task in replica.tasks]
        leaving = [replica.leaving for replica in self.replicas.values() if replica.leaving is not None]
        for task in leaving:
            task.cancel()
        tasks += leaving
        results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, asyncio.CancelledError):
                raise result

    def add(self, name: str) -> Replica:
        replica = self.replicas[name] = Replica(self, name, self.seed * 1_000 + len(self.replicas))
        for worker in replica.workers.values():
            worker.acquiring = lambda hold: self._alone(name, hold)
        return replica

    async def start(self, *names: str) -> None:
        for name in names:
            await self.add(name).start()

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, and look each half second whether anything is worked twice."""
        end = self.clock.monotonic() + seconds
        while self.clock.monotonic() < end:
            await self.clock.advance(min(0.5, end - self.clock.monotonic()))
            self.check()

    def check(self) -> None:
        owners: dict[str, str] = {}
        for replica in self.replicas.values():
            for partition in replica.works:
                other = owners.setdefault(partition, replica.name)
                assert other == replica.name, f"{partition} is worked by {other} and {replica.name}"
            for task in replica.tasks:
                if task.done() and not replica.machine.dead:
                    task.result()
                    raise AssertionError(f"{replica.name} ended by itself")

    async def until(self, ready: Callable[[], bool], limit: float = 60.0) -> float:
        """Seconds until this holds."""
        began = self.clock.monotonic()
        while not ready():
            assert self.clock.monotonic() - began < limit, f"not within {limit:g} s: {self.shares()}"
            await self.pass_time(0.5)
        return self.clock.monotonic() - began

    def shares(self) -> dict[str, int]:
        return {name: len(replica.works) for name, replica in self.replicas.items() if replica.works}

    def complete(self) -> bool:
        """Everything is worked by somebody."""
        return sum(self.shares().values()) == sum(map(len, self.workers.values()))

    def _alone(self, name: str, hold: Hold) -> None:
        for other in self.replicas.values():
            where = f"{hold.worker}/{hold.partition}"
            assert other.name == name or where not in other.works, f"{where}: {name} begins, {other.name} works it"
