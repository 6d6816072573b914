"""The journal of a partition's park: every durable step of parking, one after the other.

Order of writes: body → index → (by the caller, through the mark) checkpoint. Steps are queued and applied in batches:
all bodies in one put, then one swap of the index with all steps applied in order. A stale swap means that somebody
else has sealed the index: the lease is lost and nothing more is written. An unknown swap is read again and our
own is recognised by its `write` id.

A key that left the index between a decision to append and its turn here is live again: its changes are handed back
(`revive`), in order; until then `diverted` keeps later ones from overtaking.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeAlias, assert_never

from tidemill.core import park
from tidemill.core.park import Index, State
from tidemill.engine.letters import letter_of, logged_of
from tidemill.engine.patience import Patience
from tidemill.engine.tasks import Tasks
from tidemill.errors import ClaimLost, Unavailable
from tidemill.model import Logged, Record, Swap
from tidemill.ports import DeadLetters, Store


@dataclass(frozen=True, slots=True)
class Admit:
    """A key goes by the park from here on: its failed head, and what waits behind it."""

    head: Logged
    behind: tuple[Logged, ...]
    state: State
    due: float
    attempts: int
    error: str
    done: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Append:
    """Changes of keys that go by the park."""

    changes: tuple[Logged, ...]
    done: Callable[[], None]
    revive: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Retried:
    """The head of a key failed again."""

    key: str
    state: State
    due: float
    attempts: int
    error: str
    done: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Worked:
    """The head of a key is done."""

    key: str
    order: int
    id: str
    size: int
    done: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Decided:
    """Somebody decided about a key: replay or drop."""

    key: str
    wish: str
    done: Callable[[], None]


Step: TypeAlias = Admit | Append | Retried | Worked | Decided


class Journal:
    """The park of one partition while we hold its lease."""

    def __init__(
        self,
        worker: str,
        partition: str,
        *,
        store: Store,
        letters: DeadLetters,
        patience: Patience,
        random: Random,
        tasks: Tasks,
        now: Callable[[], float],
        lost: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self.key: str = f"park/{worker}/{partition}"
        self.source: str = f"feed/{worker}/{partition}"
        self.index: Index = Index()
        self._version: str | None = None
        self._store = store
        self._letters = letters
        self._patience = patience
        self._random = random
        self._tasks = tasks
        self._now = now
        self._lost = lost
        self._changed = changed
        self._steps: list[Step] = []
        self._pending: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def idle(self) -> bool:
        return not self._steps and self._task is None

    @property
    def diverting(self) -> bool:
        """Whether any key goes by the park."""
        return bool(self.index.keys or self._pending)

    def diverts(self, key: str) -> bool:
        """Whether changes of this key go by the park."""
        return key in self.index.keys or self._pending[key] > 0

    async def seal(self, epoch: int) -> None:
        """Make the index ours: from here on every swap of the former owner is stale."""
        [record] = await self._patience.until_answered(lambda: self._store.get([self.key]))
        while True:
            index = park.from_value(record.value) if record else Index()
            if index.epoch > epoch:
                raise ClaimLost(f"{self.key} was sealed by a later owner")
            swapped = await self._swap(park.seal(index, epoch), record.version if record else None)
            if swapped is None:
                return
            record = swapped[0]

    def close(self) -> None:
        """Write nothing more."""
        self._closed = True
        self._steps.clear()

    def add(self, step: Step) -> None:
        """Queue a step; it takes effect soon, in order."""
        if self._closed:
            return
        for key in _keys(step):
            self._pending[key] += 1
        self._steps.append(step)
        if self._task is None:
            self._task = self._tasks.spawn(self._work())

    async def head(self, key: str) -> Logged | None:
        """The change that is next for a key; None when its body is gone."""
        parked = self.index.keys.get(key)
        if parked is None:
            return None
        found = await self._patience.until_answered(lambda: self._letters.page(self.source, parked.first - 1, 1, key))
        return logged_of(found[0]) if found else None

    async def _work(self) -> None:
        try:
            while self._steps and not self._closed:
                steps, self._steps = self._steps, []
                await self._apply(steps)
        except ClaimLost as error:
            if not self._closed:
                self.close()
                self._lost(str(error))
        finally:
            self._task = None
            self._changed()

    async def _apply(self, steps: Sequence[Step]) -> None:
        bodies = [
            letter_of(self.source, change, attempts=attempts, error=error, now=self._now())
            for change, attempts, error in _bodies(steps)
        ]
        if bodies:
            await self._patience.until_answered(lambda: self._letters.put(bodies))
        index = self.index
        after: list[Callable[[], None]] = []
        gone: list[str] = []
        for step in steps:
            index = await self._step(index, step, after, gone)
        if index is not self.index:
            stale = await self._swap(index, self._version)
            if stale is not None:
                raise ClaimLost(f"{self.key} was sealed by a later owner")
        if gone and not self._closed:
            await self._patience.until_answered(lambda: self._letters.drop(self.source, gone))
        for step in steps:
            self._pending.subtract(_keys(step))
        self._pending += Counter()  # forget keys that stand at nought
        if not self._closed:
            for call in after:
                call()

    async def _step(self, index: Index, step: Step, after: list[Callable[[], None]], gone: list[str]) -> Index:
        match step:
            case Admit(head, behind, state, due, attempts, error, done):
                index = park.admit(index, head, _size(head), state, due=due, attempts=attempts, error=error)
                after.append(done)
                return _appended(index, behind)
            case Append(changes, done, revive):
                if changes[0].key not in index.keys:
                    gone.extend(change.id for change in changes)
                    after.append(revive)
                    return index
                after.append(done)
                return _appended(index, changes)
            case Retried(key, state, due, attempts, error, done):
                after.append(done)
                if key not in index.keys:
                    return index  # it was dropped meanwhile
                return park.failed(index, key, state, due=due, attempts=attempts, error=error)
            case Worked(key, order, id, size, done):
                gone.append(id)
                after.append(done)
                if key not in index.keys:
                    return index  # it was dropped meanwhile
                following = await self._patience.until_answered(lambda: self._letters.page(self.source, order, 1, key))
                return park.worked(index, key, following[0].order if following else None, size)
            case Decided(key, wish, done):
                after.append(done)
                if key not in index.keys:
                    return index
                if wish == "replay":
                    return park.replay(index, key)
                gone.extend(await self._all_of(key))
                return park.drop(index, key)
            case _:
                assert_never(step)

    async def _all_of(self, key: str) -> list[str]:
        ids: list[str] = []
        after = -1
        while True:
            position = after
            found = await self._patience.until_answered(
                lambda: self._letters.page(self.source, position, 500, key)  # noqa: B023 - awaited at once
            )
            if not found:
                return ids
            ids.extend(letter.id for letter in found)
            after = found[-1].order

    async def _swap(self, index: Index, version: str | None) -> tuple[Record | None] | None:
        """None when the index stands; else what stands there instead."""
        write = f"{self._random.getrandbits(64):016x}"
        swap = Swap(self.key, version, park.to_value(index, write))
        unknown = False
        while True:
            try:
                [reply] = await self._patience.guarded(lambda: self._store.swap([swap]))
            except Unavailable:
                unknown = True
                await self._patience.pause()
                continue
            if isinstance(reply, Record):
                self.index, self._version = index, reply.version
                return None
            current = getattr(reply, "current", None)
            if unknown and isinstance(current, Record) and current.value.get("write") == write:
                self.index, self._version = index, current.version
                return None
            return (current,)


def _appended(index: Index, changes: Sequence[Logged]) -> Index:
    for change in changes:
        index = park.append(index, change, _size(change))
    return index


def _bodies(steps: Sequence[Step]) -> list[tuple[Logged, int, str]]:
    """Every change that the steps queue, with the attempts and the error to keep beside it."""
    found: list[tuple[Logged, int, str]] = []
    for step in steps:
        if isinstance(step, Admit):
            found.append((step.head, step.attempts, step.error))
            found += [(change, 0, "") for change in step.behind]
        elif isinstance(step, Append):
            found += [(change, 0, "") for change in step.changes]
    return found


def _keys(step: Step) -> list[str]:
    if isinstance(step, Admit):
        return [step.head.key]
    if isinstance(step, Append):
        return [step.changes[0].key]
    return [step.key]


def _size(change: Logged) -> int:
    return len(change.body or b"") + len(change.before or b"") + 200
