"""Queues: what waits in them, send, pause, purge.

A pause is a control: the wish is written, and each replica acts on it within a second or two. It stands until a resume
removes it, also for replicas that start later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any, TypeVar

from tidemill.app.handles import Queue
from tidemill.app.worker import Declared, OnChange, OnMessage
from tidemill.engine.admission import Admission
from tidemill.engine.controls import PAUSE
from tidemill.engine.outlet import Outlet
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError, Unavailable
from tidemill.model import FORMAT, Depth, Message, StreamSpec, Value, Waiting
from tidemill.operations.records import PAGE, sources
from tidemill.operations.wishes import change

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as it is. `depth` and `dead` are None where they could not be read; `problem` says why. `paused` are
    those of its `workers` that are, as far as the store could be read."""

    name: str
    depth: Depth | None
    limit: int | None
    dead: int | None
    workers: tuple[str, ...]
    paused: tuple[str, ...]
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of messages: all that were sent, and how many of them were there already (`dedup`)."""

    ids: tuple[str, ...] = ()
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Wished:
    """The workers of a queue, and those of them that a wish has changed anything for."""

    workers: tuple[str, ...]
    changed: tuple[str, ...]


def find(declared: Declared, name: str) -> Queue[Any]:
    """The queue of this name. Raises `ConfigurationError` with the near miss."""
    for spec, type_ in declared.queues:
        if spec.name == name:
            return Queue(spec, type_)
    names = [spec.name for spec, _ in declared.queues]
    near = get_close_matches(name, names, 1, 0.6)
    there = f"; did you mean {near[0]}?" if near else f" (there are: {', '.join(names) or 'none'})"
    raise ConfigurationError(f"queue {name!r} is not declared in app {declared.name!r}{there}")


async def queues(places: Places, declared: Declared) -> Sequence[QueueState]:
    """Every declared queue, by name. A backend that is away costs what it knows, and a line in `problem`."""
    letters, no_letters = await _read(sources(places))
    paused, no_controls = await _read(_paused(places, [worker.name for worker in declared.workers]))
    dead = None if letters is None else {source: count for source, count, _ in letters}
    found = []
    for spec, _ in sorted(declared.queues, key=lambda declaration: declaration[0].name):
        depth, no_depth = await _read(places.queue(spec.name).depth())
        workers = workers_of(declared, spec.name)
        found.append(
            QueueState(
                spec.name,
                depth,
                spec.limit,
                None if dead is None else dead.get(f"queue/{spec.name}", 0),
                workers,
                tuple(name for name in workers if name in (paused or ())),
                "; ".join(dict.fromkeys(filter(None, (no_depth, no_letters, no_controls)))),
            )
        )
    return found


async def _read(work: Awaitable[T]) -> tuple[T | None, str]:
    """What was read, or why it was not."""
    try:
        return await work, ""
    except Unavailable as error:
        return None, str(error)


async def peek(places: Places, queue: str, *, limit: int, after: str = "") -> Sequence[Waiting]:
    """Messages that wait, in the order of claiming, from behind a place; nothing is claimed."""
    _need(places, queue, "peek")
    port = places.queue(queue)
    found: list[Waiting] = []
    while len(found) < limit and (page := await port.peek(after, min(PAGE, limit - len(found)))):
        found += page
        after = page[-1].place
    return found


def checker(places: Places, queue: str) -> Callable[[Message], None]:
    """Raises `BadOption` or `TooLarge` for a message that the queue's backend does not take."""
    admission = Admission(places, time.monotonic)
    return lambda message: admission.check(queue, [message])


async def send(
    places: Places, queue: str, messages: Iterable[Message], *, told: Callable[[Sent], None] = lambda sent: None
) -> None:
    """Send in batches, each all or nothing, under the queue's `limit`; `told` hears of each batch that is durable.

    Raises what the batch that failed raised; those before it are sent.
    """
    outlet = Outlet(places, asyncio.get_running_loop())
    database = places.queue_database(queue)
    size, knows = min(PAGE, database.limits.batch), {"dedup", "unique"} & database.features
    left = iter(messages)
    try:
        while batch := list(islice(left, size)):
            ids = await outlet.send(queue, batch)
            # A backend that knows no duplicates may give the messages ids of its own.
            duplicates = sum(id != message.id for id, message in zip(ids, batch, strict=True)) if knows else 0
            told(Sent(tuple(ids), duplicates))
    finally:
        await outlet.close()


async def purge(
    places: Places, queue: str, *, dry_run: bool = False, told: Callable[[int], object] = lambda count: None
) -> int:
    """Remove what is ready or delayed, for good; what is claimed stays. How many (`dry_run`: about how many would be).

    What others send while it runs may be removed too. `told` hears of each step.
    """
    _need(places, queue, "purge")
    port = places.queue(queue)
    if dry_run:
        depth = await port.depth()
        return depth.ready + depth.delayed
    removed = 0
    while count := await port.purge():
        removed += count
        told(count)
    return removed


async def pause(places: Places, declared: Declared, queue: str) -> Wished:
    """Every worker of the queue takes in nothing more, in every replica; what runs goes on."""
    return await _wish(places, declared, queue, {"format": FORMAT, "wish": "pause"})


async def resume(places: Places, declared: Declared, queue: str) -> Wished:
    """Every worker of the queue goes on."""
    return await _wish(places, declared, queue, None)


def workers_of(declared: Declared, queue: str) -> tuple[str, ...]:
    """The workers that take from a queue, in the order of their declaration."""
    return tuple(
        worker.name
        for worker in declared.workers
        if (isinstance(worker.trigger, OnMessage) and worker.trigger.queue.name == queue)
        or (isinstance(worker.trigger, OnChange) and worker.trigger.source == StreamSpec.of(queue))
    )


def _need(places: Places, queue: str, feature: str) -> None:
    database = places.queue_database(queue)
    if feature not in database.features:
        raise ConfigurationError(f"queue {queue!r}: its backend {type(database).__name__.lower()} cannot {feature}")


async def _wish(places: Places, declared: Declared, queue: str, value: Value | None) -> Wished:
    workers = workers_of(declared, queue)
    if not workers:
        raise ConfigurationError(f"queue {queue!r} has no worker in app {declared.name!r}: there is nothing to pause")
    if "store" not in places.store.features:
        raise ConfigurationError(
            f"queue {queue!r}: a pause is kept in the store, and there is none; set TIDEMILL_STORE"
        )
    store = places.shared_store()

    def edit(now: Value | None) -> Value | None:
        return now if _pauses(now) == (value is not None) else value

    return Wished(workers, tuple([name for name in workers if await change(store, PAUSE + name, edit)]))


async def _paused(places: Places, workers: Sequence[str]) -> frozenset[str]:
    if not workers or "store" not in places.store.features:
        return frozenset()
    records = await places.shared_store().get([PAUSE + name for name in workers])
    return frozenset(
        name for name, record in zip(workers, records, strict=True) if _pauses(record.value if record else None)
    )


def _pauses(value: Value | None) -> bool:
    return value is not None and value.get("wish") == "pause"
