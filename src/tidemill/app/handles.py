"""Typed handles: what user code holds of a queue or a collection. They keep the declaration and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import date
from functools import cached_property
from inspect import isawaitable
from typing import Any, Generic, TypeVar
from uuid import UUID, uuid4

from tidemill.app.client import default_id, running
from tidemill.app.foreign import run_on
from tidemill.app.values import Document, Page
from tidemill.core.codec import Codec
from tidemill.core.duration import Duration, seconds
from tidemill.errors import BadOption, Conflict, Unfit
from tidemill.model import (
    CollectionSpec,
    Commit,
    Delete,
    Expect,
    Filter,
    Message,
    Mismatch,
    Put,
    Query,
    QueueSpec,
    Stored,
    TableSpec,
    Write,
)

T = TypeVar("T")
Scalar = str | int | float | bool | None
Where = Mapping[str, Scalar]

PRIORITIES = range(-1_000, 1_001)
"""The priorities there are; higher ones go first, 0 unless said."""


class Queue(Generic[T]):
    """A queue of messages of one type. Made by `App.queue`."""

    def __init__(self, spec: QueueSpec, type_: Any) -> None:
        self.spec = spec
        self.name: str = spec.name
        self.type = type_

    @cached_property
    def codec(self) -> Codec[T]:
        return Codec(self.type)

    async def send(
        self,
        value: T,
        *,
        delay: Duration = 0.0,
        priority: int = 0,
        dedup: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Any = None,
    ) -> str:
        """Send one message; durable when it returns. Its id, or the first one's if `dedup` was seen before.

        `delay` before it is due; a higher `priority` goes first (-1,000 to 1,000); `dedup` is unique while the message
        lives and for the queue's window after; `key` goes along, and dead letters can be selected by it. Raises `Unfit`
        for a value that is not of the queue's type, `BadOption` for an option out of its range, `TooLarge` for a body
        that the backend does not take, `QueueFull` above the queue's `limit`.

        `connection`: one of your own (asyncpg, psycopg, SQLAlchemy, sqlite3) to the queue's database; the message is
        part of the transaction that you have open on it, and of nothing if you roll back.
        """
        ids = await self.send_many(
            [value], delay=delay, priority=priority, dedup=dedup, key=key, headers=headers, connection=connection
        )
        return ids[0]

    async def send_many(
        self,
        values: Sequence[T],
        *,
        delay: Duration = 0.0,
        priority: int = 0,
        dedup: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
        connection: Any = None,
    ) -> Sequence[str]:
        """Send messages in one call; much faster than one by one. `dedup` is a prefix here when there are many.

        Raises what `send` raises, and has sent none of them then.
        """
        many = len(values) > 1
        messages = [
            self.message(
                value,
                id=uuid4().hex,
                delay=delay,
                priority=priority,
                dedup=default_id() if dedup is None else f"{dedup}/{n}" if many and dedup else dedup,
                key=key,
                headers=headers,
            )
            for n, value in enumerate(values)
        ]
        if connection is not None:
            running().client.check(self.name, messages)
            await run_on(connection, running().client.statements(Commit(messages=tuple(messages))))
            return [message.id for message in messages]
        return await running().client.send(self.name, messages) if messages else []

    def message(
        self,
        value: T,
        *,
        id: str,
        delay: Duration = 0.0,
        priority: int = 0,
        dedup: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """The message as it is sent, without sending it. Raises `Unfit` and `BadOption` as `send` does."""
        if dedup == "" or key == "":
            raise BadOption(f"queue {self.name!r}: {'dedup' if dedup == '' else 'key'}='' names nothing; leave it out")
        if not _is_priority(priority):
            raise BadOption(f"queue {self.name!r}: priority={priority!r} must be a whole number from -1000 to 1000")
        return Message(
            self.name,
            id,
            self.codec.encode(value),
            self._key(value, key),
            _headers(self.name, headers) if headers else {},
            priority,
            self._delay(delay),
            dedup,
        )

    def _delay(self, delay: Duration) -> float:
        try:
            return seconds(delay)
        except (ValueError, TypeError) as error:
            raise BadOption(f"queue {self.name!r}: delay: {error}") from None

    def _key(self, value: T, given: str | None) -> str | None:
        """The key of a message: as given, or by the field that the queue was declared with."""
        field = self.spec.key
        if field is None:
            return given
        if given is not None:
            raise BadOption(f"queue {self.name!r}: key={given!r}: the queue takes its keys from the field {field!r}")
        return _field(value, field)


class Collection(Generic[T]):
    """Documents of one type, and the feed of their changes. Made by `App.collection`.

    `id` and `key` name fields of the type; the id names a document, the key decides order and partition.
    """

    def __init__(self, spec: CollectionSpec, type_: Any, id: str, key: str) -> None:
        self.spec = spec
        self.name: str = spec.name
        self.type = type_
        self.id = id
        self.key = key

    @cached_property
    def codec(self) -> Codec[T]:
        return Codec(self.type)

    async def get(self, id: str) -> Document[T] | None:
        """The document, None if there is none."""
        [stored] = await running().client.get(self.name, [str(id)])
        return None if stored is None else self._document(stored)

    async def create(self, value: T, *, connection: Any = None) -> Document[T]:
        """Store a new document. Raises `Conflict` if there is one with this id. `connection`: see `put`."""
        return await self._put(value, Expect.NOTHING, connection)

    async def put(self, value: T, *, connection: Any = None) -> Document[T]:
        """Store a document, whatever was there before.

        `connection`: one of your own (asyncpg, psycopg, SQLAlchemy, sqlite3) to the collection's database; the write is
        part of the transaction that you have open on it. The document that is returned has no etag then.
        """
        return await self._put(value, Expect.ANYTHING, connection)

    async def put_many(self, values: Sequence[T]) -> Sequence[Document[T]]:
        """Store documents in one call, each by itself; much faster than one by one."""
        writes = [self._write(value, Expect.ANYTHING) for value in values]
        written = await running().client.write(self.name, writes)
        return [Document(w.id, w.key, w.etag, v) for w, v in zip(written, values, strict=True) if type(w) is Stored]

    async def replace(self, value: T, etag: str, *, connection: Any = None) -> Document[T]:
        """Store a document if its etag is still this one. Raises `Conflict` if it is not. `connection`: see `put`."""
        return await self._put(value, etag, connection)

    async def delete(self, id: str, *, etag: str | None = None) -> None:
        """Delete a document; none to delete is no error unless an `etag` is given. Raises `Conflict`."""
        write = Delete(self.name, str(id), expect=etag or Expect.ANYTHING)
        [written] = await running().client.write(self.name, [write])
        if isinstance(written, Mismatch):
            raise Conflict(f"{self.name} {id}: changed since it was read")

    async def update(
        self, id: str, change: Callable[[T | None], T | Awaitable[T | None] | None], *, tries: int = 20
    ) -> Document[T] | None:
        """Read, change, write back; again from the start if somebody was faster (compare and swap).

        `change` gets the value (None if there is no document) and returns the new one, or None to leave all as
        it is. It may be called several times. Raises `Conflict` after `tries`.
        """
        for _ in range(tries):
            found = await self.get(id)
            made = change(found.value if found else None)
            value: T | None = await made if isawaitable(made) else made
            if value is None:
                return found
            try:
                return await self._put(value, found.etag if found else Expect.NOTHING)
            except Conflict:
                continue
        raise Conflict(f"{self.name} {id}: {tries} times changed by somebody else during update()")

    async def query(
        self,
        where: Where | None = None,
        *,
        key: str | None = None,
        order: str | None = None,
        descending: bool = False,
        limit: int = 100,
        continuation: str | None = None,
    ) -> Page[T]:
        """One page of documents. `where` names declared fields: `{"city": "Rome", "total >=": 10}`."""
        query = Query(key, _filters(where or {}), order, descending, limit, continuation)
        rows = await running().client.query(self.name, query)
        return Page(tuple(self._document(d) for d in rows.documents), rows.continuation)

    async def all(
        self, where: Where | None = None, *, key: str | None = None, order: str | None = None
    ) -> AsyncIterator[Document[T]]:
        """Every document of a query, page by page."""
        continuation: str | None = None
        while True:
            page = await self.query(where, key=key, order=order, limit=500, continuation=continuation)
            for document in page.documents:
                yield document
            if (continuation := page.continuation) is None:
                return

    def encode(self, value: T) -> tuple[str, str, bytes]:
        """Id, key and body of a value. Raises `Unfit` if it has none or does not fit the type."""
        body = self.codec.encode(value)
        return _field(value, self.id), _field(value, self.key), body

    def _write(self, value: T, expect: Expect | str) -> Write:
        id, key, body = self.encode(value)
        return Put(self.name, id, key, body, expect)

    async def _put(self, value: T, expect: Expect | str, connection: Any = None) -> Document[T]:
        write = self._write(value, expect)
        if connection is not None:
            await run_on(connection, running().client.statements(Commit(writes=(write,))))
            return Document(write.id, write.key or write.id, "", value)
        [written] = await running().client.write(self.name, [write])
        if not isinstance(written, Stored):
            there = "exists already" if expect is Expect.NOTHING else "changed since it was read"
            raise Conflict(f"{self.name} {write.id}: {there}")
        return Document(written.id, written.key, written.etag, value)

    def _document(self, stored: Stored) -> Document[T]:
        return Document(stored.id, stored.key, stored.etag, self.codec.decode(stored.body))


class Table(Generic[T]):
    """A table that is there already; its changes are captured and fed to workers. Made by `App.table`."""

    def __init__(self, spec: TableSpec, type_: Any) -> None:
        self.spec = spec
        self.name: str = spec.name
        self.type = type_


def _field(value: object, name: str) -> str:
    """A field of a model, dataclass or mapping, as text: an id or key must have one spelling only."""
    found = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
    if isinstance(found, date):
        return found.isoformat()
    if isinstance(found, bool) or not isinstance(found, str | int | UUID):
        kind = type(value).__name__
        raise Unfit(f"{kind}.{name} is {found!r}: an id or key must be text, a whole number, a date or a UUID")
    return str(found)


def _is_priority(value: object) -> bool:
    """A float or a bool would compare as a number and be stored as something else."""
    return isinstance(value, int) and not isinstance(value, bool) and value in PRIORITIES


def _headers(queue: str, headers: Mapping[str, str]) -> dict[str, str]:
    for name, text in headers.items():
        if not (isinstance(name, str) and isinstance(text, str)):
            raise BadOption(f"queue {queue!r}: header {name!r}: {text!r} is no text: write headers as str to str")
    return dict(headers)


def _filters(where: Where) -> tuple[Filter, ...]:
    return tuple(_filter(condition, value) for condition, value in where.items())


def _filter(condition: str, value: Scalar) -> Filter:
    field, _, op = condition.partition(" ")
    match op.strip():
        case "" | "=":
            return Filter(field, "=", value)
        case "<" | "<=" | ">" | ">=" as known:
            return Filter(field, known, value)
        case _:
            raise Unfit(f"condition {condition!r}: write a field, or a field and one of =, <, <=, >, >=")
