"""What an operator sees and does, over the ports only: the same on every backend.

Reading takes no common moment: each part is as of its own read. Doing never touches what somebody holds: dead
messages go back to their queue in one step of the backend; for parked keys a *control* is written, and the owner of
the partition, who alone writes its park, acts on it within a second or two.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from random import Random
from typing import Literal, TypeAlias, TypeVar

from tidemill.app.worker import Cron, Declared, Every, OnChange
from tidemill.core import lease, member, park, timer
from tidemill.engine.controls import FEED, PAUSE
from tidemill.engine.places import Places
from tidemill.errors import TidemillError, Unavailable
from tidemill.model import FORMAT, DeadLetter, Depth, Lag, Record, Stale, Swap, Value
from tidemill.ports import DeadLetters, Store

T = TypeVar("T")
Wish: TypeAlias = Literal["replay", "drop"]

PAGE = 500
SKIPPED = "skipped"


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
    """One timer: the newest occurrence (seconds since the epoch; None: never), who runs it, how it ended."""

    name: str
    last: float | None
    state: str
    owner: str
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class Status:
    """The system at about one moment. `problems`: one line for each part that could not be read."""

    app: str
    groups: tuple[str, ...]
    members: tuple[member.Member, ...] = ()
    partitions: tuple[Partition, ...] = ()
    queues: Mapping[str, Depth] = field(default_factory=dict)
    timers: tuple[Timer, ...] = ()
    paused: tuple[str, ...] = ()
    dead_letters: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: of a source (`queue/invoices`, `feed/bill` with all its partitions, or one of them), of a
    key, by id. Nothing given: all."""

    source: str = ""
    key: str | None = None
    ids: tuple[str, ...] = ()

    def covers(self, source: str) -> bool:
        return not self.source or source == self.source or source.startswith(self.source.rstrip("/") + "/")

    def takes(self, letter: DeadLetter) -> bool:
        return (not self.ids or letter.id in self.ids) and (self.key is None or letter.key == self.key)


@dataclass(frozen=True, slots=True)
class Acted:
    """What was done: messages released or dropped, keys of feeds for which a wish was written, and one line for each
    thing that was not done."""

    letters: int = 0
    keys: int = 0
    refused: tuple[str, ...] = ()


# --- status -------------------------------------------------------------------------------------------------


async def status(places: Places, declared: Declared) -> Status:
    """Members, who holds which partition, depths, timers, dead letters. A backend that is away costs its own part
    only, and a line in `problems`."""
    problems: list[str] = []
    store = places.shared_store()

    async def attempt(what: str, work: Awaitable[T], otherwise: T) -> T:
        try:
            return await work
        except Unavailable as error:
            problems.append(f"{what}: {error}")
            return otherwise

    partitions: list[Partition] = []
    for worker in declared.workers:
        if isinstance(worker.trigger, OnChange):
            read = _partitions(places, worker.name, worker.trigger.source.name)
            partitions += await attempt(f"feed {worker.name}", read, [])
    queues: dict[str, Depth] = {}
    for spec, _ in declared.queues:
        depth = await attempt(f"queue {spec.name}", places.queue(spec.name).depth(), None)
        if depth is not None:
            queues[spec.name] = depth
    timers = [worker.name for worker in declared.workers if isinstance(worker.trigger, Every | Cron)]
    counted = await attempt("dead letters", _sources(places), [])
    return Status(
        declared.name,
        declared.groups(),
        members=tuple(await attempt("members", _members(places), [])),
        partitions=tuple(partitions),
        queues=queues,
        timers=tuple(await attempt("timers", _timers(store, timers), [])),
        paused=tuple(await attempt("controls", _paused(store), [])),
        dead_letters={source: count for source, count, _ in counted},
        problems=tuple(problems),
    )


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


async def _partitions(places: Places, worker: str, source: str) -> list[Partition]:
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
        held.state,
        held.crashes,
        lag,
        waiting=len(states) - parked,
        parked=parked,
    )


async def _timers(store: Store, names: Sequence[str]) -> list[Timer]:
    records = await store.get([timer.key_of(name) for name in names]) if names else []
    return [_timer(name, record) for name, record in zip(names, records, strict=True)]


