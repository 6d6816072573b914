"""The memory backend as a whole: store, dead letters, presence and the commit that spans all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

from tidemill.adapters.memory.documents import MemoryDocuments, MemoryFeed, write
from tidemill.adapters.memory.queue import MemoryQueue, claimed, enqueue, send, settle
from tidemill.adapters.memory.state import CollectionState, Held, PartitionLog, QueueState, State
from tidemill.errors import ConfigurationError
from tidemill.model import (
    FORMAT,
    CollectionSpec,
    Commit,
    CommitResult,
    Committed,
    Conflicted,
    DeadLetter,
    Fenced,
    Finished,
    Gone,
    Limits,
    Mismatch,
    QueueSpec,
    Record,
    Source,
    Stale,
    Stored,
    Swap,
    Swapped,
    TableSpec,
)
from tidemill.ports import Clock

FEATURES = frozenset(
    "store feed queue documents dead_letters commit presence delay dedup priority order deletes before".split()
)


class Memory:
    """Implements `tidemill.ports.Database` and shares its state with all who hold it."""

    def __init__(self, clock: Clock) -> None:
        self._state = State(clock)

    @property
    def features(self) -> frozenset[str]:
        return FEATURES

    @property
    def limits(self) -> Limits:
        return Limits()

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        for source in sources:
            if isinstance(source, TableSpec):
                raise ConfigurationError(
                    f"table {source.name!r}: memory: has no tables of others; use sqlite:///file.db"
                )
            self._open_collection(source)
        for spec in queues:
            self._state.queues.setdefault(spec.name, QueueState(spec))

    async def close(self) -> None:
        """Nothing to disconnect; the state lives as long as the object."""

    def store(self) -> MemoryStore:
        return MemoryStore(self._state)

    def feed(self, source: Source) -> MemoryFeed:
        return MemoryFeed(self._state, self._collection(source.name))

    def queue(self, queue: QueueSpec) -> MemoryQueue:
        found = self._state.queues.get(queue.name)
        if found is None:
            raise ConfigurationError(f"queue {queue.name!r} was not opened; it is not declared in this app")
        return MemoryQueue(self._state, found)

    def documents(self, source: Source) -> MemoryDocuments:
        return MemoryDocuments(self._state, self._collection(source.name))

    def dead_letters(self) -> MemoryDeadLetters:
        return MemoryDeadLetters(self._state)

    def presence(self) -> MemoryPresence:
        return MemoryPresence(self._state)

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        return [self._commit(one) for one in commits]

    def _open_collection(self, spec: CollectionSpec) -> None:
        known = self._state.collections.get(spec.name)
        if known is None:
            log = {f"{n:04d}": PartitionLog() for n in range(spec.partitions)}
            self._state.collections[spec.name] = CollectionState(spec, log=log)
        elif known.spec.partitions != spec.partitions:
            raise ConfigurationError(
                f"{spec.name!r}: partitions={spec.partitions}, but its data have {known.spec.partitions}; keep that number"
            )

    def _collection(self, name: str) -> CollectionState:
        found = self._state.collections.get(name)
        if found is None:
            raise ConfigurationError(f"collection {name!r} was not opened; it is not declared in this app")
        return found

    def _commit(self, commit: Commit) -> CommitResult:
        state = self._state
        if any(f"finished/{f.lease}/{f.change}" in state.records for f in commit.finished):
            return Committed(repeated=True)
        if not all(self._claimed(commit, n) for n in range(len(commit.outcomes))) or not all(
            map(self._leased, commit.finished)
        ):
            return Fenced()
        undo = Undo(state, commit)
        result = self._apply(commit)
        if isinstance(result, Conflicted):
            undo()
        return result

    def _apply(self, commit: Commit) -> Committed | Conflicted:
        state = self._state
        written: list[Stored | Gone] = []
        for one in commit.writes:
            reply = write(state, self._collection(one.collection), one)
            if isinstance(reply, Mismatch):
                return Conflicted(reply)
            written.append(reply)
        swapped: list[Record | Gone] = []
        for swap in commit.swaps:
            done = _swap(state, swap)
            if isinstance(done, Stale):
                return Conflicted(done)
            swapped.append(done)
        for finished in commit.finished:
            _swap(state, Swap(f"finished/{finished.lease}/{finished.change}", None, {"format": FORMAT}))
        sent = [send(state, state.queues[message.queue], message) for message in commit.messages]
        for outcome in commit.outcomes:
            settle(state, state.queues[outcome.delivery.queue], outcome)
        for bell in [q.bell for q in state.queues.values()] + [c.bell for c in state.collections.values()]:
            bell.ring()
        return Committed(tuple(written), tuple(sent), tuple(swapped))

    def _claimed(self, commit: Commit, n: int) -> bool:
        delivery = commit.outcomes[n].delivery
        return claimed(self._state.queues[delivery.queue], delivery)

    def _leased(self, finished: Finished) -> bool:
        record = self._state.records.get(finished.lease)
        return (
            record is not None
            and record.value.get("epoch") == finished.epoch
            and record.value.get("nonce") == finished.nonce
        )


class Undo:
    """Puts back what a commit could have touched, as it was."""

    def __init__(self, state: State, commit: Commit) -> None:
        self._state = state
        self._records = dict(state.records) if commit.swaps else None
        names = {one.collection for one in commit.writes}
        self._collections = {
            name: (dict(found.documents), {p: list(log.changes) for p, log in found.log.items()})
            for name in names
            if (found := state.collections.get(name)) is not None
        }

    def __call__(self) -> None:
        if self._records is not None:
            self._state.records = self._records
        for name, (documents, changes) in self._collections.items():
            collection = self._state.collections[name]
            collection.documents = documents
            for partition, kept in changes.items():
                collection.log[partition].changes = kept


class MemoryStore:
    """Implements `tidemill.ports.Store`."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        return [self._state.records.get(key) for key in keys]

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        keys = sorted(key for key in self._state.records if key.startswith(prefix) and key > after)
        return [self._state.records[key] for key in keys[:limit]]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        return [_swap(self._state, swap) for swap in swaps]


