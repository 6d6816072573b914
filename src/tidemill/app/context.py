"""What a handler may ask about the call it is in."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Event
from typing import Any, TypeVar
from uuid import uuid4

from tidemill.app.client import check_unsent
from tidemill.app.handles import Collection, Queue
from tidemill.core.duration import Duration
from tidemill.errors import ConfigurationError
from tidemill.model import Delete, Expect, Message, Put, Write

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fence:
    """The fencing token of a lease: `epoch` rises at each change of hands, `nonce` tells two of one epoch apart.

    Write it beside effects outside of Tidemill and refuse a smaller epoch there.
    """

    epoch: int
    nonce: str


class Transaction:
    """Effects that are committed together with the ack, or not at all. Collects; nothing is sent until the
    handler has returned. A `Conflict` (an etag that no longer holds) counts as a failure of the handler."""

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.messages: list[Message] = []

    def __bool__(self) -> bool:
        return bool(self.writes or self.messages)

    def put(self, collection: Collection[T], value: T, *, etag: str | None = None) -> None:
        """Create or replace a document; with `etag` only that version of it."""
        self._put(collection, value, etag or Expect.ANYTHING)

    def create(self, collection: Collection[T], value: T) -> None:
        """Create a document that must not exist."""
        self._put(collection, value, Expect.NOTHING)

    def delete(self, collection: Collection[Any], id: str, *, etag: str | None = None) -> None:
        """Delete a document."""
        self.writes.append(Delete(collection.name, id, expect=etag or Expect.ANYTHING))

    def send(
        self,
        queue: Queue[T],
        value: T,
        *,
        delay: Duration = 0.0,
        priority: int = 0,
        dedup: str | None = None,
        key: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """Send a message; its id. The queue's `limit` does not refuse it: an ack that has to wait for room in another
        queue could wait for itself. It counts for those who send after it."""
        message = queue.message(
            value, id=uuid4().hex, delay=delay, priority=priority, dedup=dedup, key=key, headers=headers
        )
        check_unsent(message)
        self.messages.append(message)
        return message.id

    def _put(self, collection: Collection[T], value: T, expect: Expect | str) -> None:
        id, key, body = collection.encode(value)
        self.writes.append(Put(collection.name, id, key, body, expect))


@dataclass(slots=True)
class Context:
    """The call a handler is in.

    `attempt` is 1 at first and rises with each recorded failure; `delivery` counts the times this was handed
    out without any verdict, 1 at first. `deadline` is on the monotonic clock of the process (CLOCK_BOOTTIME where
    there is one), None without a time limit. Batch handlers see the first item's id and key.
    """

    id: str
    key: str | None
    worker: str
    attempt: int = 1
    delivery: int = 1
    scheduled_at: datetime | None = None
    past_due: bool = False
    deadline: float | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    fence: Fence | None = None
    transactional: bool = False
    _cancelled: Event | None = None
    _transaction: Transaction | None = None
    _connect_cancel: Callable[[Event], None] | None = None

    @property
    def cancelled(self) -> Event:
        """Set when the call should end (time limit, drain, lost lease): the only signal a `def` handler gets.

        Who stops because of it just returns: the item comes again. Who has finished in spite of it returns
        `Done()`. In a `process=True` handler it is never set: there the process is killed.
        """
        if self._cancelled is None:
            self._cancelled = Event()
            if self._connect_cancel is not None:
                self._connect_cancel(self._cancelled)
        return self._cancelled

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that carries worker and id."""
        return logging.LoggerAdapter(
            logging.getLogger(f"tidemill.{self.worker}"), {"worker": self.worker, "id": self.id}
        )

    @property
    def transaction(self) -> Transaction:
        """Effects in one commit with the ack. Raises where the backend of this worker cannot do that."""
        if not self.transactional:
            raise ConfigurationError(
                f"worker {self.worker!r}: context.transaction needs a backend with commit, one handler call "
                "per item and process=False; write idempotent effects, or use the fence, here"
            )
        if self._transaction is None:
            self._transaction = Transaction()
        return self._transaction

    def collected(self) -> Transaction | None:
        """What was collected so far, if anything."""
        return self._transaction or None
