"""The memory backend as a whole."""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.adapters.memory.commit import check_names, commit_one
from tidemill.adapters.memory.documents import MemoryDocuments, MemoryFeed
from tidemill.adapters.memory.letters import MemoryDeadLetters
from tidemill.adapters.memory.queue import MemoryQueue
from tidemill.adapters.memory.state import CollectionState, PartitionLog, QueueState, State
from tidemill.adapters.memory.store import MemoryPresence, MemoryStore
from tidemill.errors import ConfigurationError
from tidemill.model import CollectionSpec, Commit, CommitResult, Limits, QueueSpec, Source, TableSpec
from tidemill.ports import Clock

PARTS = ("store", "feed", "queue", "documents", "dead_letters", "commit", "presence")
ABILITIES = ("delay", "dedup", "unique", "priority", "order", "peek", "purge", "deletes", "before", "versions", "trim")


class Memory:
    """Implements `tidemill.ports.Database` and shares its state with all who hold it."""

    def __init__(self, clock: Clock) -> None:
        self._state = State(clock)

    @property
    def features(self) -> frozenset[str]:
        return frozenset(PARTS + ABILITIES)

    @property
    def limits(self) -> Limits:
        return Limits()

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        for source in sources:
            if isinstance(source, TableSpec):
                raise ConfigurationError(
                    f"table {source.name!r}: memory: has no tables of others; use sqlite:///file.db"
                )
            if isinstance(source, CollectionSpec):
                self._open_collection(source)
        for spec in queues:
            self._state.queues.setdefault(spec.name, QueueState(spec)).spec = spec

    async def close(self) -> None:
        """Nothing to disconnect; the state lives as long as the object."""

    def store(self) -> MemoryStore:
        return MemoryStore(self._state)

    def feed(self, source: Source) -> MemoryFeed:
        return MemoryFeed(self._state, self._state.collection(source.name))

    def queue(self, queue: QueueSpec) -> MemoryQueue:
        return MemoryQueue(self._state, self._state.queue(queue.name))

    def documents(self, source: Source) -> MemoryDocuments:
        return MemoryDocuments(self._state, self._state.collection(source.name))

    def dead_letters(self) -> MemoryDeadLetters:
        return MemoryDeadLetters(self._state)

    def presence(self) -> MemoryPresence:
        return MemoryPresence(self._state)

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        for commit in commits:
            check_names(self._state, commit)
        return [commit_one(self._state, commit) for commit in commits]

    def _open_collection(self, spec: CollectionSpec) -> None:
        known = self._state.collections.get(spec.name)
        if known is None:
            log = {f"{n:04d}": PartitionLog() for n in range(spec.partitions)}
            self._state.collections[spec.name] = CollectionState(spec, log=log)
            return
        if known.spec.partitions != spec.partitions:
            raise ConfigurationError(
                f"{spec.name!r}: partitions={spec.partitions}, but its data have {known.spec.partitions};"
                " keep that number"
            )
        known.spec = spec
