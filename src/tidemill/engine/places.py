"""Where each part of an app lives: which database holds which collection, queue and the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from tidemill.app.worker import Declared, OnChange, OnMessage, Worker
from tidemill.engine.effects import OUTBOX
from tidemill.errors import ConfigurationError
from tidemill.model import QueueSpec, Source, StreamSpec
from tidemill.ports import Database, DeadLetters, Documents, Feed, Queue, Store

SESSIONS = "sessions"


@dataclass(frozen=True, slots=True)
class Places:
    """The databases of a run. `queues` and `sources` map names to what is declared and where it lives."""

    main: Database
    queues: Mapping[str, tuple[QueueSpec, Database]]
    sources: Mapping[str, tuple[Source, Database]]
    store: Database

    @property
    def databases(self) -> Sequence[Database]:
        """Each database once, the store's first."""
        found = [self.store, self.main]
        found += [database for _, database in (*self.queues.values(), *self.sources.values())]
        return list({id(database): database for database in found}.values())

    def queue(self, name: str) -> Queue:
        spec, database = self._queue(name)
        return database.queue(spec)

    def feed(self, name: str) -> Feed:
        spec, database = self._source(name)
        return database.feed(spec)

    def documents(self, name: str) -> Documents:
        spec, database = self._source(name)
        return database.documents(spec)

    def letters_of_feed(self, name: str) -> DeadLetters:
        return self._source(name)[1].dead_letters()

    def shared_store(self) -> Store:
        return self.store.store()

    def queue_database(self, name: str) -> Database:
        return self._queue(name)[1]

    def source_database(self, name: str) -> Database:
        return self._source(name)[1]

    def queues_in(self, database: Database) -> frozenset[str]:
        return frozenset(name for name, (_, home) in self.queues.items() if home is database)

    async def open(self) -> None:
        """Connect to all, making ready what is missing."""
        for database in self.databases:
            sources = [spec for spec, home in self.sources.values() if home is database]
            queues = [spec for spec, home in self.queues.values() if home is database]
            outbox = [OUTBOX] if "commit" in database.features else []
            await database.open(sources, [*queues, *outbox])

    async def close(self) -> None:
        """Disconnect from all; one that fails does not keep the others open."""
        results = await asyncio.gather(*(d.close() for d in self.databases), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _queue(self, name: str) -> tuple[QueueSpec, Database]:
        if name not in self.queues:
            raise ConfigurationError(f"queue {name!r} is not declared in this app")
        return self.queues[name]

    def _source(self, name: str) -> tuple[Source, Database]:
        if name not in self.sources:
            raise ConfigurationError(f"collection {name!r} is not declared in this app")
        return self.sources[name]


def places(
    declared: Declared,
    main: Database,
    *,
    queues: Mapping[str, Database] | None = None,
    sources: Mapping[str, Database] | None = None,
    store: Database | None = None,
) -> Places:
    """Everything in `main`, but for what is set apart. The store is with the first feed unless it is said.

    Raises `ConfigurationError` with one line for each queue or feed worker that asks for more than its backend can.
    """
    apart_queues, apart_sources = queues or {}, sources or {}
    refused = [line for spec, _ in declared.queues if (line := _refused(spec, apart_queues.get(spec.name, main)))]
    homes: dict[str, tuple[Source, Database]] = {
        spec.name: (replace(spec, workers=_workers(declared, spec.name)), apart_sources.get(spec.name, main))
        for spec, _ in declared.collections
    }
    refused += [line for worker in declared.workers if (line := _refused_start(worker, homes))]
    if refused:
        raise ConfigurationError(*refused)
    first = next((database for _, database in homes.values()), main)
    for queue, _ in declared.queues:
        home = apart_queues.get(queue.name, main)
        if queue.key is not None and SESSIONS not in home.features:
            homes[f"queue/{queue.name}"] = (StreamSpec.of(queue.name), home)
    return Places(
        main,
        {spec.name: (spec, apart_queues.get(spec.name, main)) for spec, _ in declared.queues},
        homes,
        store or first,
    )


def worked(declared: Declared, where: Places) -> Declared:
    """The declarations as their backends work them: a queue with a key is read like a feed, unless the queue itself
    keeps the order of its keys."""
    specs = {spec.name: spec for spec, _ in declared.queues}

    def bound(worker: Worker) -> Worker:
        match worker.trigger:
            case OnChange(StreamSpec() as stream, type_) if SESSIONS in where.queue_database(stream.queue).features:
                return replace(worker, trigger=OnMessage(specs[stream.queue], type_))
            case _:
                return worker

    return replace(declared, workers=tuple(map(bound, declared.workers)))


def _workers(declared: Declared, source: str) -> tuple[str, ...]:
    """Who gets the changes of a collection or table."""
    return tuple(
        worker.name
        for worker in declared.workers
        if isinstance(worker.trigger, OnChange) and worker.trigger.source.name == source
    )


def _refused(queue: QueueSpec, database: Database) -> str:
    """What this declaration asks for and its backend lacks; empty if it fits."""
    if queue.key is None or "key_order" in database.features:
        if queue.key is not None and queue.limit is not None:
            return f"queue {queue.name!r}: limit={queue.limit}: a queue with key={queue.key!r} has none; leave it out"
        return ""
    backend = type(database).__name__.lower()
    return (
        f"queue {queue.name!r}: key={queue.key!r} asks for order per key, which the backend {backend} cannot do; leave"
        " key= out, or let a feed (app.collection and on_change) keep the order"
    )


def _refused_start(worker: Worker, homes: Mapping[str, tuple[Source, Database]]) -> str:
    """A feed worker that is to begin where its backend has nothing kept; empty if it fits."""
    trigger = worker.trigger
    if not isinstance(trigger, OnChange) or trigger.start == "now" or trigger.source.name not in homes:
        return ""
    database = homes[trigger.source.name][1]
    if "now_only" not in database.features:
        return ""
    return (
        f"worker {worker.name!r}: start={trigger.start!r}: with this URL the feed of {trigger.source.name!r} can begin"
        " now only, for its backend keeps nothing earlier; say start='now'"
    )
