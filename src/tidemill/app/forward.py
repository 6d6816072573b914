"""`app.forward(source, to=…)`: a change or message launches something else, without a handler of one's own.

What is made is an ordinary worker with an ordinary handler: retries, breaker, dead letters, parking, pauses and metrics
are those of any other. It does not decode what it passes on to a webhook or a process: what stands there goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, TypeAlias

from tidemill.app.client import running
from tidemill.app.command import Command
from tidemill.app.command import call as start
from tidemill.app.context import Context
from tidemill.app.depends import Depends
from tidemill.app.handles import Collection, Queue, Table
from tidemill.app.values import Change, Deletion
from tidemill.app.webhook import Gone, Sender, Webhook
from tidemill.core.cloudevents import Event, batched, structured
from tidemill.errors import ConfigurationError, Snooze

Source: TypeAlias = "Collection[Any] | Table[Any] | Queue[Any]"
Target: TypeAlias = "Queue[Any] | Webhook | Command"
Item: TypeAlias = "Change[Any] | Deletion[Any]"

PAUSED = 30.0
"""Seconds for which what a receiver no longer wants waits while the pause comes into force."""


def forwarding(app: str, worker: str, source: Source, to: Target, *, batch: bool) -> Callable[..., Any]:
    """The handler that passes on. `app` names the system in the events' source."""
    if isinstance(to, Queue):
        if isinstance(source, Queue):
            raise ConfigurationError(
                f"forward from queue {source.name!r} to a queue: send to both, or use a collection"
            )
        return _to_queue(to, batch=batch)
    place = f"/{app}/{source.name}"
    if isinstance(source, Queue):
        kind = f"{app}.{source.name}"
        return _messages(place, kind, to, worker, batch=batch)
    return _changes(place, f"{app}.{source.name}", to, worker, batch=batch)


def name_of(source: Source, to: Target, name: str | None) -> str:
    """The worker's name. Raises `ConfigurationError` where it has to be said."""
    if name is not None:
        return name
    if isinstance(to, Queue):
        return f"{source.name}-to-{to.name}"
    raise ConfigurationError(
        f"forward of {source.name!r}: say name=; its position hangs on it, and an address may change"
    )


def as_it_stands(source: Collection[Any] | Table[Any]) -> Collection[Any] | Table[Any]:
    """The same place without its type: what stands there goes on, whether it fits or not."""
    if isinstance(source, Table):
        return Table(source.spec, Any)
    return Collection(source.spec, Any, source.id, source.key)


def limit_of(to: Target) -> float:
    """Seconds for a call: what the target allows itself, and some to end in order."""
    return 600.0 if isinstance(to, Queue) else to.limit + 10.0


# --- to a queue -----------------------------------------------------------------------------------------------


def _to_queue(queue: Queue[Any], *, batch: bool) -> Callable[..., Any]:
    """Under the change's id, so that the same change sends once within the queue's window."""

    async def one(change: Change[Any]) -> None:
        await queue.send(change.value, dedup=change.id)

    async def many(changes: list[Change[Any]]) -> None:
        for change in changes:
            await queue.send(change.value, dedup=change.id)

    return many if batch else one


# --- to a webhook or a process --------------------------------------------------------------------------------


def _changes(place: str, kind: str, to: Webhook | Command, worker: str, *, batch: bool) -> Callable[..., Any]:
    send = _sending(to, worker, batch=batch)
    opened = Depends(_opened(to), scope="app")

    async def one(change: Change[Any] | Deletion[Any], sender: Any = opened) -> None:
        await send(sender, [changed(place, kind, change)])

    async def many(changes: list[Change[Any] | Deletion[Any]], sender: Any = opened) -> None:
        await send(sender, [changed(place, kind, change) for change in changes])

    return many if batch else one


def _messages(place: str, kind: str, to: Webhook | Command, worker: str, *, batch: bool) -> Callable[..., Any]:
    if batch:
        raise ConfigurationError(f"forward of queue {place.rpartition('/')[2]!r}: batch= is for changes")
    send = _sending(to, worker, batch=False)
    opened = Depends(_opened(to), scope="app")

    async def one(message: Any, context: Context, sender: Any = opened) -> None:
        event = Event(context.id, place, f"{kind}.sent", context.id, None, context.key, message)
        await send(sender, [event])

    return one


def changed(place: str, kind: str, change: Item) -> Event:
    """The event of a change: what the document is now, or for a deletion what it was, if that is kept."""
    if isinstance(change, Deletion):
        was = change.before
        return Event(
            change.id, place, f"{kind}.deleted", change.document, change.at, change.key, was, has_data=was is not None
        )
    return Event(change.id, place, f"{kind}.changed", change.document, change.at, change.key, change.value)


def _opened(to: Webhook | Command) -> Callable[[], AsyncIterator[Sender | None]]:
    """Once, at start: there a mistake is told, and there the variables with secrets are read."""

    async def opened() -> AsyncIterator[Sender | None]:
        if isinstance(to, Command):
            to.open()
            yield None
        else:
            async with to.open() as sender:
                yield sender

    return opened


def _sending(to: Webhook | Command, worker: str, *, batch: bool) -> Callable[[Any, Sequence[Event]], Any]:
    async def by_process(_: None, events: Sequence[Event]) -> None:
        assert isinstance(to, Command)
        await start(to, batched(events) if batch else structured(events[0]))

    async def by_http(sender: Sender, events: Sequence[Event]) -> None:
        try:
            await sender.send(events, batch=batch)
        except Gone as gone:
            await running().client.pause(worker)
            raise Snooze(PAUSED, f"{gone}: {worker} is paused; tidemill feed or queue resume goes on") from None

    return by_process if isinstance(to, Command) else by_http
