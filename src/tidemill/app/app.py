"""The one object a user makes: declarations only. Importing an app does no I/O and reads no environment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, Literal, ParamSpec, Protocol, TypeVar, overload

from tidemill.app.decorators import (
    ChangeBatchDecorator,
    ChangeDecorator,
    MessageBatchDecorator,
    MessageDecorator,
    Task,
    unpack,
)
from tidemill.app.handles import Collection, Queue, Table
from tidemill.app.worker import (
    Cron,
    Declared,
    Every,
    Handler,
    Misfire,
    Once,
    OnChange,
    OnMessage,
    OnPoison,
    Policy,
    Rule,
    Trigger,
    Worker,
)
from tidemill.core.backoff import Backoff
from tidemill.core.duration import Duration, seconds
from tidemill.core.health import Health
from tidemill.errors import ConfigurationError
from tidemill.model import CollectionSpec, QueueSpec, Start, TableSpec

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=Callable[[], Health | Awaitable[Health]])

_USUAL = Backoff()
_FEW_TRIES = Backoff(attempts=3)
_NAME = "a name has letters, digits, '-', '_' and '.' only, and starts with a letter"


class AnyClient(Protocol):
    """A client to be entered, with `async with` or with `with`."""

    async def __aenter__(self) -> AnyClient: ...

    async def __aexit__(self, *exc: Any) -> None: ...

    def __enter__(self) -> AnyClient: ...

    def __exit__(self, *exc: Any) -> None: ...


class App:
    """The declarations of one system: collections, queues, workers, health rules and the web API.

    `api` is an ASGI app or "module:attribute" of one, loaded only where it runs. `lifespan` is an async
    context manager function around everything the handlers do, entered once in each process.
    """

    def __init__(self, name: str, *, api: Any = None, lifespan: Callable[[], Any] | None = None) -> None:
        self.name: str = _named("app", name)
        self._api = api
        self._lifespan = lifespan
        self._sources: dict[str, tuple[CollectionSpec | TableSpec, Any]] = {}
        self._queues: dict[str, tuple[QueueSpec, Any]] = {}
        self._workers: dict[str, Worker] = {}
        self._rules: dict[str, Rule] = {}

    # --- places ---------------------------------------------------------------------------------------------

    def collection(
        self,
        name: str,
        type: type[T],
        *,
        id: str,
        key: str | None = None,
        fields: Sequence[str] = (),
        before: bool = False,
        partitions: int = 16,
    ) -> Collection[T]:
        """Documents of one type. `id` and `key` name fields; `fields` may be filtered and ordered by in queries;
        `before` keeps what a document was with each change; `partitions` is fixed once data exist."""
        spec = CollectionSpec(_named("collection", name), partitions, tuple(fields), before)
        self._add_source(spec, type)
        return Collection(spec, type, id, key or id)

    @overload
    def table(self, name: str, *, id: str, key: str | None = None, table: str | None = None,
              before: bool = False, partitions: int = 16) -> Table[dict[str, Any]]: ...  # fmt: skip
    @overload
    def table(self, name: str, type: type[T], *, id: str, key: str | None = None, table: str | None = None,
              before: bool = False, partitions: int = 16) -> Table[T]: ...  # fmt: skip
    def table(
        self,
        name: str,
        type: Any = dict[str, Any],
        *,
        id: str,
        key: str | None = None,
        table: str | None = None,
        before: bool = False,
        partitions: int = 16,
    ) -> Table[Any]:
        """A table that is there already, watched by triggers. `id` and `key` name columns; `table` is its name
        in the database if that differs. Rows come as `type` (a dict of columns unless said)."""
        spec = TableSpec(_named("table", name), table or name, id, key or id, partitions, before)
        self._add_source(spec, type)
        return Table(spec, type)

    def queue(
        self,
        name: str,
        type: type[T],
        *,
        dedup_window: Duration = 600.0,
        limit: int | None = None,
        key: str | None = None,
    ) -> Queue[T]:
        """A queue of messages of one type.

        `dedup_window`: how long a `dedup` stays taken after its message was settled. `limit`: the most messages in the
        queue, whether ready, delayed or claimed; a send above it raises `QueueFull`. It is approximate: the depth is
        read at most once a second until it looks full, and what other replicas send meanwhile is not seen, so the queue
        may grow past the limit by what they send in a second. `context.transaction`, replays of dead letters and
        retries are never refused. `key` names a field: messages that are equal in it are delivered in order, one at a
        time. A backend that cannot do that refuses to start.
        """
        spec = QueueSpec(_named("queue", name), _duration("dedup_window", dedup_window), limit, key)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise ConfigurationError(f"queue {name!r}: limit={limit!r} must be a whole number of 1 or more, or None")
        if name in self._queues:
            raise ConfigurationError(f"queue {name!r} is declared twice")
        self._queues[name] = (spec, type)
        return Queue(spec, type)

    # --- workers --------------------------------------------------------------------------------------------

    @overload
    def on_message(self, queue: Queue[T], *, name: str | None = None, group: str = "queues", concurrency: int = 10,
                   retry: Backoff = _USUAL, time_limit: Duration | None = 600.0, batch: None = None,
                   process: bool = False, rate: float | None = None) -> MessageDecorator[T]: ...  # fmt: skip
    @overload
    def on_message(self, queue: Queue[T], *, name: str | None = None, group: str = "queues", concurrency: int = 10,
                   retry: Backoff = _USUAL, time_limit: Duration | None = 600.0, batch: int,
                   process: bool = False, rate: float | None = None) -> MessageBatchDecorator[T]: ...  # fmt: skip
    def on_message(
        self,
        queue: Queue[Any],
        *,
        name: str | None = None,
        group: str = "queues",
        concurrency: int = 10,
        retry: Backoff = _USUAL,
        time_limit: Duration | None = 600.0,
        batch: int | None = None,
        process: bool = False,
        rate: float | None = None,
    ) -> Any:
        """Call the function for each message of the queue (`batch=n`: with lists of up to n).

        In each replica: `concurrency` calls at once, `rate` messages a second at most. What is claimed ahead of the
        free slots is measured: as much as the worker starts in half a second, 500 at most. `time_limit` ends a call
        as a failure, `retry` says when and how often it is tried again, `process` runs it in a child process.
        """
        policy = _policy(concurrency, retry, time_limit, process, batch, rate)
        trigger = OnMessage(queue.spec, queue.type)
        return lambda handler: self._add(name, group, trigger, handler, policy)

    @overload
    def on_change(self, source: Collection[T] | Table[T], *, start: Start = "beginning", name: str | None = None,
                  group: str = "feeds", concurrency: int = 1, retry: Backoff = _USUAL,
                  time_limit: Duration | None = 600.0, batch: None = None, process: bool = False,
                  on_poison: OnPoison = "park", rate: float | None = None) -> ChangeDecorator[T]: ...  # fmt: skip
    @overload
    def on_change(self, source: Collection[T] | Table[T], *, start: Start = "beginning", name: str | None = None,
                  group: str = "feeds", concurrency: int = 1, retry: Backoff = _USUAL,
                  time_limit: Duration | None = 600.0, batch: int, process: bool = False,
                  on_poison: OnPoison = "park", rate: float | None = None) -> ChangeBatchDecorator[T]: ...  # fmt: skip
    def on_change(
        self,
        source: Collection[Any] | Table[Any],
        *,
        start: Start = "beginning",
        name: str | None = None,
        group: str = "feeds",
        concurrency: int = 1,
        retry: Backoff = _USUAL,
        time_limit: Duration | None = 600.0,
        batch: int | None = None,
        process: bool = False,
        on_poison: OnPoison = "park",
        rate: float | None = None,
    ) -> Any:
        """Call the function for each change of the collection or table, in order per key (`batch=n`: with lists).

        Annotate the first parameter `Change[T]`, or `Change[T] | Deletion[T]` to be told of deletes too.
        `concurrency` is over keys; what fails for good is parked with its key (`on_poison`).
        """
        policy = _policy(concurrency, retry, time_limit, process, batch, rate)
        trigger = OnChange(source.spec, source.type, start, on_poison)
        return lambda handler: self._add(name, group, trigger, handler, policy)

    def every(
        self,
        interval: Duration,
        *,
        per_replica: bool = False,
        name: str | None = None,
        group: str = "timers",
        misfire: Misfire = "once",
        once: Once = "at_least",
        retry: Backoff = _FEW_TRIES,
        time_limit: Duration | None = 600.0,
        process: bool = False,
    ) -> Callable[[F], F]:
        """Call the function at each multiple of the interval (since the epoch), once for all replicas."""
        length = _duration("every", interval)
        if length <= 0:
            raise ConfigurationError(f"every({interval!r}): the interval must be longer than 0")
        trigger = Every(length, per_replica, misfire, once)
        policy = _policy(1, retry, time_limit, process, None, None)
        return lambda handler: self._add(name, group, trigger, handler, policy)

    def cron(
        self,
        expression: str,
        *,
        tz: str = "UTC",
        name: str | None = None,
        group: str = "timers",
        misfire: Misfire = "once",
        once: Once = "at_least",
        retry: Backoff = _FEW_TRIES,
        time_limit: Duration | None = 600.0,
        process: bool = False,
    ) -> Callable[[F], F]:
        """Call the function when the cron expression says so in the time zone, once for all replicas."""
        trigger = Cron(expression, tz, misfire, once)
        policy = _policy(1, retry, time_limit, process, None, None)
        return lambda handler: self._add(name, group, trigger, handler, policy)

    def task(
        self,
        *,
        name: str | None = None,
        group: str = "queues",
        concurrency: int = 10,
        retry: Backoff = _USUAL,
        time_limit: Duration | None = 600.0,
        process: bool = False,
        rate: float | None = None,
    ) -> Callable[[Callable[P, R]], Task[P, R]]:
        """A function that can be called here, or sent to a queue of its own: `await thumbnail.send(7, width=80)`."""
        policy = _policy(concurrency, retry, time_limit, process, None, rate)

        def decorate(function: Callable[P, R]) -> Task[P, R]:
            chosen = name or str(getattr(function, "__name__", "task"))
            type_, handler = unpack(function, chosen)
            queue: Queue[Any] = self.queue(chosen, type_)
            self._add(chosen, group, OnMessage(queue.spec, type_), handler, policy)
            return Task(function, queue, handler)

        return decorate

    # --- health ---------------------------------------------------------------------------------------------

    def health(
        self,
        name: str,
        *,
        of: Handler | Sequence[Handler] = (),
        probes: Sequence[Literal["ready", "live", "startup"]] = ("ready",),
    ) -> Callable[[C], C]:
        """A rule in code: a function that returns `Health`. It runs only where a worker in `of` runs
        (everywhere if none is given), on the handlers' side, and counts for readiness unless said."""

        def decorate(check: C) -> C:
            if name in self._rules:
                raise ConfigurationError(f"health rule {name!r} is declared twice")
            functions = [of] if callable(of) else list(of)
            workers = tuple(self._worker_of(name, function) for function in functions)
            self._rules[name] = Rule(name, check, workers, frozenset(probes))
            return check

        return decorate

    # --- use outside of a worker ----------------------------------------------------------------------------

    def client(self, *, adapters: Any = None, **options: Any) -> AnyClient:
        """Open the handles in a script, a notebook or another framework's view: `async with app.client():`, or
        `with app.client():` and `wait(…)`. `options` are settings by name (`database="sqlite:///work.db"`); what is
        not given comes from the environment, `tidemill.toml` and the defaults."""
        # Whoever runs an app stands above its declarations; it is found by name, and only when it is asked for.
        opened: AnyClient = import_module("tidemill.client").client(self.declared(), options, adapters)
        return opened

    # --- reading --------------------------------------------------------------------------------------------

    def declared(self) -> Declared:
        """All declarations as one frozen value."""
        return Declared(
            self.name,
            self._api,
            tuple(self._sources.values()),
            tuple(self._queues.values()),
            tuple(self._workers.values()),
            tuple(self._rules.values()),
            self._lifespan,
        )

    def _add(self, name: str | None, group: str, trigger: Trigger, handler: F, policy: Policy) -> F:
        chosen = _named("worker", name or str(getattr(handler, "__name__", "")))
        if chosen in self._workers:
            raise ConfigurationError(
                f"worker {chosen!r} is declared twice: names are permanent and must differ; give one name="
            )
        self._workers[chosen] = Worker(chosen, _named("group", group), trigger, handler, policy)
        return handler

    def _add_source(self, spec: CollectionSpec | TableSpec, type_: Any) -> None:
        if spec.name in self._sources:
            raise ConfigurationError(f"collection or table {spec.name!r} is declared twice")
        if not 1 <= spec.partitions <= 4096:
            raise ConfigurationError(f"{spec.name!r}: partitions={spec.partitions} must be 1 to 4096")
        self._sources[spec.name] = (spec, type_)

    def _worker_of(self, rule: str, function: Handler) -> str:
        for worker in self._workers.values():
            if worker.handler is function or getattr(function, "handler", None) is worker.handler:
                return worker.name
        shown = getattr(function, "__name__", function)
        raise ConfigurationError(f"health rule {rule!r}: {shown} is no worker of this app (declare it above)")


def _policy(
    concurrency: int,
    retry: Backoff,
    time_limit: Duration | None,
    process: bool,
    batch: int | None,
    rate: float | None,
) -> Policy:
    limit = None if time_limit is None else _duration("time_limit", time_limit)
    if not 1 <= concurrency <= 10_000:
        raise ConfigurationError(f"concurrency={concurrency} must be 1 to 10,000")
    if batch is not None and not 1 <= batch <= 10_000:
        raise ConfigurationError(f"batch={batch} must be 1 to 10,000")
    if limit is not None and limit <= 0:
        raise ConfigurationError(f"time_limit={time_limit!r} must be longer than 0 (None for no limit)")
    if rate is not None and rate <= 0:
        raise ConfigurationError(f"rate={rate} must be more than 0 calls a second")
    return Policy(concurrency, retry, limit, process, batch, rate)


def _duration(option: str, value: Duration) -> float:
    try:
        return seconds(value)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"{option}: {error}") from None


def _named(what: str, name: str) -> str:
    if not (name and name[0].isalpha() and all(c.isalnum() or c in "-_." for c in name) and name.isascii()):
        raise ConfigurationError(f"{what} name {name!r}: {_NAME}")
    return name
