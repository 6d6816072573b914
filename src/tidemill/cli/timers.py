"""`timer ls | run | pause | resume | rename`."""

from __future__ import annotations

from collections.abc import Mapping
from random import SystemRandom

from tidemill import operations
from tidemill.app.worker import Declared
from tidemill.cli.asked import not_declared, timer_worker
from tidemill.cli.opened import with_places
from tidemill.cli.show import instant, print_json, table
from tidemill.engine.clock import SystemClock
from tidemill.engine.places import Places
from tidemill.operations import TimerState

Options = Mapping[str, object]


def list_timers(target: str | None, options: Options, *, as_json: bool) -> int:
    """Print the timers; one line each."""
    now = SystemClock().now()
    found = with_places(target, options, lambda declared, places: operations.timers(places, declared, now))
    if as_json:
        print_json(found)
        return 0
    columns = ["timer", "schedule", "group", "state", "next", "last", "attempts", "error"]
    table("timers", columns, [_row(one) for one in found])
    return 0


def run(name: str, target: str | None, options: Options) -> int:
    """Wish for a run now."""

    async def work(declared: Declared, places: Places) -> tuple[str, bool]:
        worker = timer_worker(declared, name)
        await operations.run_timer(places, worker, random=SystemRandom())
        return worker.group, await operations.is_served(places, worker.group)

    group, served = with_places(target, options, work)
    print(f"{name} runs once, as soon as nothing of it runs; its schedule stays as it is")
    if not served:
        print(f"nobody works group {group} now: it runs when somebody does")
    return 0


def pause(name: str, target: str | None, options: Options) -> int:
    """Begin no occurrence any more."""

    async def work(declared: Declared, places: Places) -> bool:
        worker, now = timer_worker(declared, name), SystemClock().now()
        return await operations.pause_timer(places, worker, now, random=SystemRandom())

    done = with_places(target, options, work)
    print(f"{name} is paused within a second or two; what runs goes on" if done else f"{name} was paused already")
    return 0


def resume(name: str, target: str | None, options: Options) -> int:
    """As the schedule says, from now on."""

    async def work(declared: Declared, places: Places) -> bool:
        worker, now = timer_worker(declared, name), SystemClock().now()
        return await operations.resume_timer(places, worker, now, random=SystemRandom())

    done = with_places(target, options, work)
    print(f"{name} goes on; what fell into the pause is skipped" if done else f"{name} was not paused")
    return 0


def rename(old: str, new: str, target: str | None, options: Options) -> int:
    """Move the record of the old name."""

    async def work(declared: Declared, places: Places) -> None:
        not_declared(declared, old)
        await operations.rename_timer(places, old, timer_worker(declared, new), random=SystemRandom())

    with_places(target, options, work)
    print(f"moved from {old} to {new}")
    return 0


def _row(one: TimerState) -> tuple[object, ...]:
    seen = one.seen
    state = seen.state if seen else "paused" if one.paused else "in each replica"
    if one.wished:
        state += ", run wished"
    last = (instant(seen.last), seen.attempts, seen.error) if seen else ("", "", "")
    return one.name, one.schedule, one.group, state, instant(one.next), *last