def _timer(name: str, record: Record | None) -> Timer:
    if record is None:
        return Timer(name, None, "never ran", "", 0, "")
    found = timer.from_value(record.value)
    return Timer(name, found.last, found.state, found.owner, found.attempts, found.error)


async def _paused(store: Store) -> list[str]:
    return [r.key.removeprefix(PAUSE) async for r in scan(store, PAUSE) if r.value.get("wish") == "pause"]


async def scan(store: Store, prefix: str) -> AsyncIterator[Record]:
    """All records under a prefix, page by page."""
    after = ""
    while page := await store.scan(prefix, after, PAGE):
        for record in page:
            yield record
        after = page[-1].key


# --- dead letters -------------------------------------------------------------------------------------------


async def letters(places: Places, selection: Selection, *, limit: int | None = None) -> AsyncIterator[DeadLetter]:
    """The dead letters selected, by source and order; at most `limit`."""
    left = limit
    async for page, _ in _pages(places, selection):
        for letter in page:
            if left == 0:
                return
            yield letter
            left = None if left is None else left - 1


async def replay(places: Places, selection: Selection, *, random: Random, dry_run: bool = False) -> Acted:
    """Try them again: messages go back to their queue with attempt 0; keys of feeds are worked off from their head, in
    order, before later changes of the key. One id of a key means the whole key."""
    return await _act(places, selection, "replay", random, dry_run)


async def drop(places: Places, selection: Selection, *, random: Random, dry_run: bool = False) -> Acted:
    """Forget them for good; for a feed the whole key, whose later changes then go on."""
    return await _act(places, selection, "drop", random, dry_run)


async def _act(places: Places, selection: Selection, wish: Wish, random: Random, dry_run: bool) -> Acted:
    done, refused = 0, []
    keys: set[tuple[str, str]] = set()
    async for page, home in _pages(places, selection):
        source, ids = page[0].source, [letter.id for letter in page]
        kind, _, rest = source.partition("/")
        skipped = source.endswith("/" + SKIPPED)
        if kind == "feed" and not skipped:
            keys |= {(rest, letter.key or "") for letter in page}
        elif kind == "feed" and wish == "replay":
            refused += [f"{source} {id}: it was skipped and its order given up; it can only be dropped" for id in ids]
        elif dry_run:
            done += len(ids)
        else:
            done += await (home.release(source, ids) if wish == "replay" else home.drop(source, ids))
    if not dry_run:
        for partition, key in sorted(keys):
            await _wish(places.shared_store(), partition, key, wish, random)
    return Acted(done, len(keys), tuple(refused))


async def _wish(store: Store, partition: str, key: str, wish: Wish, random: Random) -> None:
    """Write a control; a later wish about the same key replaces an earlier one that nobody has acted on."""
    where = f"{FEED}{partition}/{sha256(key.encode()).hexdigest()[:32]}"
    value: Value = {"format": FORMAT, "wish": wish, "key": key, "write": f"{random.getrandbits(64):016x}"}
    [current] = await store.get([where])
    while True:
        [reply] = await store.swap([Swap(where, current.version if current else None, value)])
        if not isinstance(reply, Stale):
            return
        current = reply.current


async def _pages(places: Places, selection: Selection) -> AsyncIterator[tuple[Sequence[DeadLetter], DeadLetters]]:
    """Pages of selected letters of one source each, and where they are kept. Acting on a page is safe: the next one
    starts behind its last order."""
    for source, _, home in await _sources(places):
        if not selection.covers(source):
            continue
        after = -1
        while page := await home.page(source, after, PAGE, selection.key):
            after = page[-1].order
            if taken := [letter for letter in page if selection.takes(letter)]:
                yield taken, home


async def _sources(places: Places) -> list[tuple[str, int, DeadLetters]]:
    """Every source that has dead letters, how many, and where."""
    found: dict[str, tuple[int, DeadLetters]] = {}
    for database in places.databases:
        if "dead_letters" in database.features:
            home = database.dead_letters()
            found |= {source: (count, home) for source, count in (await home.count("")).items()}
    return [(source, count, home) for source, (count, home) in sorted(found.items())]


def groups_without_members(now: Status) -> Sequence[str]:
    """Groups for which nobody works."""
    served = {group for one in now.members for group in one.groups}
    return [group for group in now.groups if group not in served]
