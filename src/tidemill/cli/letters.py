"""`dead-letter ls | show | replay | drop`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import SystemRandom
from typing import TypeVar

from tidemill import operations
from tidemill.app.worker import Declared
from tidemill.cli.asked import agreed, moment
from tidemill.cli.opened import with_places
from tidemill.cli.progress import progress, watched
from tidemill.cli.show import instant, print_json, table
from tidemill.engine.clock import SystemClock
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError
from tidemill.model import DeadLetter
from tidemill.operations import Acted, Manner, Pace, Selection

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which app, with which settings, and which of its dead letters."""

    target: str | None
    options: Mapping[str, object]
    source: str = ""
    key: str | None = None
    ids: Sequence[str] = ()
    since: str | None = None
    until: str | None = None
    reason: str = ""

    def selection(self) -> Selection:
        if self.source and self.source.partition("/")[0] not in ("queue", "feed"):
            raise ConfigurationError(f"--source {self.source}: write queue/NAME, feed/WORKER or feed/WORKER/PARTITION")
        now = SystemClock().now()
        return Selection(
            self.source,
            self.key,
            tuple(self.ids),
            None if self.since is None else moment(self.since, "--since", now),
            None if self.until is None else moment(self.until, "--until", now),
            self.reason,
        )


def list_letters(chosen: Chosen, limit: int, *, as_json: bool) -> int:
    """Print the letters; one line each."""
    found = _read(chosen, limit + 1)
    if as_json:
        print_json(found[:limit])
        return 0
    rows = [(one.source, one.id, one.key, one.attempts, instant(one.at), one.reason) for one in found[:limit]]
    table("dead letters", ["source", "id", "key", "attempts", "since", "reason"], rows)
    if len(found) > limit:
        print(f"and more: --limit {limit} reached")
    return 0


def show_letter(chosen: Chosen, *, as_json: bool) -> int:
    """Print all of one letter, or of those that share its id; 1 if there is none."""
    found = _read(chosen, None)
    if not found:
        sys.stderr.write(f"tidemill: there is no dead letter {chosen.ids[0]!r}\n")
        return 1
    if as_json:
        print_json(found)
        return 0
    for letter in found:
        _print(letter)
    return 0


def replay_letters(chosen: Chosen, *, every: bool, dry_run: bool, limit: int | None, rate: float | None) -> int:
    """Try them again, at most so many, and so many a second."""
    selection = _narrow(chosen, every)
    if rate is not None and not 0 < rate < float("inf"):
        raise ConfigurationError(f"--rate {rate:g}: write how many a second, more than 0")

    async def work(declared: Declared, places: Places) -> Acted:
        plan = Acted()
        if dry_run or watched():
            plan = await operations.replay(
                places, selection, random=SystemRandom(), manner=Manner(limit=limit, dry_run=True)
            )
        if dry_run:
            return plan
        pace = None if rate is None else Pace(SystemClock(), rate)
        with progress("replay", plan.letters + plan.keys) as told:
            manner = Manner(limit=limit, pace=pace, told=told)
            return await operations.replay(places, selection, random=SystemRandom(), manner=manner)

    return _tell(with_places(chosen.target, chosen.options, work), "replay", dry_run)


def drop_letters(chosen: Chosen, *, every: bool, dry_run: bool, yes: bool, limit: int | None) -> int:
    """Forget them, after a question if somebody is there to answer."""
    selection = _narrow(chosen, every)

    async def work(declared: Declared, places: Places) -> Acted:
        count = Manner(limit=limit, dry_run=True)
        plan = await operations.drop(places, selection, random=SystemRandom(), manner=count)
        if dry_run or not (plan.letters or plan.keys):
            return plan
        if not yes and not agreed(f"Drop {_count(plan)} for good?"):
            raise ConfigurationError("nothing was dropped: add --yes")
        with progress("drop", plan.letters + plan.keys) as told:
            manner = Manner(limit=limit, told=told)
            return await operations.drop(places, selection, random=SystemRandom(), manner=manner)

    return _tell(with_places(chosen.target, chosen.options, work), "drop", dry_run)


def _read(chosen: Chosen, limit: int | None) -> list[DeadLetter]:
    selection = chosen.selection()

    async def work(declared: Declared, places: Places) -> list[DeadLetter]:
        return [letter async for letter in operations.letters(places, selection, limit=limit)]

    return with_places(chosen.target, chosen.options, work)


def _narrow(chosen: Chosen, every: bool) -> Selection:
    selection = chosen.selection()
    if selection == Selection() and not every:
        raise ConfigurationError(
            "which ones? Give --source, --key or --id, or another filter, or --all for all of them"
        )
    return selection


def _tell(acted: Acted, wish: str, dry_run: bool) -> int:
    """Say what was done; 1 if something was asked for that cannot be."""
    for line in acted.refused:
        sys.stderr.write(f"tidemill: {line}\n")
    if dry_run:
        print(f"would {wish} {_count(acted)}")
    elif not (acted.letters or acted.keys):
        print("there was nothing to do")
    else:
        done = {"replay": "went back to their queues", "drop": "were dropped"}[wish]
        parts = [f"{acted.letters} letter(s) {done}"] if acted.letters else []
        parts += [f"{acted.keys} key(s): the owners of their partitions will {wish} them"] if acted.keys else []
        print("; ".join(parts))
    return 1 if acted.refused else 0


def _count(acted: Acted) -> str:
    return f"{acted.letters} letter(s) and {acted.keys} parked key(s)"


def _print(letter: DeadLetter) -> None:
    fields = [("source", letter.source), ("id", letter.id), ("key", letter.key), ("attempts", letter.attempts),
              ("since", instant(letter.at)), ("reason", letter.reason), *letter.headers.items()]  # fmt: skip
    for name, value in fields:
        print(f"{name + ':':<10} {'' if value is None else value}".rstrip())
    if letter.error and letter.error != letter.reason:
        print("error:\n  " + letter.error.rstrip().replace("\n", "\n  "))
    print("body:\n  " + _body(letter.body).replace("\n", "\n  ") + "\n")


def _body(body: bytes | None) -> str:
    if body is None:
        return "none"
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return repr(body)
