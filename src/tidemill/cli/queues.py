"""`queue ls | peek | send | pause | resume | purge`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from tidemill.app.handles import Queue
from tidemill.app.worker import Declared
from tidemill.cli.asked import agreed
from tidemill.cli.bodies import Bodies, bodies, checked
from tidemill.cli.opened import with_places
from tidemill.cli.progress import progress
from tidemill.cli.show import instant, length, print_json, table
from tidemill.engine.places import Places
from tidemill.errors import BadOption, ConfigurationError, TidemillError
from tidemill.model import Depth, Message, Waiting
from tidemill.operations import queues as operations
from tidemill.operations.queues import QueueState, Sent, Wished

MANY = 1_000
"""From so many messages on, a terminal is shown how far it is."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which queue of which app, with which settings."""

    target: str | None
    options: Mapping[str, object]
    name: str = ""


@dataclass(frozen=True, slots=True)
class Extras:
    """What goes along with a body: as the words of the command line."""

    delay: str
    dedup: str | None
    key: str | None
    priority: int
    headers: Sequence[str]


def list_queues(chosen: Chosen, *, as_json: bool) -> int:
    """Print every queue; 1 if one could not be read."""
    found = with_places(chosen.target, chosen.options, lambda declared, places: operations.queues(places, declared))
    if as_json:
        print_json(found)
    else:
        columns = ["queue", "ready", "delayed", "claimed", "oldest", "limit", "dead", "workers"]
        table("queues", columns, [_row(one) for one in found])
        for one in found:
            if one.problem:
                print(f"not read: queue {one.name}: {one.problem}")
    return 1 if any(one.problem for one in found) else 0


def _row(one: QueueState) -> Sequence[object]:
    depth = one.depth or Depth(0, 0, 0, 0.0)
    counts = [depth.ready, depth.delayed, depth.claimed, length(depth.oldest)] if one.depth else ["?", "?", "?", ""]
    workers = [f"{name} (paused)" if name in one.paused else name for name in one.workers]
    dead = "?" if one.dead is None else one.dead
    return [one.name, *counts, one.limit, dead, ", ".join(workers) or "none"]


def peek(chosen: Chosen, limit: int, after: str, *, as_json: bool) -> int:
    """Print what waits, in the order in which it would be claimed."""

    async def work(declared: Declared, places: Places) -> Sequence[Waiting]:
        operations.find(declared, chosen.name)
        try:
            return await operations.peek(places, chosen.name, limit=limit + 1, after=after)
        except BadOption as error:
            raise ConfigurationError(f"--after {error}") from None

    found = with_places(chosen.target, chosen.options, work)
    shown = found[:limit]
    if as_json:
        print_json(shown)
        return 0
    columns = ["id", "key", "priority", "due", "failures", "reason", "body"]
    rows = [(m.id, m.key, m.priority, instant(m.due), m.attempt, m.reason, _text(m.body)) for m in shown]
    table(f"waiting in {chosen.name}", columns, rows)
    if len(found) > limit:
        print(f"and more: --limit {limit} reached; go on with --after {shown[-1].place}")
    return 0


def _text(body: bytes) -> str:
    return body.decode("utf-8", "replace")


# --- sending ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """How far a send has come: messages sent, how many of them were there already, and the id of the last."""

    total: int = 0
    sent: int = 0
    duplicates: int = 0
    last: str = ""
    failed: str = ""

    def add(self, some: Sent) -> None:
        self.sent += len(some.ids)
        self.duplicates += some.duplicates
        self.last = some.ids[-1]


def send(chosen: Chosen, body: str, extras: Extras) -> int:
    """Check every body against the declared type, then send them all; 1 if not all were sent."""
    headers = dict(_header(text) for text in extras.headers)
    given = bodies(body)

    async def work(declared: Declared, places: Places) -> Tally:
        queue = operations.find(declared, chosen.name)
        make = _maker(queue, given, extras, headers)
        check = operations.checker(places, chosen.name)
        tally = Tally(checked(given, queue.type, lambda number, text: check(make(number, text))))
        messages = (make(number, text) for number, text in given.read())
        with _progress(f"sending to {chosen.name}", tally.total) as step:

            def told(some: Sent) -> None:
                tally.add(some)
                step(len(some.ids))

            try:
                await operations.send(places, chosen.name, messages, told=told)
            except TidemillError as error:
                tally.failed = str(error)
        return tally

    return _tell(with_places(chosen.target, chosen.options, work), chosen.name, extras)


