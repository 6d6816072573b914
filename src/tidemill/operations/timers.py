"""Timers: what is next, run now, pause, resume, rename.

A timer is never run from here: `control/timer/<name>` says what is wished for, and the replicas look at it once a
second. A run that was wished for is claimed like an occurrence (once for all replicas, attempt 1) and leaves the
schedule as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tidemill.app.worker import Cron, Declared, Every, Worker
from tidemill.core import member, timer
from tidemill.core.timer import Control
from tidemill.engine.places import Places
from tidemill.engine.timers import rules_of
from tidemill.errors import Refused
from tidemill.model import Gone, Record, Stale, Swap, Value
from tidemill.operations.overview import Timer, timers_of
from tidemill.operations.records import RENAMED
from tidemill.operations.wishes import change
from tidemill.ports import Store


@dataclass(frozen=True, slots=True)
class TimerState:
    """A timer as it is. `next` is the next occurrence (seconds since the epoch), None while it is paused; `wished`: a
    run now that nobody has begun yet. `seen` is None for a timer of each replica, which leaves no record."""

    name: str
    group: str
    schedule: str
    misfire: str
    per_replica: bool
    paused: bool
    wished: bool
    next: float | None
    seen: Timer | None


async def timers(places: Places, declared: Declared, now: float) -> list[TimerState]:
    """All timers of the app."""
    workers = [worker for worker in declared.workers if isinstance(worker.trigger, Every | Cron)]
    names = [worker.name for worker in workers]
    store = places.shared_store()
    controls = await store.get([timer.control_key(name) for name in names]) if names else []
    records = await store.get([timer.key_of(name) for name in names]) if names else []
    seen = {found.name: found for found in await timers_of(store, names)}
    return [
        _state(worker, timer.control_of(control.value if control else None), record, seen[worker.name], now)
        for worker, control, record in zip(workers, controls, records, strict=True)
    ]


async def pause_timer(places: Places, worker: Worker, now: float, *, random: Random) -> bool:
    """Claim no occurrence any more; what runs goes on. False if it was paused already."""
    return await _edit(places.shared_store(), worker.name, lambda control: timer.pause(control, now), random)


async def resume_timer(places: Places, worker: Worker, now: float, *, random: Random) -> bool:
    """From now on as the schedule says. What fell into the pause is skipped, whatever the timer's misfire policy: it
    was not missed, it was not wanted. False if it was not paused."""
    return await _edit(places.shared_store(), worker.name, lambda control: timer.resume(control, now), random)


async def run_timer(places: Places, worker: Worker, *, random: Random) -> None:
    """Run once, as soon as nothing of it runs, also while it is paused. A second wish before anybody has begun the
    first one replaces it. Raises `Refused` for a timer of each replica: it has nobody who runs it for all."""
    if per_replica(worker):
        raise Refused(
            f"timer {worker.name!r} runs in each replica by itself: it cannot be run once for all (declare it without"
            " per_replica)"
        )
    wish = f"{random.getrandbits(64):016x}"
    await _edit(places.shared_store(), worker.name, lambda control: timer.run_now(control, wish), random)


async def rename_timer(places: Places, old: str, worker: Worker, *, random: Random) -> None:
    """Give the timer `old` the name of `worker`: what was decided stays decided, a pause stays a pause. The new record
    is written before the old one goes; interrupted, it is repeated. Raises `Refused` where `old` runs, where `worker`
    has begun, or where there is nothing to rename."""
    store, new = places.shared_store(), worker.name
    if per_replica(worker):
        raise Refused(f"timer {new!r} runs in each replica by itself: it has no record to rename")
    [before, after] = await store.get([timer.key_of(old), timer.key_of(new)])
    ours = after is not None and after.value.get(RENAMED) == old
    if before is None and not ours:
        raise Refused(f"nothing is known of a timer {old!r}: there is nothing to rename")
    if after is not None and not ours:
        raise Refused(f"timer {new!r} has begun: its record cannot be joined with that of {old!r}")
    if before is not None:
        await _copy(store, before, old, new)
    [control] = await store.get([timer.control_key(old)])
    if control is not None:
        await store.swap([Swap(timer.control_key(new), None, control.value)])  # stale: it was moved before
        await store.swap([Swap(control.key, control.version, None)])
    await change(store, timer.key_of(new), lambda value: None if value is None else _without_mark(value))


def per_replica(worker: Worker) -> bool:
    """Whether each replica runs it for itself."""
    return isinstance(worker.trigger, Every) and worker.trigger.per_replica


async def _copy(store: Store, before: Record, old: str, new: str) -> None:
    found = timer.from_value(before.value)
    if found.state == "running" and found.owner:
        [owner] = await store.get([member.key_of(found.owner)])
        name = str(owner.value.get("name") or found.owner) if owner else found.owner
        raise Refused(f"timer {old!r} runs in {name} now: wait until it has ended")
    [written] = await store.swap([Swap(timer.key_of(new), None, {**found.to_value(), RENAMED: old})])
    current = written.current if isinstance(written, Stale) else None
    if current is not None and current.value.get(RENAMED) != old:
        raise Refused(f"timer {new!r} has begun while it was renamed; nothing was moved")
    [gone] = await store.swap([Swap(before.key, before.version, None)])
    if not isinstance(gone, Gone):
        raise Refused(f"timer {old!r} was written by somebody else just now: stop what runs it, then run this again")


async def _edit(store: Store, name: str, edit: Callable[[Control], Control], random: Random) -> bool:
    write = f"{random.getrandbits(64):016x}"

    def edited(value: Value | None) -> Value | None:
        before = timer.control_of(value)
        after = edit(before)
        return value if after == before else after.to_value(write)

    return await change(store, timer.control_key(name), edited)


def _state(worker: Worker, control: Control, record: Record | None, seen: Timer, now: float) -> TimerState:
    rules = rules_of(worker)
    ran = timer.from_value(record.value).ran if record else ""
    alone = per_replica(worker)
    return TimerState(
        worker.name,
        worker.group,
        rules.schedule.description,
        rules.misfire,
        alone,
        control.paused,
        bool(control.run) and control.run != ran and not alone,
        None if control.paused else rules.schedule.next(now),
        None if alone else seen,
    )


def _without_mark(value: Value) -> Value:
    return {name: item for name, item in value.items() if name != RENAMED}
