"""Routers: declarations in modules of their own, included in an app.

A `Router` has every decorator that an app has, because an app is a router that can be run. What it declares is copied
when it is included, names checked; after that it takes no more, so that nothing declared is silently left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any, Literal, ParamSpec, TypeVar, overload

from tidemill.app.context import Context
from tidemill.app.decorators import (
    ChangeBatchDecorator,
    ChangeDecorator,
    MessageBatchDecorator,
    MessageDecorator,
    Task,
    unpack,
)
from tidemill.app.handles import Collection, Queue, Table
from tidemill.app.middleware import Middleware, Proceed, checked
from tidemill.app.options import duration_of, limit_of, named, policy_of
from tidemill.app.worker import (
    Cron,
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
from tidemill.core.duration import Duration
from tidemill.core.health import Health
from tidemill.errors import ConfigurationError
from tidemill.model import CollectionSpec, QueueSpec, Start, StreamSpec, TableSpec

T = TypeVar("T")
P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=Callable[[], Health | Awaitable[Health]])
M = TypeVar("M", bound=Callable[[Context, Proceed], Awaitable[Any]])

_USUAL = Backoff()
_FEW_TRIES = Backoff(attempts=3)


class Router:
    """Declarations of a part of a system: `app.include(router)` makes them the app's."""

    def __init__(self) -> None:
        self._sources: dict[str, tuple[CollectionSpec | TableSpec, Any]] = {}
        self._queues: dict[str, tuple[QueueSpec, Any]] = {}
        self._workers: dict[str, Worker] = {}
        self._rules: dict[str, Rule] = {}
        self._middleware: list[Middleware] = []
        self._included = False

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
        spec = CollectionSpec(named("collection", name), partitions, tuple(fields), before)
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
        spec = TableSpec(named("table", name), table or name, id, key or id, partitions, before)
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
        window = duration_of("dedup_window", dedup_window)
        spec = QueueSpec(named("queue", name), window, limit_of(name, limit), key)
        self._still_open()
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
        policy = policy_of(concurrency, retry, time_limit, process, batch, rate)
        if queue.spec.key is None:
            trigger: Trigger = OnMessage(queue.spec, queue.type)
        else:  # order by key is what feeds have
            trigger = OnChange(StreamSpec.of(queue.name), queue.type)
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
        policy = policy_of(concurrency, retry, time_limit, process, batch, rate)
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
        length = duration_of("every", interval)
        if length <= 0:
            raise ConfigurationError(f"every({interval!r}): the interval must be longer than 0")
        trigger = Every(length, per_replica, misfire, once)
        policy = policy_of(1, retry, time_limit, process, None, None)
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
        from tidemill.core.schedule import cron  # with its parser, which an app without such timers does not need

        cron(expression, tz)  # a mistake is told where it stands
        trigger = Cron(expression, tz, misfire, once)
        policy = policy_of(1, retry, time_limit, process, None, None)
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
        policy = policy_of(concurrency, retry, time_limit, process, None, rate)

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
            self._still_open()
            if name in self._rules:
                raise ConfigurationError(f"health rule {name!r} is declared twice")
            functions = [of] if callable(of) else list(of)
            workers = tuple(self._worker_of(name, function) for function in functions)
            self._rules[name] = Rule(name, check, workers, frozenset(probes))
            return check

        return decorate

    # --- middleware and parts -------------------------------------------------------------------------------

    def middleware(self, function: M) -> M:
        """Run `async def function(context, proceed)` around each call of the handlers declared or included here.
        The first one declared is the outermost; an app's are around its routers'."""
        self._still_open()
        self._middleware.append(checked(function))
        return function

    def include(self, router: Router, *, prefix: str = "", group: str | None = None) -> None:
        """Take over what a router declares: once, and with nothing declared in it afterwards.

        `prefix` goes before the names of its workers and health rules (queues, collections and tables keep theirs,
        which others know them by); `group` moves all its workers there. Names that are taken already raise
        `ConfigurationError`, all at once.
        """
        self._still_open()
        if router is self or router._included:
            raise ConfigurationError("a router is included once; this one is part of an app or router already")
        part = router._renamed(named("prefix", prefix) if prefix else "", group and named("group", group))
        taken = [
            f"{what} {name!r} is declared here and in the included router: rename one{fix}"
            for what, mine, theirs, fix in (
                ("collection or table", self._sources, part._sources, ""),
                ("queue", self._queues, part._queues, ""),
                ("worker", self._workers, part._workers, ", or include(…, prefix='…')"),
                ("health rule", self._rules, part._rules, ", or include(…, prefix='…')"),
            )
            for name in theirs
            if name in mine
        ]
        if taken:
            raise ConfigurationError(*taken)
        self._sources |= part._sources
        self._queues |= part._queues
        self._workers |= part._workers
        self._rules |= part._rules
        router._included = True

    # --- within ---------------------------------------------------------------------------------------------

    def _renamed(self, prefix: str, group: str | None) -> Router:
        """The same declarations as they are in whoever includes this."""
        part = Router()
        part._sources, part._queues = self._sources, self._queues
        for worker in self._surrounded().values():
            name = prefix + worker.name
            part._workers[name] = replace(worker, name=name, group=group or worker.group)
        for rule in self._rules.values():
            name = prefix + rule.name
            part._rules[name] = replace(rule, name=name, workers=tuple(prefix + worker for worker in rule.workers))
        return part

    def _surrounded(self) -> dict[str, Worker]:
        """The workers, each with the middleware declared here around its own."""
        around = tuple(self._middleware)
        if not around:
            return self._workers
        return {n: replace(w, middleware=around + w.middleware) for n, w in self._workers.items()}

    def _still_open(self) -> None:
        if self._included:
            raise ConfigurationError("this router is included already: declare everything before app.include(router)")

    def _add(self, name: str | None, group: str, trigger: Trigger, handler: F, policy: Policy) -> F:
        self._still_open()
        chosen = named("worker", name or str(getattr(handler, "__name__", "")))
        if chosen in self._workers:
            raise ConfigurationError(
                f"worker {chosen!r} is declared twice: names are permanent and must differ; give one name="
            )
        self._workers[chosen] = Worker(chosen, named("group", group), trigger, handler, policy)
        return handler

    def _add_source(self, spec: CollectionSpec | TableSpec, type_: Any) -> None:
        self._still_open()
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
        raise ConfigurationError(
            f"health rule {rule!r}: {shown} is no worker here (declare it, or include its router, above)"
        )
