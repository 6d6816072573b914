"""The system as it is, part by part: each as of its own read."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tidemill.app.worker import Cron, Declared, Every, OnChange, OnMessage, Worker
from tidemill.core import lease, member, park, timer
from tidemill.engine.controls import PAUSE
from tidemill.engine.places import Places
from tidemill.errors import TidemillError, Unavailable
from tidemill.model import Depth, Lag, Record, StreamSpec
from tidemill.operations.records import RENAMED, scan, sources
from tidemill.ports import Store

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition of a feed worker. `owner` is a member's id (None: nobody's), `lag` None where it is unknown;
    `waiting` and `parked` count keys that go by the park."""

    worker: str
    name: str
    owner: str | None
    epoch: int
    cursor: str | None
    state: str
    crashes: int = 0
    lag: Lag | None = None
    waiting: int = 0
    parked: int = 0


@dataclass(frozen=True, slots=True)
class Timer:
    """One timer: the occurrence that ran last (seconds since the epoch; None: never), who runs it, how it ended."""

    name: str
    last: float | None
    state: str
    owner: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class FeedWork:
    """A feed worker over all its partitions: how many there are, how many a live replica holds, how many stand still
    until somebody decides, and the lag as far as it is known (None: of no partition)."""

    worker: str
    partitions: int
    held: int
    halted: int
    lag: Lag | None


@dataclass(frozen=True, slots=True)
class GroupState:
    """One group: its live replicas, those of them that drain, the partitions that each holds (by its name), and what
    waits in its feeds and queues."""

    name: str
    replicas: int
    draining: int
    holds: Mapping[str, int]
    feeds: tuple[FeedWork, ...]
    queues: Mapping[str, Depth]

    @property
    def lag(self) -> Lag | None:
        """Of all feeds together: the changes, and the seconds of the one furthest behind."""
        return _together([feed.lag for feed in self.feeds])

    @property
    def depth(self) -> Depth | None:
        """Of all queues together, with the oldest message of any."""
        found = list(self.queues.values())
        if not found:
            return None
        return Depth(
            sum(depth.ready for depth in found),
            sum(depth.delayed for depth in found),
            sum(depth.claimed for depth in found),
            max(depth.oldest for depth in found),
        )


@dataclass(frozen=True, slots=True)
class Status:
    """The system at about one moment. `problems`: one line for each part that could not be read. `counted`: whether any
    database keeps records of replicas."""

    app: str
    groups: tuple[str, ...]
    members: tuple[member.Member, ...] = ()
    partitions: tuple[Partition, ...] = ()
    queues: Mapping[str, Depth] = field(default_factory=dict)
    timers: tuple[Timer, ...] = ()
    paused: tuple[str, ...] = ()
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    work: tuple[GroupState, ...] = ()
    counted: bool = True


async def status(places: Places, declared: Declared) -> Status:
    """Members, who holds which partition, depths, timers, dead letters. A backend that is away costs its own part
    only, and a line in `problems`."""
    problems: list[str] = []
    store = places.shared_store() if "store" in places.store.features else None

    async def attempt(what: str, work: Awaitable[T], otherwise: T) -> T:
        try:
            return await work
        except Unavailable as error:
            problems.append(f"{what}: {error}")
            return otherwise

    partitions: list[Partition] = []
    for worker in declared.workers:
        if isinstance(worker.trigger, OnChange):
            read = partitions_of(places, worker.name, worker.trigger.source.name)
            partitions += await attempt(f"feed {worker.name}", read, [])
    queues: dict[str, Depth] = {}
    for spec, _ in declared.queues:
        depth = await attempt(f"queue {spec.name}", places.queue(spec.name).depth(), None)
        if depth is not None:
            queues[spec.name] = depth
    timers = [worker.name for worker in declared.workers if isinstance(worker.trigger, Every | Cron)]
    counted = await attempt("dead letters", sources(places), [])
    members = await attempt("members", _members(places), [])
    groups = tuple(sorted({worker.group for worker in declared.workers}))  # the web API alone has no member's record
    return Status(
        declared.name,
        groups,
        members=tuple(members),
        partitions=tuple(partitions),
        queues=queues,
        timers=tuple(await attempt("timers", timers_of(store, timers), [])) if store else (),
        paused=tuple(await attempt("controls", _paused(store), [])) if store else (),
        dead_letters={source: count for source, count, _ in counted},
        problems=tuple(problems),
        work=tuple(_group(name, declared, members, partitions, queues) for name in groups),
        counted=any("store" in database.features for database in places.databases),
    )


