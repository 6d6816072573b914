"""What is wrong, or will be, between an app, its settings and its databases: one line each, with what to do.

Offline nothing is opened. Online the databases are opened as a start opens them, which makes the tables that are
missing; one record is written and removed again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from random import Random
from typing import Literal, TypeAlias

from tidemill.app.worker import Cron, Declared, Every, OnChange
from tidemill.core import timer
from tidemill.engine.controls import PAUSE
from tidemill.engine.handlers import Handlers
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError, TidemillError
from tidemill.model import FORMAT, Record, Stale, Swap
from tidemill.operations.overview import Status, groups_without_members, status
from tidemill.operations.records import scan
from tidemill.ports import Clock, Database, Store

Level: TypeAlias = Literal["ok", "warning", "problem"]

AHEAD = 5.0
"""Seconds that another machine's clock may be ahead before it is told."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`what` was looked at, how it is, and in one line what was seen and what to do."""

    what: str
    level: Level
    told: str


def handlers_fit(declared: Declared, clock: Clock, transactional: frozenset[str]) -> None:
    """Compile every handler, dependency and rule as a start does. Raises `ConfigurationError` with all mistakes."""
    Handlers(declared.workers, clock, lifespan=declared.lifespan, transactional=transactional)


async def online(places: Places, declared: Declared, *, clock: Clock, random: Random) -> list[Finding]:
    """Open each database and look at what is in it. Never raises for one that is away."""
    findings: list[Finding] = []
    try:
        await places.open()
    except ConfigurationError:
        raise
    except TidemillError as error:
        return [Finding("databases", "problem", f"cannot be opened: {error}")]
    for database in places.databases:
        findings += _versions(database)
    store = places.store
    if "store" in store.features:
        findings.append(await _writes(store.store(), random))
        findings += [finding async for finding in orphans(store.store(), declared)]
    findings += _system(await status(places, declared), declared, clock.now())
    return findings


def _versions(database: Database) -> Iterator[Finding]:
    name = type(database).__name__.lower()
    warnings: Sequence[str] = getattr(database, "warnings", ())
    yield from (Finding(name, "warning", warning) for warning in warnings)
    if not warnings:
        yield Finding(name, "ok", "opened")


async def _writes(store: Store, random: Random) -> Finding:
    """Whether records can be written, by one that is removed again."""
    key = f"check/{random.getrandbits(64):016x}"
    try:
        [made] = await store.swap([Swap(key, None, {"format": FORMAT})])
        if isinstance(made, Record):
            await store.swap([Swap(key, made.version, None)])
    except TidemillError as error:
        return Finding("rights", "problem", f"nothing can be written: {error}")
    written = not isinstance(made, Stale)
    return Finding(
        "rights", "ok" if written else "problem", "records can be written" if written else "a write was lost"
    )


async def orphans(store: Store, declared: Declared) -> AsyncIterator[Finding]:
    """Cursors, timers and pauses of workers that are no longer declared: a name is what they hang on."""
    feeds = {worker.name for worker in declared.workers if isinstance(worker.trigger, OnChange)}
    timers = {worker.name for worker in declared.workers if isinstance(worker.trigger, Every | Cron)}
    known = {worker.name for worker in declared.workers}
    for kind, prefix, names in (
        ("feed", "lease/", feeds),
        ("timer", timer.key_of(""), timers),
        ("pause of worker", PAUSE, known),
    ):
        found = {record.key.removeprefix(prefix).partition("/")[0] async for record in scan(store, prefix)}
        for name in sorted(found - names):
            yield Finding("names", "warning", f"{kind} {name!r} is no longer declared: {_advice(kind, name, names)}")


def _advice(kind: str, name: str, names: Collection[str]) -> str:
    near = get_close_matches(name, names, 1, 0.6)
    if not near or kind not in ("feed", "timer"):
        return "declare it again, or leave it: nobody works it"
    return f"if it is {near[0]!r} now, run: tidemill {kind} rename {name} {near[0]}"


def _system(now: Status, declared: Declared, clock: float) -> Iterator[Finding]:
    yield from (Finding("databases", "problem", problem) for problem in now.problems)
    ahead = max((member.started_at - clock for member in now.members), default=0.0)
    if ahead > AHEAD:
        yield Finding("clocks", "warning", f"a replica started {ahead:.0f} s in the future: set this machine's clock")
    for group in groups_without_members(now):
        yield Finding("replicas", "warning", f"nobody works group {group}: tidemill run --group {group}")
    for worker in sorted({part.worker for part in now.partitions if part.state == "halted"}):
        yield Finding("feeds", "warning", f"{worker} is halted: see dead-letter ls, then tidemill feed resume {worker}")
    queues = {f"queue/{spec.name}" for spec, _ in declared.queues}
    feeds = {f"feed/{worker.name}" for worker in declared.workers}
    for source, count in now.dead_letters.items():
        kind, _, rest = source.partition("/")
        if f"{kind}/{rest.partition('/')[0]}" not in queues | feeds:
            yield Finding("dead letters", "warning", f"{count} of {source}, which is no longer declared")
