"""The Service Bus backend as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from tidemill.adapters.service_bus.address import Address, address
from tidemill.adapters.service_bus.letters import QUEUE, Graves, ServiceBusDeadLetters
from tidemill.adapters.service_bus.links import Clients
from tidemill.adapters.service_bus.queue import COUNTED, ServiceBusQueue
from tidemill.adapters.service_bus.sessions import SessionQueue
from tidemill.errors import ConfigurationError
from tidemill.model import Commit, CommitResult, Limits, QueueSpec, Source
from tidemill.ports import Clock, DeadLetters, Documents, Feed, Presence, Queue, Store

PARTS = ("queue", "dead_letters", "delay", "key_order", "sessions")


class ServiceBus:
    """Implements `tidemill.ports.Database`: queues and their dead letters."""

    def __init__(self, where: Address, clock: Clock) -> None:
        self._address = where
        self._clock = clock
        self._clients = Clients(where)
        self._queues: dict[str, ServiceBusQueue | SessionQueue] = {}
        self._graves: dict[str, Graves] = {}
        self._letters = ServiceBusDeadLetters(self._graves, where.shown, clock)

    @classmethod
    def from_url(cls, url: str, clock: Clock) -> ServiceBus:
        """Raises `ConfigurationError` for a URL that does not fit."""
        return cls(address(url), clock)

    @property
    def features(self) -> frozenset[str]:
        return frozenset([*PARTS, *(["dedup"] if self._address.window else [])])

    @property
    def limits(self) -> Limits:
        return Limits(batch=500, body=self._address.body)

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        if sources:
            names = ", ".join(sorted(source.name for source in sources))
            told = f"set another database for {names}, and this one for the queues (queues.NAME.url)"
            raise ConfigurationError(f"{self._address.shown}: Service Bus has queues only: {told}")
        if misfits := [line for spec in queues for line in self._misfits(spec)]:
            raise ConfigurationError(*misfits)
        self._clients.open()
        opening = []
        for spec in queues:
            if spec.name not in self._queues:
                kind = ServiceBusQueue if spec.key is None else SessionQueue
                queue = self._queues[spec.name] = kind(self._clients, spec, self._clock)
                self._graves[f"{QUEUE}{spec.name}"] = Graves(self._clients, spec.name, queue.sender)
                opening.append(queue.open())
        errors = [one for one in await asyncio.gather(*opening, return_exceptions=True) if one is not None]
        lines = [line for error in errors if isinstance(error, ConfigurationError) for line in error.problems]
        if lines:
            raise ConfigurationError(*dict.fromkeys(lines))
        if errors:
            raise errors[0]

    async def close(self) -> None:
        queues, graves = list(self._queues.values()), list(self._graves.values())
        self._queues.clear()
        self._graves.clear()
        await asyncio.gather(*(one.close() for one in (*queues, *graves)))
        await self._clients.close()

    def queue(self, queue: QueueSpec) -> Queue:
        if queue.name not in self._queues:
            raise ConfigurationError(f"{self._address.shown}: queue {queue.name!r} was not opened")
        return self._queues[queue.name]

    def dead_letters(self) -> DeadLetters:
        return self._letters

    def store(self) -> Store:
        raise self._lacking("a store")

    def feed(self, source: Source) -> Feed:
        raise self._lacking(f"feeds ({source.name!r})")

    def documents(self, source: Source) -> Documents:
        raise self._lacking(f"documents ({source.name!r})")

    def presence(self) -> Presence | None:
        return None

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        raise self._lacking("commits of several things in one step")

    def _misfits(self, spec: QueueSpec) -> Iterator[str]:
        """What a declaration asks for that is not kept here."""
        shown, window = f"{self._address.shown}: queue {spec.name!r}", self._address.window
        if spec.limit is not None and spec.key is not None:
            yield f"{shown}: limit={spec.limit}: nobody can count the messages of sessions; leave it out"
        elif spec.limit is not None and spec.limit > COUNTED:
            yield f"{shown}: limit={spec.limit}: no more than {COUNTED} messages are counted here; lower it"
        if window and spec.dedup_window > window:
            yield f"{shown}: dedup_window={spec.dedup_window:g} s is longer than the queue's (dedup={window:g})"

    def _lacking(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self._address.shown}: Service Bus has queues only, and no {what}")
