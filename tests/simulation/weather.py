"""What can go wrong between a replica and the world: a host that is stopped or killed, and a database behind weather.

State of a host: running, stopped (SIGSTOP: it gets no wake-up and no reply; what it has sent is on its way), dead (it
never gets any again). A call travels there and back; it may be refused, lost on the way back (it took effect), or be
late. Reads of the store may be old. What a host sends is watched at the moment it is sent, and what takes effect by
`Truth` at the moment it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from tests.simulation.history import History
from tests.simulation.truth import Truth
from tidemill.adapters.memory import Memory
from tidemill.errors import Unavailable
from tidemill.model import (
    Commit,
    CommitResult,
    DeadLetter,
    Delivery,
    Depth,
    Expired,
    Lag,
    Later,
    Limits,
    Lost,
    Message,
    Moved,
    Outcome,
    Page,
    QueueSpec,
    Record,
    Settled,
    Source,
    Stale,
    Start,
    Swap,
    Swapped,
    Waiting,
)
from tidemill.ports import DeadLetters, Documents, Feed, Presence, Queue, Store
from tidemill.testing.clock import FakeClock

R = TypeVar("R")

FENCE = 10.0
GUARDED = ("lease/", "park/", "timer/")
"""Records that only who holds the fence may write."""


@dataclass(slots=True)
class Weather:
    """How likely a call is refused, its reply lost, it or its reply late; how old a read may be, and how often."""

    refused: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    latest: float = 1.5
    old: float = 0.0
    oldest: float = 5.0

    def clear(self) -> None:
        self.refused = self.lost = self.late = self.old = 0.0


@dataclass(eq=False)
class Host:
    """Implements `Clock` for one replica; stops, kills, and knows by itself how long its membership may be trusted."""

    name: str
    clock: FakeClock
    weather: Weather
    random: Random
    history: History
    dead: bool = False
    ending: bool = False
    trust: float = float("-inf")
    trusted_anew: float = float("-inf")
    members: set[str] = field(default_factory=set)
    unknown: dict[str, float] = field(default_factory=dict)
    left: bool = False

    def __post_init__(self) -> None:
        self.going = asyncio.Event()
        self.going.set()

    # --- the clock ------------------------------------------------------------------------------------------

    def now(self) -> float:
        return self.clock.now()

    def monotonic(self) -> float:
        return self.clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await self.clock.sleep(seconds)
        await self.awake()

    async def wait(self, event: asyncio.Event, timeout: float) -> bool:
        await self.clock.wait(event, timeout)
        await self.awake()
        return event.is_set()

    async def awake(self) -> None:
        """Returns while it runs; when it is dead, never (but for when all is over)."""
        while (self.dead or not self.going.is_set()) and not self.history.over:
            if self.dead:
                await asyncio.get_running_loop().create_future()
            await self.going.wait()

    # --- calls ----------------------------------------------------------------------------------------------

    async def call(self, what: str, work: Callable[[], Awaitable[R]], *, takes: bool = False) -> R:
        """Send it through the weather. One that `takes` something must not be cancelled while it is on its way."""
        await self.awake()
        weather, random = self.weather, self.random
        fate, late = random.random(), random.random() < weather.late
        travels = late or fate < weather.refused + weather.lost
        try:
            if not travels:
                result = await work()
            else:
                result = await self._travel(work, fate, late)
        except asyncio.CancelledError:
            if takes and not (self.dead or self.history.over):
                self.history.blame("J12", f"{self.name}: {what} was cancelled")
            raise
        finally:
            await self.awake()
        return result

    async def _travel(self, work: Callable[[], Awaitable[R]], fate: float, late: bool) -> R:
        there = self.random.uniform(0, self.weather.latest) if late else 0.0
        back = self.random.uniform(0, self.weather.latest) if late else 0.0
        arrives = self.random.random() < 0.5

        async def travel() -> R:
            if there:
                await self.clock.sleep(there)
            if fate < self.weather.refused or (self.dead and not arrives):
                raise Unavailable("refused")
            result = await work()
            if back:
                await self.clock.sleep(back)
            if fate < self.weather.refused + self.weather.lost:
                raise Unavailable("it took effect, but the reply was lost")
            return result

        task = asyncio.get_running_loop().create_task(travel())
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    # --- trust, counted by ourselves ------------------------------------------------------------------------

    def renewed(self, sent: float) -> None:
        """A renewal that was sent then is known to have succeeded."""
        now = self.monotonic()
        if sent + FENCE <= now:
            return
        if now >= self.trust:
            self.trusted_anew = now
        self.trust = max(self.trust, sent + FENCE)

    def sends(self, what: str) -> None:
        """Something is sent that only who is trusted may send."""
        if self.monotonic() >= self.trust:
            self.history.blame("J13", f"{self.name}: {what} was sent without trust")

    def saw(self, record: Record | None) -> None:
        """Our own record, read: a renewal of ours whose reply was lost is known by its `write`."""
        if record is not None and record.key.startswith("member/"):
            sent = self.unknown.pop(str(record.value.get("write")), None)
            if sent is not None:
                self.renewed(sent)


class FaultyDatabase:
    """Implements `Database` over the shared one, as seen from one host."""

    def __init__(self, inner: Memory, host: Host, truth: Truth) -> None:
        self._inner = inner
        self._host = host
        self._truth = truth

    @property
    def features(self) -> frozenset[str]:
        return self._inner.features

    @property
    def limits(self) -> Limits:
        return self._inner.limits

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        await self._inner.open(sources, queues)

    async def close(self) -> None:
        pass

    def store(self) -> Store:
        return FaultyStore(self._host, self._truth)

    def feed(self, source: Source) -> Feed:
        return FaultyFeed(self._inner.feed(source), self._host)

    def queue(self, queue: QueueSpec) -> Queue:
        return FaultyQueue(self._inner.queue(queue), self._host, self._truth)

    def documents(self, source: Source) -> Documents:
        return self._inner.documents(source)

    def dead_letters(self) -> DeadLetters:
        return FaultyLetters(self._inner.dead_letters(), self._host)

    def presence(self) -> Presence | None:
        return self._inner.presence()

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        self._host.sends("commit")
        return await self._host.call("commit", lambda: self._inner.commit(commits), takes=True)


class FaultyStore:
    """Implements `Store`."""

    def __init__(self, host: Host, truth: Truth) -> None:
        self._host = host
        self._truth = truth

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        found = await self._host.call("get", lambda: self._truth.get(keys, self._age()))
        for record in found:
            self._host.saw(record)
        return found

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        return await self._host.call("scan", lambda: self._truth.scan(prefix, after, limit, self._age()))

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        host = self._host
        await host.awake()
        sent = host.monotonic()
        for swap in swaps:
            if swap.key.startswith(GUARDED):
                host.sends(f"swap of {swap.key}")
            if (
                swap.key.startswith("member/")
                and swap.value is None
                and swap.key.removeprefix("member/") in host.members
            ):
                host.left = True
            if swap.key.startswith("member/") and swap.value and swap.value.get("state") == "live":
                host.members.add(swap.key.removeprefix("member/"))
                host.unknown.setdefault(str(swap.value.get("write")), sent)
        takes = any(_takes(swap) for swap in swaps)
        replies = await host.call(f"swap of {swaps[0].key}", lambda: self._truth.swap(swaps, host.name), takes=takes)
        for swap, reply in zip(swaps, replies, strict=True):
            host.saw(reply if isinstance(reply, Record) else reply.current if isinstance(reply, Stale) else None)
            if swap.key.startswith("lease/") and isinstance(reply, Record):
                self._truth.known(reply, host.monotonic())
        return replies

    def _age(self) -> float:
        weather, random = self._host.weather, self._host.random
        return random.uniform(0, weather.oldest) if random.random() < weather.old else 0.0


def _takes(swap: Swap) -> bool:
    return swap.key.startswith(("lease/", "timer/")) and swap.value is not None and bool(swap.value.get("owner"))


class FaultyFeed:
    """Implements `Feed`."""

    def __init__(self, inner: Feed, host: Host) -> None:
        self._inner = inner
        self._host = host

    async def partitions(self) -> Sequence[str]:
        return await self._host.call("partitions", self._inner.partitions)

    async def start(self, partition: str, at: Start) -> str:
        return await self._host.call("start", lambda: self._inner.start(partition, at))

    async def read(self, cursors: Mapping[str, str], limit: int, wait: float) -> Mapping[str, Page | Moved | Expired]:
        return await self._host.call("read", lambda: self._inner.read(cursors, limit, wait))

    async def lag(self, cursors: Mapping[str, str]) -> Mapping[str, Lag]:
        return await self._host.call("lag", lambda: self._inner.lag(cursors))

    async def trim(self, before: Mapping[str, str], retention: float) -> int:
        return await self._host.call("trim", lambda: self._inner.trim(before, retention))


class FaultyQueue:
    """Implements `Queue`."""

    def __init__(self, inner: Queue, host: Host, truth: Truth) -> None:
        self._inner = inner
        self.host = host
        self._truth = truth

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        return await self.host.call("send", lambda: self._inner.send(messages), takes=True)

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        await self.host.awake()
        self.host.sends("receive")

        async def receive() -> Sequence[Delivery]:
            deliveries = await self._inner.receive(owner, limit, wait)
            self._truth.unresolved.update(delivery.id for delivery in deliveries)
            return deliveries

        return await self.host.call("receive", receive, takes=True)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        return await self.host.call("extend", lambda: self._inner.extend(deliveries))

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        await self.host.awake()
        self.host.sends("settle")
        for outcome in outcomes:
            ours = self._truth.claimed(outcome.delivery)
            given_back = ours and isinstance(outcome.verdict, Later) and not outcome.verdict.attempt
            if given_back and self.host.history.runs(self.host.name, outcome.delivery.id):
                self.host.history.blame("J8", f"{self.host.name}: {outcome.delivery.id} is given back and runs")
        if self.host.left:
            self.host.history.blame("J8", f"{self.host.name}: settled after its member record was deleted")

        async def settle() -> Sequence[Settled | Lost]:
            self._truth.unresolved.subtract(o.delivery.id for o in outcomes if self._truth.claimed(o.delivery))
            return await self._inner.settle(outcomes)

        return await self.host.call("settle", settle, takes=True)

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        for owner in owners:
            member = owner.partition(".")[0]
            if self._truth.lives(member) and member not in self.host.members:
                self.host.history.blame("J1", f"{self.host.name}: freed the claims of {owner}, who is not buried")
        return await self.host.call("free", lambda: self._inner.free(owners))

    async def depth(self) -> Depth:
        return await self.host.call("depth", self._inner.depth)

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        return await self.host.call("peek", lambda: self._inner.peek(after, limit))

    async def purge(self) -> int:
        return await self.host.call("purge", self._inner.purge)


class FaultyLetters:
    """Implements `DeadLetters`."""

    def __init__(self, inner: DeadLetters, host: Host) -> None:
        self._inner = inner
        self._host = host

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        await self._host.awake()
        self._host.sends("put")
        await self._host.call("put", lambda: self._inner.put(letters))

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        return await self._host.call("page", lambda: self._inner.page(source, after, limit, key))

    async def count(self, prefix: str) -> Mapping[str, int]:
        return await self._host.call("count", lambda: self._inner.count(prefix))

    async def release(self, source: str, ids: Sequence[str]) -> int:
        return await self._host.call("release", lambda: self._inner.release(source, ids))

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        await self._host.awake()
        self._host.sends("drop")
        return await self._host.call("drop", lambda: self._inner.drop(source, ids))
