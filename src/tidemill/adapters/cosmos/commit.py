"""Several documents in one step, by a transactional batch: all of them in one collection and under one key.

That is all that Cosmos DB does in one step. Leases and finished rows are in another container, queues elsewhere: a
commit that has those, or writes of several collections or keys, is refused before anything is written.

A batch deletes nothing that is not there, so what is to be deleted whatever it is is looked for first; if it vanishes
between, the batch is built anew. If an answer was lost (`wire`), the batch was applied if one of its items bears its
word, for it is applied as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from azure.cosmos.exceptions import CosmosBatchOperationError

from tidemill.adapters.azure.several import each
from tidemill.adapters.cosmos.containers import Containers
from tidemill.adapters.cosmos.documents import CosmosDocuments
from tidemill.adapters.cosmos.faults import status
from tidemill.adapters.cosmos.items import BODY, Item, partition_key, same_write, signed, to_item
from tidemill.adapters.cosmos.wire import watched
from tidemill.errors import BadOption, ConfigurationError, TooLarge, Unavailable
from tidemill.model import Commit, CommitResult, Committed, Conflicted, Delete, Expect, Gone, Mismatch, Put, Stored
from tidemill.model import Write as DocumentWrite

MOST = 100
"""Writes of a batch."""
TRIES = 3
REFUSED = (404, 409, 412)


@dataclass(frozen=True, slots=True)
class _Step:
    """One operation of a batch; `at`: the place of its write in the commit; `item`: what is written, None: a delete."""

    at: int
    operation: tuple[Any, ...]
    item: dict[str, Any] | None


async def commit(
    containers: Containers, shown: str, documents: Callable[[str], CosmosDocuments], commits: Sequence[Commit]
) -> Sequence[CommitResult]:
    """See `tidemill.ports.Database.commit`, for what this module is there for. Raises `ConfigurationError` for parts
    that cannot be in a commit here, `BadOption` for several keys, `TooLarge`; nothing was written then."""
    for one in commits:
        _check(one, shown)
    places = [_Place(documents(one.writes[0].collection), one.writes) if one.writes else None for one in commits]

    async def run(place: _Place | None) -> CommitResult:
        return await place.commit() if place else Committed()

    async with containers.told():
        for place in places:
            if place is not None:
                await place.look()
        return await each(run, places)


def _check(commit: Commit, shown: str) -> None:
    """Whether it is one that can be done in one step, as far as it tells itself."""
    parts = {"messages": commit.messages, "outcomes": commit.outcomes, "swaps": commit.swaps,
             "finished changes": commit.finished}  # fmt: skip
    others = " and ".join(name for name, found in parts.items() if found)
    if others:
        raise ConfigurationError(
            f"{shown}: a commit in Cosmos DB has writes of documents only, not {others}: these lie in another container"
        )
    names = sorted({write.collection for write in commit.writes})
    keys = sorted({write.key for write in commit.writes if write.key is not None})
    for what, found in (("collections", names), ("keys", keys)):
        if len(found) > 1:
            told = " and ".join(repr(one) for one in found[:2])
            raise BadOption(
                f"{shown}: a commit in Cosmos DB lies under one key of one collection, not the {what} {told}"
            )
    if len(commit.writes) > MOST:
        raise BadOption(f"{shown}: a commit of {len(commit.writes)} writes: Cosmos DB takes {MOST} in one step")
    if sum(len(write.body) for write in commit.writes if isinstance(write, Put)) > BODY:
        raise TooLarge(f"{shown}: the documents of a commit are larger than Cosmos DB takes in one step (2 MB)")


class _Place:
    """The writes of one commit, and the documents they are for."""

    def __init__(self, documents: CosmosDocuments, writes: Sequence[DocumentWrite]) -> None:
        self._documents = documents
        self._writes = writes
        self._paths = documents.container.paths
        self._items = [signed(to_item(w, self._paths)) if isinstance(w, Put) else None for w in writes]
        self._found: Mapping[str, Item] = {}
        self._key: Any = None

    async def look(self) -> None:
        """What stands there of the documents that are deleted, or might stand under another key; and which key it is.
        Raises `BadOption` where it is not one."""
        away = {w.id: w.key for w in self._writes if isinstance(w, Delete) or w.key != w.id}
        self._found = await self._documents.find(away)
        keys = [partition_key(item, self._paths) for item in (*self._items, *self._found.values()) if item is not None]
        for key in keys[1:]:
            if key != keys[0]:
                raise BadOption(
                    f"collection {self._writes[0].collection!r}: a commit in Cosmos DB lies under one key, and its"
                    f" documents stand under {keys[0]!r} and {key!r}"
                )
        first = self._writes[0]  # deletes of what is not there, as far as we can read: the service judges where it was
        self._key = keys[0] if keys else first.key or first.id

    async def commit(self) -> CommitResult:
        for _ in range(TRIES):
            steps = self._steps()
            if isinstance(steps, Conflicted):
                return steps
            result = await self._send(steps)
            if result is not None:
                self._documents.wake()
                return result
            await self.look()
        raise Unavailable(f"collection {self._writes[0].collection!r}: what is to be deleted comes and goes")

    def _steps(self) -> list[_Step] | Conflicted:
        """The operations. A delete of what is not there is none, unless it expects an etag: the service judges."""
        there = set(self._found)
        steps: list[_Step] = []
        for n, (write, item) in enumerate(zip(self._writes, self._items, strict=True)):
            if item is not None:
                steps.append(_Step(n, _put(write, item), item))
                there.add(write.id)
            elif write.expect is Expect.NOTHING and write.id in there:
                current = self._found.get(write.id)
                return Conflicted(Mismatch(write.id, self._documents.stored(current) if current else None))
            elif write.id in there or isinstance(write.expect, str):
                steps.append(_Step(n, ("delete", (write.id,), _guard(write)), None))
                there.discard(write.id)
        return steps

    async def _send(self, steps: Sequence[_Step]) -> CommitResult | None:
        """The result, or None: something vanished that is to be deleted whatever it is, look again."""
        if not steps:
            return Committed(tuple(Gone(write.id) for write in self._writes))
        with watched() as sent:
            try:
                proxy = self._documents.container.proxy
                replies = await proxy.execute_item_batch([step.operation for step in steps], self._key)
                bodies = {step.at: one.get("resourceBody") for step, one in zip(steps, replies, strict=True)}
                items = {at: body for at, body in bodies.items() if body}
                self._documents.container.wrote(next(iter(items.values()), {}), replies.get_response_headers())
                return self._committed(items)
            except CosmosBatchOperationError as error:
                if status(error) not in REFUSED:
                    raise
                failed = steps[error.error_index]
        if sent.lost:
            return await self._own(steps)
        write = self._writes[failed.at]
        if isinstance(write, Delete) and write.expect is Expect.ANYTHING:
            return None
        now = await self._documents.read(write.id, self._key)
        return Conflicted(Mismatch(write.id, None if now is None else self._documents.stored(now)))

    async def _own(self, steps: Sequence[_Step]) -> CommitResult:
        """An answer was lost, and the batch was refused when it was sent again: by itself?"""
        last = {self._writes[step.at].id: step.item for step in steps}
        puts = {id: item for id, item in last.items() if item is not None}
        found = {id: await self._documents.read(id, self._key) for id in puts}
        there = {id: now for id, now in found.items() if now is not None and same_write(puts[id], now)}
        if puts and len(there) == len(puts):
            ids = {step.at: self._writes[step.at].id for step in steps if step.item is not None}
            return self._committed({at: there[id] for at, id in ids.items() if id in there})
        raise Unavailable(
            f"collection {self._writes[0].collection!r}: an answer was lost; whether the commit took effect is unknown"
        )

    def _committed(self, items: Mapping[int, Item]) -> Committed:
        written: list[Stored | Gone] = [
            self._documents.stored(items[n]) if n in items else Gone(write.id) for n, write in enumerate(self._writes)
        ]
        return Committed(tuple(written))


def _put(write: DocumentWrite, item: dict[str, Any]) -> tuple[Any, ...]:
    match write.expect:
        case Expect.NOTHING:
            return ("create", (item,))
        case Expect.ANYTHING:
            return ("upsert", (item,))
    return ("replace", (write.id, item), _guard(write))


def _guard(write: DocumentWrite) -> dict[str, str]:
    return {"if_match_etag": write.expect} if isinstance(write.expect, str) else {}
