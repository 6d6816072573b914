"""Settings to databases: which URL each part of an app lives at, and what that allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from tidemill.adapters.connect import connect
from tidemill.app.worker import Declared, OnChange, OnMessage, Worker
from tidemill.engine.places import Places, places
from tidemill.ports import Clock, Database
from tidemill.settings import Settings

Adapters: TypeAlias = Mapping[str, Callable[[str, Clock], Database]]


def locate(declared: Declared, settings: Settings, clock: Clock, adapters: Adapters | None) -> Places:
    """Connect each URL once; parts with the same URL share a database. Nothing is opened yet."""
    made: dict[str, Database] = {}

    def database(url: str | None) -> Database | None:
        if url is None:
            return None
        if url not in made:
            made[url] = connect(url, clock, adapters)
        return made[url]

    queues = {spec.name: database(settings.queue_url(spec.name)) for spec, _ in declared.queues}
    sources = {spec.name: database(settings.collection_url(spec.name)) for spec, _ in declared.collections}
    store = database(settings.store_url(declared))
    main = database(settings.database) or store or next(iter(made.values()), None)
    return places(
        declared,
        main or connect("memory:", clock, adapters),
        queues={name: found for name, found in queues.items() if found},
        sources={name: found for name, found in sources.items() if found},
        store=store,
    )


def transactional(workers: Sequence[Worker], where: Places) -> frozenset[str]:
    """The workers whose backend commits effects together with the ack."""
    return frozenset(worker.name for worker in workers if _commits(worker, where))


def _commits(worker: Worker, where: Places) -> bool:
    match worker.trigger:
        case OnMessage(queue):
            return "commit" in where.queue_database(queue.name).features
        case OnChange(source):
            database = where.source_database(source.name)
            return database is where.store and "commit" in database.features
        case _:
            return False
