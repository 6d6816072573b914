"""Dead letters and parked keys: which there are, try them again, forget them.

Doing never touches what somebody holds: dead messages go back to their queue in one step of the backend; for parked
keys a *control* is written, and the owner of the partition, who alone writes its park, acts on it within a second or
two.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal, TypeAlias

from tidemill.engine.controls import FEED
from tidemill.engine.places import Places
from tidemill.model import DeadLetter
from tidemill.operations.records import PAGE, sources
from tidemill.operations.wishes import wish as write
from tidemill.ports import DeadLetters

Wish: TypeAlias = Literal["replay", "drop"]

SKIPPED = "skipped"


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
            where = f"{FEED}{partition}/{sha256(key.encode()).hexdigest()[:32]}"
            await write(places.shared_store(), where, random, wish=wish, key=key)
    return Acted(done, len(keys), tuple(refused))


async def _pages(places: Places, selection: Selection) -> AsyncIterator[tuple[Sequence[DeadLetter], DeadLetters]]:
    """Pages of selected letters of one source each, and where they are kept. Acting on a page is safe: the next one
    starts behind its last order."""
    for source, _, home in await sources(places):
        if not selection.covers(source):
            continue
        after = -1
        while page := await home.page(source, after, PAGE, selection.key):
            after = page[-1].order
            if taken := [letter for letter in page if selection.takes(letter)]:
                yield taken, home