class MemoryDeadLetters:
    """Implements `tidemill.ports.DeadLetters`."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._state.letters.setdefault(letter.source, {}).setdefault(letter.id, letter)

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        found = [
            letter
            for letter in self._state.letters.get(source, {}).values()
            if letter.order > after and (key is None or letter.key == key)
        ]
        return sorted(found, key=lambda letter: letter.order)[:limit]

    async def count(self, prefix: str) -> Mapping[str, int]:
        return {
            source: len(letters)
            for source, letters in sorted(self._state.letters.items())
            if source.startswith(prefix) and letters
        }

    async def release(self, source: str, ids: Sequence[str]) -> int:
        queue = self._state.queues.get(source.removeprefix("queue/"))
        if queue is None or not source.startswith("queue/"):
            raise ConfigurationError(f"{source!r} cannot be released into a queue; only sources queue/… can")
        letters = self._state.letters.get(source, {})
        released = [letters.pop(id) for id in ids if id in letters]
        for letter in released:
            _revive(self._state, queue, letter)
        queue.bell.ring()
        return len(released)

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        letters = self._state.letters.get(source, {})
        return sum(letters.pop(id, None) is not None for id in ids)


class MemoryPresence:
    """Implements `tidemill.ports.Presence`. `vanish` is for tests: the process of a member has ended."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def hold(self, member: str) -> None:
        self._state.present.add(member)

    async def drop(self, member: str) -> None:
        self._state.present.discard(member)

    async def gone(self, members: Sequence[str]) -> Sequence[str]:
        return [member for member in members if member in self._state.ended]

    def vanish(self, member: str) -> None:
        self._state.present.discard(member)
        self._state.ended.add(member)


def _swap(state: State, swap: Swap) -> Swapped:
    current = state.records.get(swap.key)
    if (current.version if current else None) != swap.version:
        return Stale(swap.key, current)
    if swap.value is None:
        state.records.pop(swap.key, None)
        return Gone(swap.key)
    record = Record(swap.key, f"v{state.serial()}", copy(swap.value))
    state.records[swap.key] = record
    return record


def _revive(state: State, queue: QueueState, letter: DeadLetter) -> None:
    priority, sent_at, dedup = (letter.meta.get(name) for name in ("priority", "sent_at", "dedup"))
    held = Held(
        queue.spec.name,
        letter.id,
        letter.body or b"",
        letter.key,
        dict(letter.headers),
        priority if isinstance(priority, int) else 0,
        sent_at if isinstance(sent_at, float) else state.clock.now(),
        state.clock.now(),
        0,
        dedup if isinstance(dedup, str) else None,
    )
    queue.messages[letter.id] = held
    enqueue(state, queue, held)
