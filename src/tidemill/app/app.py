"""The one object a user makes: declarations only. Importing an app does no I/O and reads no environment."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from importlib import import_module
from typing import Any, Protocol

from tidemill.app.command import Command
from tidemill.app.forward import as_it_stands, forwarding, limit_of, name_of
from tidemill.app.handles import Collection, Queue, Table
from tidemill.app.options import lifespan_of, named
from tidemill.app.router import Router
from tidemill.app.webhook import Webhook
from tidemill.app.worker import Declared, OnChange, OnMessage, OnPoison, Worker
from tidemill.core.backoff import Backoff
from tidemill.errors import ConfigurationError
from tidemill.model import Start, StreamSpec

_USUAL = Backoff()


class AnyClient(Protocol):
    """A client to be entered, with `async with` or with `with`."""

    async def __aenter__(self) -> AnyClient: ...

    async def __aexit__(self, *exc: Any) -> None: ...

    def __enter__(self) -> AnyClient: ...

    def __exit__(self, *exc: Any) -> None: ...


class App(Router):
    """The declarations of one system: collections, queues, workers, health rules and the web API.

    `api` is an ASGI app or "module:attribute" of one, loaded only where it runs. `lifespan` is an async
    context manager function around everything the handlers do, entered once in each process.
    """

    def __init__(self, name: str, *, api: Any = None, lifespan: Callable[[], Any] | None = None) -> None:
        super().__init__()
        self.name: str = named("app", name)
        self._api = api
        self._lifespan = lifespan_of(name, lifespan)

    def forward(
        self,
        source: Collection[Any] | Table[Any] | Queue[Any],
        *,
        to: Queue[Any] | Webhook | Command,
        name: str | None = None,
        group: str | None = None,
        concurrency: int | None = None,
        retry: Backoff = _USUAL,
        start: Start = "beginning",
        on_poison: OnPoison = "park",
        batch: int | None = None,
        rate: float | None = None,
    ) -> None:
        """Pass each change of a collection or table, or each message of a queue, on to another queue, to a `webhook`
        or to a `command`: an ordinary worker, whose handler is ours.

        Webhooks and commands get CloudEvents, in lists with `batch`; queues get the value, under the change's id.
        `name` may be left out for a queue only. The other options are those of `on_change` and `on_message`.
        """
        chosen = name_of(source, to, name)
        handler = forwarding(self.name, chosen, source, to, batch=batch is not None)
        usual = 10 if isinstance(source, Queue) else 1
        limit = limit_of(to)
        if isinstance(source, Queue):
            self.on_message(
                Queue(source.spec, Any), name=chosen, group=group or "queues", concurrency=concurrency or usual,
                retry=retry, time_limit=limit, rate=rate,
            )(handler)  # fmt: skip
            return
        plain = source if isinstance(to, Queue) else as_it_stands(source)
        options: dict[str, Any] = {"batch": batch} if batch is not None else {}
        self.on_change(
            plain, start=start, name=chosen, group=group or "feeds", concurrency=concurrency or usual, retry=retry,
            time_limit=limit, on_poison=on_poison, rate=rate, **options,
        )(handler)  # fmt: skip

    def copy(self) -> App:
        """The same declarations, to be added to without changing this app."""
        made = copy(self)
        made._workers = dict(self._workers)
        return made

    def client(self, *, adapters: Any = None, **options: Any) -> AnyClient:
        """Open the handles in a script, a notebook or another framework's view: `async with app.client():`, or
        `with app.client():` and `wait(…)`. `options` are settings by name (`database="sqlite:///work.db"`); what is
        not given comes from the environment, `tidemill.toml` and the defaults."""
        # Whoever runs an app stands above its declarations; it is found by name, and only when it is asked for.
        opened: AnyClient = import_module("tidemill.client").client(self.declared(), options, adapters)
        return opened

    def declared(self) -> Declared:
        """All declarations as one frozen value. Raises `ConfigurationError` for workers of places that are none of
        this app's."""
        self._check_places()
        return Declared(
            self.name,
            self._api,
            tuple(self._sources.values()),
            tuple(self._queues.values()),
            tuple(self._surrounded().values()),
            tuple(self._rules.values()),
            self._lifespan,
        )

    def _renamed(self, prefix: str, group: str | None) -> Router:
        raise ConfigurationError(f"app {self.name!r} cannot be included: make what is shared a Router()")

    def _check_places(self) -> None:
        problems = [problem for worker in self._workers.values() if (problem := self._homeless(worker))]
        if problems:
            raise ConfigurationError(*problems)

    def _homeless(self, worker: Worker) -> str:
        match worker.trigger:
            case OnMessage(queue) if queue.name not in self._queues:
                place = f"queue {queue.name!r}"
            case OnChange(StreamSpec() as stream):
                if stream.queue in self._queues:
                    return ""
                place = f"queue {stream.queue!r}"
            case OnChange(source) if source.name not in self._sources:
                place = f"collection or table {source.name!r}"
            case _:
                return ""
        return f"worker {worker.name!r}: {place} is not of this app; app.include(…) the router that declares it"
