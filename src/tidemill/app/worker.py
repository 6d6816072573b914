"""Declarations as values: what the decorators of `App` write down and everything else reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from tidemill.core.backoff import Backoff
from tidemill.core.health import Health
from tidemill.model import CollectionSpec, QueueSpec, Source, Start, TableSpec

Handler: TypeAlias = Callable[..., Any]
OnPoison: TypeAlias = Literal["park", "skip", "halt"]
Misfire: TypeAlias = Literal["skip", "once", "all"]
Once: TypeAlias = Literal["at_least", "at_most"]


@dataclass(frozen=True, slots=True)
class OnMessage:
    """A message arrives on this queue."""

    queue: QueueSpec
    type: Any


@dataclass(frozen=True, slots=True)
class OnChange:
    """A document of this collection, or a row of this table, changes; or a message is sent to a queue with an order."""

    source: Source
    type: Any
    start: Start = "beginning"
    on_poison: OnPoison = "park"


@dataclass(frozen=True, slots=True)
class Every:
    """An interval in seconds, aligned to the epoch; in one replica, or in each."""

    interval: float
    per_replica: bool = False
    misfire: Misfire = "once"
    once: Once = "at_least"


@dataclass(frozen=True, slots=True)
class Cron:
    """A cron expression (five fields, or six with seconds first) in a time zone."""

    expression: str
    tz: str = "UTC"
    misfire: Misfire = "once"
    once: Once = "at_least"


Trigger: TypeAlias = OnMessage | OnChange | Every | Cron


@dataclass(frozen=True, slots=True)
class Policy:
    """How a worker's handler is called. `time_limit` in seconds, None for none; `batch` the most items in a call
    (None: one by one); `rate` calls a second and replica at most, None for no limit."""

    concurrency: int = 1
    retry: Backoff = Backoff()
    time_limit: float | None = 600.0
    process: bool = False
    batch: int | None = None
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Worker:
    """Trigger, handler, policy, and the middleware around each call, outermost first. The name is permanent: cursors
    and timers hang on it."""

    name: str
    group: str
    trigger: Trigger
    handler: Handler
    policy: Policy
    middleware: tuple[Handler, ...] = ()


@dataclass(frozen=True, slots=True)
class Rule:
    """A health rule in code. It runs only where one of `workers` runs (everywhere if there are none)."""

    name: str
    check: Callable[[], Health] | Callable[[], Any]
    workers: tuple[str, ...]
    probes: frozenset[str]


@dataclass(frozen=True, slots=True)
class Declared:
    """All declarations of an app, complete and frozen."""

    name: str
    api: Any
    collections: tuple[tuple[CollectionSpec | TableSpec, Any], ...]
    queues: tuple[tuple[QueueSpec, Any], ...]
    workers: tuple[Worker, ...]
    rules: tuple[Rule, ...]
    lifespan: Callable[[], Any] | None

    def groups(self) -> tuple[str, ...]:
        """Every group that something runs in, sorted."""
        named = {w.group for w in self.workers} | ({"api"} if self.api is not None else set())
        return tuple(sorted(named))
