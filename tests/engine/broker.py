"""A broker as a double: queues and dead letters in memory, without a store; each claim ends by a deadline of its own.

It wraps the memory backend: every receive claims under an owner of its own, and owners whose time is over are freed
before the next one. `refuse` makes extensions fail, `extended` lists what was asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidemill.adapters.memory import Memory
from tidemill.errors import ConfigurationError, Unavailable
from tidemill.model import (
    Commit,
    CommitResult,
    Delivery,
    Depth,
    Limits,
    Lost,
    Message,
    Outcome,
    QueueSpec,
    Settled,
    Source,
    Waiting,
)
from tidemill.ports import Clock, DeadLetters, Documents, Feed, Presence, Queue, Store

CLAIM = 60.0


class BrokerQueue:
    """Implements `tidemill.ports.Queue` over a queue in memory."""

    def __init__(self, inner: Queue, clock: Clock, claim: float) -> None:
        self.inner = inner
        self.clock = clock
        self.claim = claim
        self.refuse = False
        self.extended: list[str] = []
        self.deadlines: dict[str, float] = {}
        self._owners: dict[str, str] = {}
        self._count = 0

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        return await self.inner.send(messages)

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        await self._expire()
        self._count += 1
        sent, name = self.clock.monotonic(), f"receive {self._count}"
        found = [d._replace(deadline=sent + self.claim) for d in await self.inner.receive(name, limit, wait)]
        self.deadlines |= {d.claim: d.deadline for d in found}
        self._owners |= {d.claim: name for d in found}
        return found

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        if self.refuse:
            raise Unavailable
        await self._expire()
        self.extended += [d.id for d in deliveries]
        deadline = self.clock.monotonic() + self.claim
        replies = [reply if isinstance(reply, Lost) else deadline for reply in await self.inner.extend(deliveries)]
        self.deadlines |= {d.claim: r for d, r in zip(deliveries, replies, strict=True) if not isinstance(r, Lost)}
        return replies

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        await self._expire()
        for outcome in outcomes:
            self.deadlines.pop(outcome.delivery.claim, None)
        return await self.inner.settle(outcomes)

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        return []

    async def depth(self) -> Depth:
        return await self.inner.depth()

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        return await self.inner.peek(after, limit)

    async def purge(self) -> int:
        return await self.inner.purge()

    async def _expire(self) -> None:
        now = self.clock.monotonic()
        over = [claim for claim, deadline in self.deadlines.items() if deadline <= now]
        for claim in over:  # one receive may have claimed several, of which others were extended
            del self.deadlines[claim]
            alone = all(self._owners[other] != self._owners[claim] for other in self.deadlines)
            assert alone, "this double frees a receive as a whole"
            await self.inner.free([self._owners[claim]])


class Broker:
    """Implements `tidemill.ports.Database`."""

    warnings: tuple[str, ...] = ()

    def __init__(self, clock: Clock, *, claim: float = CLAIM, sessions: bool = False) -> None:
        self.memory = Memory(clock)
        self.clock = clock
        self.claim = claim
        self.features: frozenset[str] = frozenset(
            ["queue", "dead_letters", "delay", *(["key_order", "sessions"] if sessions else [])]
        )
        self.limits = Limits()
        self.queues: dict[str, BrokerQueue] = {}

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        await self.memory.open(sources, queues)

    async def close(self) -> None:
        await self.memory.close()

    def queue(self, queue: QueueSpec) -> Queue:
        if queue.name not in self.queues:
            self.queues[queue.name] = BrokerQueue(self.memory.queue(queue), self.clock, self.claim)
        return self.queues[queue.name]

    def dead_letters(self) -> DeadLetters:
        return self.memory.dead_letters()

    def store(self) -> Store:
        raise ConfigurationError("a broker has no store")

    def feed(self, source: Source) -> Feed:
        raise ConfigurationError("a broker has no feeds")

    def documents(self, source: Source) -> Documents:
        raise ConfigurationError("a broker has no documents")

    def presence(self) -> Presence | None:
        return None

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        raise ConfigurationError("a broker commits nothing with anything")


def apart(broker: Broker, *names: str) -> Mapping[str, Broker]:
    """These queues on the broker."""
    return dict.fromkeys(names, broker)
