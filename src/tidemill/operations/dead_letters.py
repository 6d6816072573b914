"""Dead letters and parked keys: which there are, try them again, forget them.

Doing never touches what somebody holds: dead messages go back to their queue in one step of the backend; for parked
keys a *control* is written, and the owner of the partition, who alone writes its park, acts on it within a second or
two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Literal, TypeAlias

from tidemill.engine.controls import FEED
from tidemill.engine.places import Places
from tidemill.model import DeadLetter
from tidemill.operations.records import PAGE, sources
from tidemill.operations.wishes import wish as write
from tidemill.ports import Clock, DeadLetters, Store

Wish: TypeAlias = Literal["replay", "drop"]

SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters: of a source (`queue/invoices`, `feed/bill` with all its partitions, or one of them), of a
    key, by id, from a time on and before another (seconds since the epoch), with a text in their reason or error
    (in any case). Nothing given: all."""

    source: str = ""
    key: str | None = None
    ids: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    reason: str = ""

    def covers(self, source: str) -> bool:
        return not self.source or source == self.source or source.startswith(self.source.rstrip("/") + "/")

    def takes(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and (self.key is None or letter.key == self.key)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
            and self.reason.casefold() in f"{letter.reason}\n{letter.error}".casefold()
        )


@dataclass(frozen=True, slots=True)
class Acted:
    """What was done: messages released or dropped, keys of feeds for which a wish was written, and one line for each
    thing that was not done."""

    letters: int = 0
    keys: int = 0
    refused: tuple[str, ...] = ()


class Pace:
    """At most `rate` letters a second, so that a replay does not flood who works them."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self.chunk: int = max(1, min(PAGE, int(rate / 4)))
        self._clock = clock
        self._rate = rate
        self._next = clock.monotonic()

    async def wait(self, letters: int) -> None:
        """Until so many may go."""
        await self._clock.sleep(max(0.0, self._next - self._clock.monotonic()))
        self._next = max(self._next, self._clock.monotonic()) + letters / self._rate


@dataclass(frozen=True, slots=True)
class Manner:
    """How to act: at most `limit` messages and keys; only count (`dry_run`); in a `pace`; `told` of each done."""

    limit: int | None = None
    dry_run: bool = False
    pace: Pace | None = None
    told: Callable[[int], object] = lambda _: None


async def letters(places: Places, selection: Selection, *, limit: int | None = None) -> AsyncIterator[DeadLetter]:
    """The dead letters selected, by source and order; at most `limit`."""
    left = limit
    async for page, _ in _pages(places, selection):
        for letter in page:
            if left == 0:
                return
            yield letter
            left = None if left is None else left - 1


async def replay(
    places: Places, selection: Selection, *, random: Random, dry_run: bool = False, manner: Manner | None = None
) -> Acted:
    """Try them again: messages go back to their queue with attempt 0; keys of feeds are worked off from their head, in
    order, before later changes of the key. One letter of a key means the whole key.

    What dies again meanwhile is not replayed a second time."""
    return await _act(places, selection, "replay", random, manner or Manner(dry_run=dry_run))


async def drop(
    places: Places, selection: Selection, *, random: Random, dry_run: bool = False, manner: Manner | None = None
) -> Acted:
    """Forget them for good; for a feed the whole key, whose later changes then go on."""
    return await _act(places, selection, "drop", random, manner or Manner(dry_run=dry_run))


async def _act(places: Places, selection: Selection, wish: Wish, random: Random, manner: Manner) -> Acted:
    done, refused = 0, []
    keys: Counter[tuple[str, str]] = Counter()
    seen: set[tuple[str, str]] = set()
    async for page, home in _pages(places, selection):
        room = PAGE if manner.limit is None else manner.limit - done - len(keys)
        if not room:
            break
        source = page[0].source
        kind, _, rest = source.partition("/")
        ids = [letter.id for letter in page if (source, letter.id) not in seen]
        if kind == "feed" and not source.endswith("/" + SKIPPED):
            for letter in page:
                key = (rest, letter.key or "")
                if key in keys or manner.limit is None or done + len(keys) < manner.limit:
                    keys[key] += 1
        elif kind == "feed" and wish == "replay":
            refused += [f"{source} {id}: it was skipped and its order given up; it can only be dropped" for id in ids]
        elif manner.dry_run:
            done += len(ids[:room])
        else:
            seen |= {(source, id) for id in ids[:room]}
            done += await _settle(home, source, ids[:room], wish, manner)
    if not manner.dry_run:
        for (partition, key_text), count in sorted(keys.items()):
            await _wish(places.shared_store(), partition, key_text, wish, random, manner, count)
    return Acted(done, len(keys), tuple(refused))


async def _settle(home: DeadLetters, source: str, ids: Sequence[str], wish: Wish, manner: Manner) -> int:
    """Release or drop these, as many at once as the pace allows; how many there were."""
    chunk, done = manner.pace.chunk if manner.pace else PAGE, 0
    for at in range(0, len(ids), chunk):
        some = ids[at : at + chunk]
        if manner.pace is not None:
            await manner.pace.wait(len(some))
        done += await (home.release(source, some) if wish == "replay" else home.drop(source, some))
        manner.told(len(some))
    return done


async def _wish(store: Store, partition: str, key: str, wish: Wish, random: Random, manner: Manner, count: int) -> None:
    """Write a control for the owner of the partition."""
    if manner.pace is not None:
        await manner.pace.wait(count)
    where = f"{FEED}{partition}/{sha256(key.encode()).hexdigest()[:32]}"
    await write(store, where, {"wish": wish, "key": key}, random)
    manner.told(1)


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
