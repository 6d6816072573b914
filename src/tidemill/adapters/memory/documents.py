"""Documents and their feed in memory."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from tidemill.adapters.memory.state import CollectionState, PartitionLog, State, partition_of, wait_for
from tidemill.errors import ConfigurationError
from tidemill.model import (
    Expect,
    Expired,
    Filter,
    Gone,
    Lag,
    Logged,
    Mismatch,
    Moved,
    Page,
    Put,
    Query,
    Rows,
    Start,
    Stored,
    Write,
    Written,
)


class MemoryDocuments:
    """Implements `tidemill.ports.Documents`."""

    def __init__(self, state: State, collection: CollectionState) -> None:
        self._state = state
        self._collection = collection

    async def get(self, ids: Sequence[str]) -> Sequence[Stored | None]:
        return [self._collection.documents.get(id) for id in ids]

    async def write(self, writes: Sequence[Write]) -> Sequence[Written]:
        written = [write(self._state, self._collection, one) for one in writes]
        self._collection.bell.ring()
        return written

    async def query(self, query: Query) -> Rows:
        for name in [*(f.field for f in query.filters), *([query.order] if query.order else [])]:
            if name not in self._collection.spec.fields:
                raise ConfigurationError(
                    f"{self._collection.spec.name}: {name!r} is not declared; add it to fields=(…)"
                )
        rows = sorted(
            (_sort_key(document, query.order), document)
            for document in self._collection.documents.values()
            if (query.key is None or document.key == query.key) and all(_holds(f, document) for f in query.filters)
        )
        if query.descending:
            rows.reverse()
        if query.continuation is not None:
            after = json.loads(query.continuation)
            rows = [
                row for row in rows if (row[0] < _position(after)) == query.descending and row[0] != _position(after)
            ]
        page = rows[: query.limit]
        more = json.dumps(page[-1][0]) if len(rows) > query.limit else None
        return Rows(tuple(document for _, document in page), more)


class MemoryFeed:
    """Implements `tidemill.ports.Feed`. A cursor is the order of the last change that was read."""

    def __init__(self, state: State, collection: CollectionState) -> None:
        self._state = state
        self._collection = collection

    async def partitions(self) -> Sequence[str]:
        return sorted(self._collection.log)

    async def start(self, partition: str, at: Start) -> str:
        log = self._collection.log[partition]
        if at == "beginning":
            return str(log.trimmed)
        if at == "now":
            return str(self._state.serial())
        earlier = [change.order for change in log.changes if isinstance(at, float | int) and change.at < at]
        return str(max(earlier, default=log.trimmed))

    async def read(self, cursors: Mapping[str, str], limit: int, wait: float) -> Mapping[str, Page | Moved | Expired]:
        bell = self._collection.bell
        await wait_for(self._state.clock, lambda: bell.event, lambda: self._news(cursors), wait)
        return {name: self._page(self._collection.log[name], int(cursor), limit) for name, cursor in cursors.items()}

    async def lag(self, cursors: Mapping[str, str]) -> Mapping[str, Lag]:
        now = self._state.clock.now()
        found = {name: _after(self._collection.log[name], int(cursor)) for name, cursor in cursors.items()}
        return {name: Lag(len(rest), now - rest[0].at if rest else 0.0) for name, rest in found.items()}

    async def trim(self, before: Mapping[str, str], retention: float) -> int:
        oldest = self._state.clock.now() - retention
        return sum(_trim(log, int(before.get(name, "0")), oldest) for name, log in self._collection.log.items())

    def _news(self, cursors: Mapping[str, str]) -> bool:
        for name, cursor in cursors.items():
            log = self._collection.log[name]
            if int(cursor) < log.trimmed or (log.changes and log.changes[-1].order > int(cursor)):
                return True
        return False

    def _page(self, log: PartitionLog, cursor: int, limit: int) -> Page | Expired:
        if cursor < log.trimmed:
            return Expired(str(log.trimmed))
        rest = _after(log, cursor)
        page = tuple(rest[:limit])
        return Page(page, str(page[-1].order if page else cursor), len(rest) > limit)


def write(state: State, collection: CollectionState, one: Write) -> Written:
    """One write and its change."""
    before = collection.documents.get(one.id)
    if not expected(one.expect, before):
        return Mismatch(one.id, before)
    if isinstance(one, Put):
        stored = Stored(one.id, one.key, f"e{state.serial()}", one.body)
        collection.documents[one.id] = stored
        _log(state, collection, one.key, one.id, one.body, before)
        return stored
    if before is not None:
        del collection.documents[one.id]
        _log(state, collection, before.key, one.id, None, before)
    return Gone(one.id)


def expected(expect: Expect | str, found: Stored | None) -> bool:
    """Whether a write meets what it expects to find."""
    if expect is Expect.ANYTHING:
        return True
    if expect is Expect.NOTHING:
        return found is None
    return found is not None and found.etag == expect


def _log(
    state: State, collection: CollectionState, key: str, document: str, body: bytes | None, before: Stored | None
) -> None:
    partition = partition_of(key, collection.spec.partitions)
    order = state.serial()
    old = before.body if before is not None and collection.spec.before else None
    change = Logged(
        str(order),
        partition,
        order,
        str(order),
        "delete" if body is None else "put",
        document,
        key,
        body,
        old,
        state.clock.now(),
    )
    collection.log[partition].changes.append(change)


def _after(log: PartitionLog, cursor: int) -> list[Logged]:
    return log.changes[bisect_right(log.changes, cursor, key=lambda change: change.order) :]


def _trim(log: PartitionLog, upto: int, oldest: float) -> int:
    """Remove the head of a log: what lies up to a cursor, and what is too old."""
    removed = 0
    for change in log.changes:
        if change.order > upto:
            if change.at >= oldest:
                break
            log.trimmed = change.order
        removed += 1
    del log.changes[:removed]
    return removed


def _field(document: Stored, name: str) -> object:
    found = json.loads(document.body)
    return found.get(name) if isinstance(found, dict) else None


def _holds(condition: Filter, document: Stored) -> bool:
    """Whether a document meets a filter. A value of another type meets none: text, number and truth do not compare."""
    found, wanted = _field(document, condition.field), condition.value
    if condition.op == "=":
        return found == wanted and isinstance(found, bool) == isinstance(wanted, bool)
    if isinstance(found, str) and isinstance(wanted, str):
        return _compares(condition.op, found < wanted, found == wanted)
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return _compares(condition.op, found < wanted, found == wanted)
    return False


def _compares(op: str, less: bool, equal: bool) -> bool:
    return {"<": less, "<=": less or equal, ">": not less and not equal, ">=": not less}[op]


def _sort_key(document: Stored, order: str | None) -> tuple[int, str | float, str]:
    """Null first, then numbers, then text; the id decides among equals."""
    if order is None:
        return (2, document.id, "")
    value = _field(document, order)
    if value is None:
        return (0, 0.0, document.id)
    if isinstance(value, int | float):
        return (1, float(value), document.id)
    return (2, str(value), document.id)


def _position(after: Sequence[object]) -> tuple[int, str | float, str]:
    rank, value, id = after
    assert isinstance(rank, int)
    assert isinstance(value, str | float | int)
    return (rank, value if isinstance(value, str) else float(value), str(id))
