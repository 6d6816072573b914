"""Feed workers: pause, resume, and read again from another place.

Nothing here touches a lease. Each act is a *control*, and the replica that holds the partition acts on it within a
second or two; where nobody holds it, the wish waits for who takes it next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from tidemill.app.worker import Declared, OnChange, Worker
from tidemill.core import member
from tidemill.engine.controls import FEED, PAUSE
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError
from tidemill.model import FORMAT, Start, Value
from tidemill.operations.overview import Partition, partitions_of
from tidemill.operations.records import scan
from tidemill.operations.wishes import change, wish
from tidemill.ports import Store


@dataclass(frozen=True, slots=True)
class FeedState:
    """A feed worker as it is. `wishes`: controls that nobody has acted on yet, as `partition: wish`."""

    worker: str
    source: str
    group: str
    paused: bool
    partitions: tuple[Partition, ...]
    wishes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Resumed:
    """What a resume did: whether the worker was paused, the halted partitions that will go on, and those of them that
    nobody holds."""

    was_paused: bool
    halted: tuple[str, ...] = ()
    unheld: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """Where one partition stands and where it would go. `again` changes would come once more, `passed` would be passed
    over; None where that cannot be counted (the old cursor has expired, or there is none). `holder` is the name
    of the replica that will act, None: nobody yet."""

    partition: str
    before: str | None
    cursor: str
    again: int | None
    passed: int | None
    holder: str | None


async def feeds(places: Places, declared: Declared) -> list[FeedState]:
    """All feed workers of the app."""
    return [await _state(places, worker) for worker in declared.workers if isinstance(worker.trigger, OnChange)]


async def pause_feed(places: Places, worker: Worker) -> bool:
    """Read and start nothing more; what runs goes on. False if it was paused already."""
    value: Value = {"format": FORMAT, "wish": "pause"}
    return await change(places.shared_store(), PAUSE + worker.name, lambda now: now if _pauses(now) else value)


async def resume_feed(places: Places, worker: Worker, *, random: Random) -> Resumed:
    """Go on from the cursors. Also frees the partitions that stand still because of a poisonous change."""
    store = places.shared_store()
    was_paused = await change(store, PAUSE + worker.name, lambda now: None if _pauses(now) else now)
    found = await partitions_of(places, worker.name, source_of(worker))
    halted = [partition for partition in found if partition.state == "halted"]
    holders = await _holders(store, halted)
    for partition in halted:
        await wish(store, f"{FEED}{worker.name}/{partition.name}/resume", {"wish": "resume"}, random)
    names = [partition.name for partition in halted]
    return Resumed(was_paused, tuple(names), tuple(name for name in names if holders[name] is None))


async def plan_reset(places: Places, worker: Worker, partition: str | None, at: Start) -> list[Step]:
    """What `reset` would do to this partition, or to all. Raises `ConfigurationError` for one that is not there."""
    source = source_of(worker)
    feed, store = places.feed(source), places.shared_store()
    found = {one.name: one for one in await partitions_of(places, worker.name, source)}
    readable = await feed.partitions()
    if partition is not None and partition not in readable:
        raise ConfigurationError(
            f"partition {partition!r} is none of {source!r}: its partitions are {', '.join(readable)}"
        )
    chosen = [found[name] for name in ([partition] if partition is not None else readable)]
    cursors = {one.name: await feed.start(one.name, at) for one in chosen}
    left = {name: lag.items for name, lag in (await feed.lag(cursors)).items()}
    holders = await _holders(store, chosen)
    return [
        Step(one.name, one.cursor, cursors[one.name], *_difference(one, left.get(one.name)), holders[one.name])
        for one in chosen
    ]


async def reset(places: Places, worker: Worker, steps: Sequence[Step], *, random: Random) -> None:
    """Write the wishes. Who holds a partition lets what runs end, then goes on from the new cursor under a new epoch,
    so that nothing of before is written any more. Keys that are parked stay parked."""
    for step in steps:
        key = f"{FEED}{worker.name}/{step.partition}/reset"
        await wish(places.shared_store(), key, {"wish": "reset", "cursor": step.cursor}, random)


def source_of(worker: Worker) -> str:
    """The collection or table whose changes a feed worker gets."""
    assert isinstance(worker.trigger, OnChange), f"{worker.name} is no feed worker"
    return worker.trigger.source.name


async def _state(places: Places, worker: Worker) -> FeedState:
    store, source = places.shared_store(), source_of(worker)
    [paused] = await store.get([PAUSE + worker.name])
    above = f"{FEED}{worker.name}/"
    wishes = [(r.key.removeprefix(above).partition("/")[0], r.value.get("wish")) async for r in scan(store, above)]
    return FeedState(
        worker.name,
        source,
        worker.group,
        _pauses(paused.value if paused else None),
        tuple(await partitions_of(places, worker.name, source)),
        tuple(f"{partition}: {what}" for partition, what in wishes),
    )


async def _holders(store: Store, partitions: Sequence[Partition]) -> Mapping[str, str | None]:
    """By partition, the name of the live member that holds it."""
    owners = sorted({one.owner for one in partitions if one.owner})
    records = await store.get([member.key_of(owner) for owner in owners]) if owners else []
    entries = [member.from_value(record.value) for record in records if record]
    names = {entry.id: entry.name for entry in entries if isinstance(entry, member.Member)}
    return {one.name: names.get(one.owner or "") for one in partitions}


def _difference(one: Partition, left: int | None) -> tuple[int | None, int | None]:
    """How many changes come again, and how many are passed over: what lies ahead of the new cursor less what lies
    ahead of the old one."""
    if left is None or one.lag is None:
        return (0 if one.cursor is None else None), None  # nothing was read yet: nothing comes again
    return max(left - one.lag.items, 0), max(one.lag.items - left, 0)


def _pauses(value: Value | None) -> bool:
    return value is not None and value.get("wish") == "pause"
