"""What must hold over the whole history of a world; what can be judged at once is judged where it happens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

from tests.simulation.history import Run
from tests.simulation.plan import PARTITIONS
from tests.simulation.world import World
from tidemill.adapters.memory.state import partition_of

Blame = tuple[str, str]


def check(world: World) -> list[Blame]:
    """Every invariant that was broken, in words."""
    found = list(world.history.blamed)
    for rule in (_lost, _order, _overlap, _messages, _timers, _outage, _calm):
        found += rule(world)
    return found


def report(world: World, found: list[Blame], tail: int = 60) -> str:
    """For people: the seed, what was broken, and the end of the history up to the first of it."""
    lines = world.history.lines
    first = next((n for n, line in enumerate(lines) if "!!!" in line), len(lines) - 1)
    words = "\n".join(f"  {name}: {text}" for name, text in found[:10])
    return f"seed {world.plan.seed} {world.plan}\n{words}\n" + "\n".join(lines[max(first - tail, 0) : first + 5])


def _lost(world: World) -> Iterator[Blame]:
    done = {(run.key, run.number) for run in _of(world, "watch") if run.how == "done"}
    for key, numbers in world.changes.items():
        missing = [n for n, _ in numbers if (key, n) not in done]
        if missing:
            yield "I1", f"changes of {key} were lost: {missing}; parked: {world.parked()}"
    for id in world.undone_messages():
        yield "I1", f"message {id} ({world.messages[id][0]}) was lost"
    if any(world.parked().values()):
        yield "I1", f"still parked: {world.parked()}"


def _order(world: World) -> Iterator[Blame]:
    """A change starts only when all before it of its key were done once."""
    done: defaultdict[str, set[int]] = defaultdict(set)
    runs = _of(world, "watch")
    moments = sorted(
        [(run.start, 1, n, run) for n, run in enumerate(runs)]
        + [(run.end, 0, n, run) for n, run in enumerate(runs) if run.end is not None and run.how == "done"],
        key=lambda moment: (moment[0], moment[2], 1 - moment[1]),
    )
    for _, starts, _, run in moments:
        if not starts:
            done[run.key].add(run.number)
            continue
        before = [n for n in range(run.number) if n not in done[run.key]]
        if before:
            yield "I2", f"{run.host} started {run.key}#{run.number} at {run.start:.3f} before {before}"


def _overlap(world: World) -> Iterator[Blame]:
    """Nothing runs twice at once, on whatever hosts, unless one stood still for too long."""
    if not world.plan.gentle:
        return
    names = {"watch": "I5", "read": "J8", "sweep": "J10"}
    groups: defaultdict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in world.history.runs_of:
        groups[run.worker, run.key if run.worker == "watch" else run.item].append(run)
    for (worker, key), runs in groups.items():
        for before, after in pairwise(runs):
            if before.end is None or before.end > after.start:
                yield names[worker], f"{key} ran on {before.host} and {after.host} at once, at {after.start:.3f}"


def _messages(world: World) -> Iterator[Blame]:
    for id, reason in world.dead().items():
        kind = world.messages[id][0]
        if kind not in ("bad", "killer") and world.truth.unresolved[id] < 5:
            yield "J6", f"{id} ({kind}) died: {reason}"
    for id, (kind, _) in world.messages.items():
        kills = sum(run.item == id and run.how == "killed" for run in world.history.runs_of)
        if kind == "killer" and kills > 6:
            yield "J6", f"{id} killed {kills} processes"


def _timers(world: World) -> Iterator[Blame]:
    runs = _of(world, "sweep")
    done = sorted({run.number for run in runs if run.how == "done"})
    for before, after in pairwise(done):
        if after - before != 10:
            yield "I1", f"occurrences between {before} and {after} were not run"
    if not done:
        yield "I1", "no occurrence was run"


def _outage(world: World) -> Iterator[Blame]:
    if world.plan.outage and (world.dead() or any("parked" in line.split() for line in world.history.lines)):
        yield "J7", f"an outage condemned {world.dead()} or parked a key"


def _calm(world: World) -> Iterator[Blame]:
    """Without faults: nothing comes twice, nobody waits for the parked, and nothing moves for nothing."""
    if not world.plan.calm:
        return
    times: defaultdict[tuple[str, str], int] = defaultdict(int)
    for run in world.history.runs_of:
        times[run.worker, run.item] += run.how in ("done", "cancelled", "killed")
    for (worker, item), count in times.items():
        if count > 1 and not world.plan.batch and not (worker == "watch" and _behind_a_hole(world, item)):
            yield "I9", f"{worker} {item} was run {count} times without a failure"
    written = {(key, n): at for key, numbers in world.changes.items() for n, at in numbers}
    for run in _of(world, "watch"):
        if run.key in ("a", "b", "c", "d") and run.start - written[run.key, run.number] > 12:
            yield "I12", f"{run.key}#{run.number} waited {run.start - written[run.key, run.number]:.1f} s"
    last = max(world.joined_or_left)
    for at, key in world.truth.handovers:
        if at > last + 40:
            yield "J14", f"{key} changed hands at {at:.1f}, the fleet stood since {last:.1f}"


def _behind_a_hole(world: World, item: str) -> bool:
    """Whether an earlier change of its partition was done later: then the mark could not pass it."""
    first: dict[str, Run] = {}
    for run in _of(world, "watch"):
        if run.how == "done":
            first.setdefault(run.item, run)
    mine = first[item]
    place = partition_of(mine.key, PARTITIONS)
    same = [run for run in first.values() if partition_of(run.key, PARTITIONS) == place and int(run.item) < int(item)]
    return any((run.end or 0.0) > (mine.end or 0.0) for run in same)


def _of(world: World, worker: str) -> list[Run]:
    return [run for run in world.history.runs_of if run.worker == worker]
