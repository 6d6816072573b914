"""What Kubernetes has to be told of an app: derived from its declarations and settings, without I/O.

Each group becomes a Deployment. What can be derived is not asked: the grace period is the budget of the drain, probe
numbers follow from the thresholds that the probes go by (`core.probes`), feeds get at most as many replicas as they
have partitions, and what a group is scaled by follows from its triggers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from tidemill.app.worker import Cron, Declared, Every, OnChange, OnMessage, Worker
from tidemill.errors import ConfigurationError
from tidemill.model import StreamSpec
from tidemill.settings import Settings

LABEL = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
LONGEST = 40
"""Characters of an app's or group's name: with a release's name and a pod's ending it still is a DNS-1123 label."""

LAME_DUCK = 5.0
"""Seconds for which a pod that was told to stop goes on accepting: endpoints are taken out of Services meanwhile."""

MOST_QUEUES = 20
"""Replicas of a group of queues that an autoscaler may make, unless the values say more."""

WAITING = 10
"""Messages or changes that may wait for each slot before another replica is wanted."""

Embedded: tuple[str, ...] = ("sqlite",)
"""Backends in a file beside the process: one replica does everything, and the file needs a volume."""

Kind: TypeAlias = Literal["api", "feeds", "queues", "timers"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One probe of the kubelet: every `period` seconds, each answer within `timeout`; `failures` in a row count."""

    path: str
    period: int
    failures: int
    timeout: int = 5

    @property
    def patience(self) -> int:
        """Seconds from the first bad answer until the kubelet acts."""
        return self.period * self.failures


@dataclass(frozen=True, slots=True)
class Probes:
    """`/startupz` holds the other two back until the start is over; `/livez` restarts, `/readyz` takes a pod out of its
    Service."""

    startup: Probe
    readiness: Probe
    liveness: Probe


@dataclass(frozen=True, slots=True)
class Rollout:
    """How a new version replaces the old one: pods above and below the number wanted, and the seconds that a new pod
    must have been ready before it counts."""

    surge: int
    unavailable: int
    ready_seconds: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a group may be scaled by: the work of one source that waits or runs, against `per_replica` of it.

    `source` is a queue's or a feed worker's name, `scheme` its backend's (`postgresql`, `azure-storage-queue`, …; empty
    if no setting says it), `query` the SQL that counts it where the backend is asked by SQL. `account` is the host of
    its URL, `setting` the variable that says the URL.
    """

    worker: str
    source: str
    kind: Literal["queue", "feed"]
    scheme: str
    per_replica: int
    query: str = ""
    account: str = ""
    setting: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """One Deployment. `partitions`: of its largest feed (None: it has no feed); more replicas than `most` have nothing
    to do. `termination` is the grace period in whole seconds."""

    name: str
    kinds: frozenset[Kind]
    workers: tuple[str, ...]
    replicas: int
    most: int
    partitions: int | None
    termination: int
    probes: Probes
    rollout: Rollout
    triggers: tuple[Trigger, ...]
    api_port: int | None
    health_port: int
    memory_mb: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole app. `target` is `module:app`; `version` the project's; `embedded`: everything in one replica, in the
    one group `all`, with a volume for its file."""

    app: str
    target: str
    version: str
    groups: tuple[Group, ...]
    embedded: bool
    settings: Settings


def plan(declared: Declared, settings: Settings, *, target: str, version: str) -> Plan:
    """The plan of an app. Raises `ConfigurationError` with one line for each thing that cannot be deployed: a name that
    is no DNS-1123 label (with a proposal), a backend that ends with the process, an app without anything to run."""
    groups = declared.groups()
    problems = [
        *_unfit(declared.name, "app", "App"),
        *(problem for name in groups for problem in _unfit(name, "group", "group=")),
        *_unkept(declared, settings),
        *_unfit_settings(declared, settings),
    ]
    if not groups:
        problems.append(f"app {declared.name!r} declares no worker and no web API: there is nothing to deploy")
    if problems:
        raise ConfigurationError(*problems)
    embedded = any(scheme in Embedded for scheme in _schemes(declared, settings))
    made = (
        (_group("all", declared, settings, declared.workers, api=declared.api is not None, embedded=True),)
        if embedded
        else tuple(
            _group(
                name,
                declared,
                settings,
                [worker for worker in declared.workers if worker.group == name],
                api=name == "api" and declared.api is not None,
                embedded=False,
            )
            for name in groups
        )
    )
    return Plan(declared.name, target, version, made, embedded, settings)


