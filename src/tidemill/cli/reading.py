"""`workers` and `status`."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path

from tidemill import operations
from tidemill.app.worker import OnChange, Worker
from tidemill.cli.opened import with_places
from tidemill.cli.show import Table, instant, length, print_json, show, table
from tidemill.cli.target import find
from tidemill.core.member import Member
from tidemill.engine.reading import streams, wants_deletions
from tidemill.errors import ConfigurationError
from tidemill.operations import GroupState, Partition, Status
from tidemill.settings import hint, kind_of

FEW = 4
"""So many partitions, or rows of them, are named; more are counted."""


def list_workers(target: str | None, groups: Sequence[str], *, as_json: bool) -> int:
    """Print what the app declares."""
    declared = find(target, Path.cwd()).declared()
    for group in groups:
        if group not in declared.groups():
            near = hint(group, list(declared.groups())) or f" (there are: {', '.join(declared.groups())})"
            raise ConfigurationError(f"group {group!r} is not declared in app {declared.name!r}{near}")
    rows = [describe(worker) for worker in declared.workers if not groups or worker.group in groups]
    if as_json:
        print_json(rows)
    else:
        columns = ["name", "kind", "trigger", "group", "concurrency", "time limit", "deletes"]
        table(f"workers of {declared.name}", columns, [_shown(row) for row in rows])
    return 0


def describe(worker: Worker) -> dict[str, object]:
    """A worker as plain values; `deletes` is None where there is no feed."""
    kind, trigger = kind_of(worker)
    return {
        "name": worker.name,
        "kind": kind,
        "trigger": trigger,
        "group": worker.group,
        "concurrency": worker.policy.concurrency,
        "time_limit": worker.policy.time_limit,
        "deletes": deletes(worker),
    }


def deletes(worker: Worker) -> str | None:
    """Whether the handler is told of deleted documents: a handler that annotates `Change[T]` alone is not."""
    if not isinstance(worker.trigger, OnChange) or streams(worker):
        return None
    parameters = list(inspect.signature(worker.handler, eval_str=True).parameters.values())
    return "delivered" if parameters and wants_deletions(parameters[0].annotation) else "not delivered"


def _shown(row: Mapping[str, object]) -> list[object]:
    limit = row["time_limit"]
    return [length(limit) or "none" if name == "time_limit" and isinstance(limit, float | None) else value
            for name, value in row.items()]  # fmt: skip


def show_status(target: str | None, options: Mapping[str, object], *, as_json: bool) -> int:
    """Print the system as it is; exit code 1 if a part of it could not be read."""
    status = with_places(target, options, lambda declared, places: operations.status(places, declared))
    if as_json:
        print_json(status)
    else:
        show(pieces_of(status))
    return 1 if status.problems else 0


def pieces_of(status: Status) -> Iterator[Table | str]:
    """What is shown of a status, from top to bottom."""
    names = {one.id: one.name for one in status.members}
    yield Table(
        "groups",
        ["group", "replicas", "draining", "partitions", "lag", "behind", "ready", "claimed", "oldest"],
        [_group(one, counted=status.counted) for one in status.work],
    )
    held = Counter(one.owner for one in status.partitions)
    yield Table(
        "replicas",
        ["name", "id", "groups", "state", "since", "partitions"],
        [_replica(one, held[one.id]) for one in status.members],
    )
    columns = ["worker", "holder", "state", "partitions", "lag", "behind", "waiting", "parked"]
    yield Table("feeds", columns, list(_holdings(status, names)))
    yield Table(
        "queues",
        ["queue", "ready", "delayed", "claimed", "oldest", "dead"],
        [
            (name, d.ready, d.delayed, d.claimed, length(d.oldest), status.dead_letters.get(f"queue/{name}", 0))
            for name, d in status.queues.items()
        ],
    )
    yield Table(
        "timers",
        ["timer", "last", "state", "runs in", "attempts", "error"],
        [(t.name, instant(t.last), t.state, names.get(t.owner, t.owner), t.attempts, t.error) for t in status.timers],
    )
    yield Table("dead letters", ["source", "count"], list(status.dead_letters.items()))
    for group in operations.groups_without_members(status):
        yield f"nobody works group {group}"
    for problem in status.problems:
        yield f"not read: {problem}"


def _holdings(status: Status, names: Mapping[str, str]) -> Iterator[tuple[object, ...]]:
    """One row for each worker, holder and state: single partitions are told apart in JSON."""

    def sort(p: Partition) -> tuple[str, str, str]:
        state = "paused" if p.worker in status.paused else p.state
        return p.worker, names.get(p.owner or "", p.owner or "nobody"), state

    for (worker, holder, state), group in groupby(sorted(status.partitions, key=sort), key=sort):
        parts = list(group)
        lags = [p.lag for p in parts if p.lag]
        told = [sum(lag.items for lag in lags), length(max(lag.seconds for lag in lags))] if lags else ["", ""]
        yield worker, holder, state, _names(parts), *told, sum(p.waiting for p in parts), sum(p.parked for p in parts)


def _names(parts: Sequence[Partition]) -> str:
    """Numbers in a row as `0–3`; where that still is long, how many."""
    rows: list[list[str]] = []
    for name in [p.name for p in parts]:
        if rows and name.isdecimal() and rows[-1][-1].isdecimal() and int(name) == int(rows[-1][-1]) + 1:
            rows[-1].append(name)
        else:
            rows.append([name])
    told = [name for row in rows for name in ([f"{row[0]}–{row[-1]}"] if len(row) > 2 else row)]
    return ", ".join(told) if len(told) <= FEW else f"{len(parts)}"


def _group(one: GroupState, *, counted: bool) -> tuple[object, ...]:
    total = sum(feed.partitions for feed in one.feeds)
    held = f"{sum(feed.held for feed in one.feeds)} of {total}" if one.feeds else ""
    lag = (one.lag.items, length(one.lag.seconds)) if one.lag else ("", "")
    depth = one.depth
    queue = (depth.ready, depth.claimed, length(depth.oldest)) if depth else ("", "", "")
    replicas = one.replicas if counted else "?"  # no database keeps records of them
    return one.name, replicas, one.draining or "", held, *lag, *queue


def _replica(one: Member, held: int) -> tuple[object, ...]:
    state = "draining" if one.draining else "works"
    return one.name, one.id, ", ".join(one.groups), state, instant(one.started_at), held or ""