def _tell(tally: Tally, queue: str, extras: Extras) -> int:
    if tally.failed:
        again = "" if extras.dedup else "; with --dedup a second try would send none of them twice"
        done = f"{tally.sent} of {tally.total} messages were sent{again if tally.sent else ''}: "
        sys.stderr.write(f"tidemill: {done if tally.total > 1 else ''}{tally.failed}\n")
        return 1
    there = f"; {tally.duplicates} of them were there already" if tally.duplicates and tally.total > 1 else ""
    if tally.total == 1:
        print(f"{tally.last} was there already" if tally.duplicates else f"sent {tally.last}")
    else:
        print(f"sent {tally.total} messages to {queue}{there}")
    return 0


def _maker(
    queue: Queue[Any], given: Bodies, extras: Extras, headers: Mapping[str, str]
) -> Callable[[int, bytes], Message]:
    """From a body to the message, as the app itself would send it. The dedup key of one among many has its line."""

    def make(number: int, body: bytes) -> Message:
        return queue.message(
            queue.codec.decode(body),
            id=uuid4().hex,
            delay=_seconds(extras.delay),
            priority=extras.priority,
            dedup=f"{extras.dedup}/{number}" if given.many and extras.dedup else extras.dedup,
            key=extras.key,
            headers=headers,
        )

    return make


def _seconds(delay: str) -> str | float:
    """`90` is a number of seconds, as it is in code."""
    try:
        return float(delay)
    except ValueError:
        return delay


def _header(text: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ConfigurationError(f"--header {text}: write name=value")
    return name, value


# --- pause and purge ----------------------------------------------------------------------------------------


def pause(chosen: Chosen) -> int:
    """Let every worker of the queue take in nothing more."""

    async def work(declared: Declared, places: Places) -> Wished:
        operations.find(declared, chosen.name)
        return await operations.pause(places, declared, chosen.name)

    return _tell_wish(with_places(chosen.target, chosen.options, work), "paused", "take in nothing more")


def resume(chosen: Chosen) -> int:
    """Let them go on."""

    async def work(declared: Declared, places: Places) -> Wished:
        operations.find(declared, chosen.name)
        return await operations.resume(places, declared, chosen.name)

    return _tell_wish(with_places(chosen.target, chosen.options, work), "resumed", "go on")


def _tell_wish(wished: Wished, done: str, effect: str) -> int:
    if wished.changed:
        print(f"{done} {', '.join(wished.changed)}: replicas see it within a second or two and {effect}")
    else:
        state = "paused already" if done == "paused" else "not paused"
        print(f"nothing to do: {', '.join(wished.workers)} {'was' if len(wished.workers) == 1 else 'were'} {state}")
    return 0


def purge(chosen: Chosen, *, dry_run: bool, yes: bool) -> int:
    """Remove what waits, after a question if somebody is there to answer."""

    async def work(declared: Declared, places: Places) -> int:
        operations.find(declared, chosen.name)
        count = await operations.purge(places, chosen.name, dry_run=True)
        if dry_run:
            return count
        if not yes and not agreed(f"Remove about {count} waiting message(s) of {chosen.name} for good?"):
            raise ConfigurationError("nothing was removed: add --yes")
        with _progress(f"purging {chosen.name}", count) as step:
            return await operations.purge(places, chosen.name, told=step)

    count = with_places(chosen.target, chosen.options, work)
    if dry_run:
        print(f"would remove about {count} message(s) of {chosen.name}")
    else:
        print(f"removed {count} message(s) of {chosen.name}; what workers hold stays")
    return 0


def _progress(what: str, total: int) -> AbstractContextManager[Callable[[int], object]]:
    """A bar, if it takes a while."""
    return progress(what, total) if total >= MANY else nullcontext(lambda count: None)