def label(name: str) -> str:
    """The nearest DNS-1123 label that begins with a letter."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    plain = plain if plain[:1].isalpha() else f"app-{plain}".rstrip("-")
    return plain[:LONGEST].rstrip("-")


def termination(settings: Settings) -> int:
    """Seconds that the platform must allow for the whole drain, with the lame duck of a pod."""
    return ceil(settings.model_copy(update={"lame_duck": lame_duck(settings)}).budget().total())


def lame_duck(settings: Settings) -> float:
    """Seconds for which a pod goes on accepting."""
    return settings.lame_duck or LAME_DUCK


# --- groups -------------------------------------------------------------------------------------------------


def _group(
    name: str, declared: Declared, settings: Settings, workers: Sequence[Worker], *, api: bool, embedded: bool
) -> Group:
    kinds = frozenset({*map(_kind, workers), *(("api",) if api else ())})
    partitions = [worker.trigger.source.partitions for worker in workers if isinstance(worker.trigger, OnChange)]
    most = _most(kinds, partitions)
    return Group(
        name,
        kinds,
        tuple(worker.name for worker in workers),
        replicas=1 if embedded else min(_replicas(kinds), most),
        most=1 if embedded else most,
        partitions=max(partitions, default=None),
        termination=termination(settings),
        probes=usual_probes(),
        rollout=_rollout(kinds, embedded=embedded),
        triggers=() if embedded else tuple(_triggers(workers, settings)),
        api_port=settings.api_port if api else None,
        health_port=settings.health_port,
        memory_mb=_memory(workers, api=api),
    )


def _kind(worker: Worker) -> Kind:
    match worker.trigger:
        case OnMessage():
            return "queues"
        case OnChange(StreamSpec()):
            return "queues"
        case OnChange():
            return "feeds"
        case Every() | Cron():
            return "timers"


def _replicas(kinds: frozenset[Kind]) -> int:
    """Two where a pod that is being replaced must not be missed; timers run once for all, so one is enough."""
    return 1 if kinds == {"timers"} else 2


def _most(kinds: frozenset[Kind], partitions: Sequence[int]) -> int:
    """Feeds give each partition to one replica: more replicas than partitions have nothing to do."""
    return max(partitions) if kinds == {"feeds"} or (partitions and "api" not in kinds) else MOST_QUEUES


def usual_probes() -> Probes:
    """The kubelet's part is short, because the patience is in the thresholds of the probes (`core.probes`): /livez
    tells of a loop that was silent for 30 s, and three such answers are enough to believe it."""
    return Probes(
        startup=Probe("/startupz", period=2, failures=60),
        readiness=Probe("/readyz", period=5, failures=2),
        liveness=Probe("/livez", period=10, failures=3),
    )


def _rollout(kinds: frozenset[Kind], *, embedded: bool) -> Rollout:
    """One more, never one less: work goes over from one that drains to one that is ready. A file has one writer, so
    there the old one goes first."""
    if embedded:
        return Rollout(surge=0, unavailable=1, ready_seconds=0)
    return Rollout(surge=1, unavailable=0, ready_seconds=10 if "feeds" in kinds else 5)


def _memory(workers: Sequence[Worker], *, api: bool) -> int:
    """Megabytes to ask for: what an idle process takes, and more for the web API and for children."""
    children = sum(worker.policy.concurrency for worker in workers if worker.policy.process)
    return 128 + (64 if api else 0) + 64 * children


def _triggers(workers: Sequence[Worker], settings: Settings) -> Iterator[Trigger]:
    for worker in workers:
        per_replica = worker.policy.concurrency * (worker.policy.batch or 1) * WAITING
        match worker.trigger:
            case OnMessage(queue):
                url = settings.queue_url(queue.name)
                yield Trigger(
                    worker.name,
                    queue.name,
                    "queue",
                    scheme(url),
                    per_replica,
                    query=_query(url, queue.name) if url and scheme(url) == "postgresql" else "",
                    account=_host(url),
                    setting=setting("queues", queue.name) if queue_apart(settings, queue.name) else "TIDEMILL_DATABASE",
                )
            case OnChange(StreamSpec() as stream):
                yield Trigger(worker.name, stream.name, "feed", scheme(settings.queue_url(stream.queue)), per_replica)
            case OnChange(source):
                url = settings.collection_url(source.name)
                yield Trigger(worker.name, source.name, "feed", scheme(url), per_replica)
            case _:
                pass


def _query(url: str, queue: str) -> str:
    try:
        from tidemill.adapters.postgres.backlog import counting  # the adapter's library is an extra
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"queue {queue!r} is on PostgreSQL: pip install 'tidemill[postgres]'") from error
    return counting(url, queue)


def setting(kind: Literal["queues", "collections"], name: str) -> str:
    """The variable that says where one queue or collection lives."""
    return f"TIDEMILL_{kind.upper()}__{re.sub(r'[^A-Z0-9]', '_', name.upper())}__URL"


def queue_apart(settings: Settings, name: str) -> bool:
    """Whether a queue lives elsewhere than the database."""
    return settings.queue_url(name) != settings.database


def scheme(url: str | None) -> str:
    """The backend of a URL: `postgresql`, `sqlite`, …; empty if there is no URL."""
    found = urlsplit(url).scheme.partition("+")[0] if url else ""
    return "postgresql" if found == "postgres" else found


def _host(url: str | None) -> str:
    return (urlsplit(url).hostname or "") if url else ""


# --- what cannot be deployed --------------------------------------------------------------------------------


def _unfit(name: str, what: str, where: str) -> Iterator[str]:
    if LABEL.fullmatch(name) and len(name) <= LONGEST:
        return
    why = f"longer than {LONGEST} characters" if len(name) > LONGEST else "no DNS-1123 label"
    yield f"{what} {name!r} cannot name things in Kubernetes ({why}); call it {label(name)!r} in {where}"


def _unkept(declared: Declared, settings: Settings) -> Iterator[str]:
    if "memory" in _schemes(declared, settings):
        yield "the database is memory:, which ends with each process; set TIDEMILL_DATABASE to one that pods can share"


def _unfit_settings(declared: Declared, settings: Settings) -> Iterator[str]:
    """What one process may be told, and a whole app may not."""
    for name, said in (("groups", settings.groups), ("workers", settings.workers)):
        if said:
            yield f"{name}={','.join(said)}: a chart has all groups, and each pod is told its own; take it out"
    if settings.debug:
        yield "debug=true: without time-outs no probe ever fails; take it out"
    ports = {"health_port": settings.health_port, **({"api_port": settings.api_port} if declared.api else {})}
    for name, port in ports.items():
        if port == 0:
            yield f"{name}=0: probes and Services need a port that is known; write one, such as 8081"
    if len(ports) > len(set(ports.values())):
        yield f"health_port and api_port are both {settings.health_port}; a pod needs two"


def _schemes(declared: Declared, settings: Settings) -> set[str]:
    urls = [settings.queue_url(spec.name) for spec, _ in declared.queues]
    urls += [settings.collection_url(spec.name) for spec, _ in declared.collections]
    return {scheme(url) for url in [settings.database, settings.store, *urls]} - {""}