def _group(
    name: str,
    declared: Declared,
    members: Sequence[member.Member],
    partitions: Sequence[Partition],
    queues: Mapping[str, Depth],
) -> GroupState:
    workers = [worker for worker in declared.workers if worker.group == name]
    mine = [one for one in members if name in one.groups]
    names = {one.id: one.name for one in members}
    holds = dict.fromkeys((one.name for one in mine), 0)
    feeds: list[FeedWork] = []
    depths: dict[str, Depth] = {}
    for worker in workers:
        if isinstance(worker.trigger, OnChange):
            parts = [one for one in partitions if one.worker == worker.name]
            held = [names[one.owner] for one in parts if one.owner in names]
            for holder in held:
                holds[holder] = holds.get(holder, 0) + 1
            halted = sum(one.state == "halted" for one in parts)
            feeds.append(FeedWork(worker.name, len(parts), len(held), halted, _together([one.lag for one in parts])))
        queue = _queue_of(worker)
        if queue in queues:
            depths[queue] = queues[queue]
    return GroupState(name, len(mine), sum(one.draining for one in mine), holds, tuple(feeds), depths)


def _queue_of(worker: Worker) -> str:
    """The queue that a worker works; one with a key is worked as a feed. Empty: none."""
    match worker.trigger:
        case OnMessage(queue):
            return queue.name
        case OnChange(StreamSpec() as stream):
            return stream.queue
        case _:
            return ""


def _together(lags: Sequence[Lag | None]) -> Lag | None:
    known = [lag for lag in lags if lag is not None]
    return Lag(sum(lag.items for lag in known), max(lag.seconds for lag in known)) if known else None


async def _members(places: Places) -> list[member.Member]:
    """Those of the store, and of the other databases who is not among them."""
    found: dict[str, member.Member] = {}
    for database in places.databases:
        if "store" not in database.features:
            continue
        entries = [member.from_value(record.value) async for record in scan(database.store(), member.PREFIX)]
        live = [entry for entry in entries if isinstance(entry, member.Member)]
        known = {entry.name for entry in found.values()}
        found |= {entry.id: entry for entry in live if entry.name not in known}
    return sorted(found.values(), key=lambda entry: (entry.name, entry.started_at))


async def partitions_of(places: Places, worker: str, source: str) -> list[Partition]:
    """Those that can be read and those that have a lease, each with its lag and its park."""
    store, feed = places.shared_store(), places.feed(source)
    prefix = lease.prefix_of(worker)
    leases = {r.key.removeprefix(prefix): lease.from_value(r.value) async for r in scan(store, prefix)}
    above = f"park/{worker}/"
    parks = {r.key.removeprefix(above): park.from_value(r.value) async for r in scan(store, above)}
    names = sorted({*leases, *await feed.partitions()}, key=lambda name: (len(name), name))
    try:
        lags = await feed.lag({name: found.cursor for name, found in leases.items() if found.cursor})
    except TidemillError:
        lags = {}  # the partition was split, or the cursor has expired: the rest is still worth showing
    return [_partition(worker, name, leases.get(name), lags.get(name), parks.get(name)) for name in names]


def _partition(
    worker: str, name: str, held: lease.Lease | None, lag: Lag | None, index: park.Index | None
) -> Partition:
    states = [parked.state for parked in index.keys.values()] if index else []
    parked = states.count("parked")
    if held is None:
        return Partition(worker, name, None, 0, None, "never worked")
    return Partition(
        worker,
        name,
        held.owner,
        held.epoch,
        held.cursor,
        "renaming" if RENAMED in held.extra else held.state,
        held.crashes,
        lag,
        waiting=len(states) - parked,
        parked=parked,
    )


async def timers_of(store: Store, names: Sequence[str]) -> list[Timer]:
    """What the records of these timers tell."""
    keys = [timer.key_of(name) for name in names] + [timer.control_key(name) for name in names]
    records = await store.get(keys) if names else []
    found = zip(names, records[: len(names)], records[len(names) :], strict=True)
    return [
        _timer(name, record, timer.control_of(control.value if control else None)) for name, record, control in found
    ]


def _timer(name: str, record: Record | None, control: timer.Control) -> Timer:
    found = timer.from_value(record.value) if record else None
    if found is None or not found.at:  # it may have begun: `last` is where its schedule starts
        return Timer(name, None, "paused" if control.paused else "never ran", "", 0, "")
    state = "paused" if control.paused and found.state == "done" else found.state
    return Timer(name, found.at, state, found.owner, found.attempts, found.error)


async def _paused(store: Store) -> list[str]:
    return [r.key.removeprefix(PAUSE) async for r in scan(store, PAUSE) if r.value.get("wish") == "pause"]


async def is_served(places: Places, group: str) -> bool:
    """Whether a live replica works this group."""
    return any(group in one.groups for one in await _members(places))


def groups_without_members(now: Status) -> Sequence[str]:
    """Groups for which nobody works, as far as that can be known."""
    if not now.counted:
        return []
    served = {group for one in now.members for group in one.groups}
    return [group for group in now.groups if group not in served]
