"""The one object a user makes: declarations only. Importing an app does no I/O and reads no environment."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from tidemill.app.options import lifespan_of, named
from tidemill.app.router import Router
from tidemill.app.worker import Declared, OnChange, OnMessage, Worker
from tidemill.errors import ConfigurationError
from tidemill.model import StreamSpec


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
