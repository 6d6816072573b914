"""Effects and ack in one commit: what `context.transaction` collected, together with the delivery or the change.

A message for a queue that lives in another database cannot be part of the commit. It is written, in the same
commit, into the reserved queue `outbox` of the handler's database; an ordinary worker forwards it from there under
its own id, so that a repeat sends nothing twice where the target knows duplicates.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from tidemill.engine.work import Result
from tidemill.model import Commit, CommitResult, Delivery, Done, Finished, Logged, Message, Outcome, QueueSpec
from tidemill.ports import Database

OUTBOX = QueueSpec("outbox")
TARGET = "tidemill-target"


class Effects:
    """Builds and sends the commits of one database. `local` names the queues that live in it."""

    def __init__(self, database: Database, local: Set[str]) -> None:
        self._database = database
        self._local = local

    def of_delivery(self, result: Result) -> Commit:
        """The ack of one delivery with its effects."""
        [item] = result.call.items
        assert isinstance(item, Delivery)
        return Commit(result.writes, self._messages(result.messages), (Outcome(item, Done()),))

    def of_change(self, result: Result) -> Commit:
        """The finished row of one change with its effects; it holds only under the lease it was read with."""
        [item] = result.call.items
        token = result.call.token
        assert isinstance(item, Logged)
        assert token is not None
        finished = Finished(token.lease, token.epoch, token.nonce, item.id)
        return Commit(result.writes, self._messages(result.messages), finished=(finished,))

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        return await self._database.commit(commits)

    def _messages(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(m if m.queue in self._local else outboxed(m) for m in messages)


def outboxed(message: Message) -> Message:
    """The message as it stands in the outbox; `unboxed` is the way back."""
    headers = {**message.headers, TARGET: message.queue}
    if message.dedup is not None:
        headers["tidemill-dedup"] = message.dedup
    return Message(OUTBOX.name, message.id, message.body, message.key, headers, message.priority, message.delay)


def unboxed(delivery: Delivery) -> Message:
    """The message that a delivery of the outbox stands for."""
    headers = dict(delivery.headers)
    target = headers.pop(TARGET)
    dedup = headers.pop("tidemill-dedup", None)
    return Message(
        target, delivery.id, delivery.body, delivery.key, headers, delivery.priority, dedup=dedup or delivery.id
    )
