"""`feed ls | pause | resume | reset | rename`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import SystemRandom

from tidemill import operations
from tidemill.app.worker import Declared
from tidemill.cli.asked import agreed, feed_worker, moment, not_declared
from tidemill.cli.opened import with_places
from tidemill.cli.show import length, print_json, table
from tidemill.engine.clock import SystemClock
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError
from tidemill.model import Start
from tidemill.operations import FeedState, Renamed, Resumed, Step

Options = Mapping[str, object]

COLUMNS = (
    "worker", "source", "group", "state", "partitions", "held", "lag", "behind", "waiting", "parked", "wishes",
)  # fmt: skip


def list_feeds(target: str | None, options: Options, *, as_json: bool) -> int:
    """Print the feed workers; one line each, all partitions in JSON."""
    found = with_places(target, options, lambda declared, places: operations.feeds(places, declared))
    if as_json:
        print_json(found)
        return 0
    columns = [
        "worker",
        "source",
        "group",
        "state",
        "partitions",
        "held",
        "lag",
        "behind",
        "waiting",
        "parked",
        "wishes",
    ]
    table("feeds", columns, [_row(one) for one in found])
    return 0


def pause(name: str, target: str | None, options: Options) -> int:
    """Read and start nothing more."""

    async def work(declared: Declared, places: Places) -> bool:
        return await operations.pause_feed(places, feed_worker(declared, name))

    if with_places(target, options, work):
        print(f"{name} is paused within a second or two: what runs goes on, nothing new starts")
    else:
        print(f"{name} was paused already")
    return 0


def resume(name: str, target: str | None, options: Options) -> int:
    """Go on, halted partitions too."""

    async def work(declared: Declared, places: Places) -> Resumed:
        return await operations.resume_feed(places, feed_worker(declared, name), random=SystemRandom())

    resumed = with_places(target, options, work)
    print(f"{name} goes on" if resumed.was_paused else f"{name} was not paused")
    if resumed.halted:
        print(f"halted partitions that try again: {', '.join(resumed.halted)}")
    _tell_unheld(resumed.unheld)
    return 0


def reset(
    name: str, target: str | None, options: Options, *, partition: str | None, to: str, dry_run: bool, yes: bool
) -> int:
    """Go on from another place, after a question."""
    at = _start(to)

    async def work(declared: Declared, places: Places) -> Sequence[Step]:
        worker = feed_worker(declared, name)
        steps = await operations.plan_reset(places, worker, partition, at)
        _print_plan(steps)
        if dry_run:
            return steps
        if not yes and not agreed(f"Reset {name} to {to}?"):
            raise ConfigurationError("nothing was reset: add --yes")
        await operations.reset(places, worker, steps, random=SystemRandom())
        return steps

    steps = with_places(target, options, work)
    if dry_run:
        print("nothing was reset (--dry-run)")
        return 0
    print(f"{name} goes on from {to} in {len(steps)} partition(s), within a second or two; parked keys stay parked")
    _tell_unheld([step.partition for step in steps if step.holder is None])
    return 0


def rename(old: str, new: str, target: str | None, options: Options, *, dry_run: bool) -> int:
    """Move what hangs on the old name."""

    async def work(declared: Declared, places: Places) -> Renamed:
        not_declared(declared, old)
        worker, now = feed_worker(declared, new), SystemClock().now()
        return await operations.rename_feed(places, old, worker, random=SystemRandom(), now=now, dry_run=dry_run)

    done = with_places(target, options, work)
    what = f"{done.partitions} partition(s), {done.keys} key(s) in the park, {done.letters} letter(s)"
    print(f"{'would move' if dry_run else 'moved'} from {old} to {new}: {what}")
    return 0


def _start(to: str) -> Start:
    if to == "beginning" or to == "now":
        return "beginning" if to == "beginning" else "now"
    now = SystemClock().now()
    at = moment(to, "--to beginning, now or a time; got", now)
    if at > now:
        raise ConfigurationError(f"--to {to} lies in the future: write now to pass over what there is")
    return at


def _print_plan(steps: Sequence[Step]) -> None:
    rows = [(s.partition, s.holder or "nobody", s.before, s.cursor, _known(s.again), _known(s.passed)) for s in steps]
    table("reset", ["partition", "holder", "from", "to", "come again", "passed over"], rows)
    again, passed = [s.again for s in steps], [s.passed for s in steps]
    print(f"{_sum(again)} change(s) come again, {_sum(passed)} are passed over")


def _known(count: int | None) -> str:
    return "not known" if count is None else str(count)


def _sum(counts: Sequence[int | None]) -> str:
    known = sum(count for count in counts if count is not None)
    return f"at least {known}" if None in counts else str(known)


def _tell_unheld(partitions: Sequence[str]) -> None:
    if partitions:
        print(f"nobody holds partition(s) {', '.join(partitions)} now: the wish waits for who takes them next")


def _state(one: FeedState) -> str:
    """In a word: what stops it first."""
    states = [part.state for part in one.partitions]
    if one.paused:
        return "paused"
    if "renaming" in states:
        return "renaming"
    if "halted" in states:
        return f"{states.count('halted')} halted"
    return "works" if any(part.owner for part in one.partitions) else "nobody"


def _row(one: FeedState) -> tuple[object, ...]:
    parts = one.partitions
    lags = [part.lag for part in parts if part.lag]
    return (
        one.worker,
        one.source,
        one.group,
        _state(one),
        len(parts),
        sum(part.owner is not None for part in parts),
        sum(lag.items for lag in lags) if lags else "",
        length(max(lag.seconds for lag in lags)) if lags else "",
        sum(part.waiting for part in parts),
        sum(part.parked for part in parts),
        ", ".join(one.wishes),
    )
