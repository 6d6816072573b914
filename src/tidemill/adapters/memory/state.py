"""What the memory backend remembers, and how waiting calls are woken."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from zlib import crc32

from tidemill.errors import ConfigurationError
from tidemill.model import CollectionSpec, DeadLetter, Logged, Outcome, QueueSpec, Record, Stored
from tidemill.ports import Clock


class Bell:
    """Wakes everybody who waits for news of one thing."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()
        self._event = asyncio.Event()

    @property
    def event(self) -> asyncio.Event:
        """The event of the next ring."""
        return self._event


@dataclass(slots=True)
class Held:
    """A message in a queue. `deliveries` without a verdict; `claim` while somebody has it, who is the `owner`."""

    queue: str
    id: str
    body: bytes
    key: str | None
    headers: dict[str, str]
    priority: int
    sent_at: float
    due: float
    serial: int
    dedup: str | None
    attempt: int = 0
    deliveries: int = 0
    reason: str = ""
    owner: str = ""
    claim: str = ""


@dataclass(slots=True)
class QueueState:
    """Messages by id; their ids in a heap, until due in `waiting`, then in `ready`; entries of an old serial are void.

    `dedup` by key: the id of the first; `ending` those keys whose message has gone, with the end of their window, in
    the order of the ends. `settled` by claim: the last outcomes, so that they are known again.
    """

    spec: QueueSpec
    messages: dict[str, Held] = field(default_factory=dict)
    waiting: list[tuple[float, int, str]] = field(default_factory=list)
    ready: list[tuple[int, float, int, str]] = field(default_factory=list)
    dedup: dict[str, str] = field(default_factory=dict)
    ending: dict[str, float] = field(default_factory=dict)
    settled: dict[str, Outcome] = field(default_factory=dict)
    bell: Bell = field(default_factory=Bell)


@dataclass(slots=True)
class PartitionLog:
    """The changes of one partition; `trimmed` is the order up to which retention has removed some."""

    changes: list[Logged] = field(default_factory=list)
    trimmed: int = 0


@dataclass(slots=True)
class CollectionState:
    """Documents by id, and their changes by partition."""

    spec: CollectionSpec
    documents: dict[str, Stored] = field(default_factory=dict)
    log: dict[str, PartitionLog] = field(default_factory=dict)
    bell: Bell = field(default_factory=Bell)


class State:
    """All of it. Versions, etags, claims and orders come from one sequence and are never used twice."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.records: dict[str, Record] = {}
        self.queues: dict[str, QueueState] = {}
        self.collections: dict[str, CollectionState] = {}
        self.letters: dict[str, dict[str, DeadLetter]] = {}
        self.present: set[str] = set()
        self.ended: set[str] = set()
        self._serials = count(1)

    def serial(self) -> int:
        return next(self._serials)

    def queue(self, name: str) -> QueueState:
        """The queue; ConfigurationError if nobody has opened it."""
        found = self.queues.get(name)
        if found is None:
            raise ConfigurationError(f"queue {name!r} was not opened; it is not declared in this app")
        return found

    def collection(self, name: str) -> CollectionState:
        """The collection; ConfigurationError if nobody has opened it."""
        found = self.collections.get(name)
        if found is None:
            raise ConfigurationError(f"collection {name!r} was not opened; it is not declared in this app")
        return found


def partition_of(key: str, partitions: int) -> str:
    """The partition of a key; the same in each process and release."""
    return f"{crc32(key.encode()) % partitions:04d}"


async def wait_for(clock: Clock, event: Callable[[], asyncio.Event], ready: Callable[[], bool], wait: float) -> None:
    """Until `ready()` or for `wait` seconds; looked at each time the event is set."""
    deadline = clock.monotonic() + wait
    while not ready():
        left = deadline - clock.monotonic()
        if left <= 0:
            return
        await clock.wait(event(), left)
