"""Our messages as the service's, and back.

What we note on a message stands in application properties `tidemill.…`: the id (the service's own is derived from it
for copies), the key where there is no session, when it was first sent, and what a verdict left: attempts, the last
reason, hand-outs that no verdict has ended, and the how-manieth copy this is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from azure.servicebus import ServiceBusMessage, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusSender
from azure.servicebus.exceptions import MessageSizeExceededError

from tidemill.model import Delivery, Message

OURS = "tidemill."
DEAD = ("DeadLetterReason", "DeadLetterErrorDescription")
LONGEST = 128
"""Characters of an id or of a session's."""
REASON = 1_000
SENDING = 10.0


@dataclass(frozen=True, slots=True)
class Note:
    """What is known of a message beside its body and headers."""

    id: str
    key: str | None
    sent_at: float
    attempt: int = 0
    reason: str = ""
    handed: int = 0
    copy: int = 0

    def properties(self, *, keyed: bool) -> dict[str | bytes, Any]:
        """As application properties; those that say nothing are left out."""
        key = None if keyed and self.key is not None and session_of(self.key) == self.key else self.key
        said = {"id": self.id, "sent": self.sent_at, "attempt": self.attempt, "reason": self.reason[:REASON],
                "handed": self.handed, "copy": self.copy}  # fmt: skip
        kept = {"key": key} if key is not None else {}
        return {f"{OURS}{name}": value for name, value in {**said, **kept}.items() if value or name in kept}


def session_of(key: str) -> str:
    """The session of a key."""
    return key if 0 < len(key) <= LONGEST else sha256(key.encode()).hexdigest()


def fresh(message: Message, *, keyed: bool, once: bool, now: float) -> tuple[str, ServiceBusMessage]:
    """A message to send, and its id. `once`: the queue detects duplicates, so the id comes from `dedup`."""
    id = f"dedup-{sha256(message.dedup.encode()).hexdigest()}" if once and message.dedup is not None else message.id
    note = Note(id, message.key, now)
    return id, _made(
        note, message.body, message.headers, keyed=keyed, due=now + message.delay if message.delay else 0.0
    )


def copy(received: ServiceBusReceivedMessage, note: Note, *, due: float = 0.0) -> ServiceBusMessage:
    """The same message with other notes on it, for this time (0: at once)."""
    keyed = bool(received.session_id)
    made = _made(note, body_of(received), headers_of(received), keyed=keyed, due=due)
    made.session_id = received.session_id
    made.content_type = received.content_type
    made.subject, made.correlation_id = received.subject, received.correlation_id
    if received.time_to_live is not None:
        made.time_to_live = received.time_to_live
    return made


def _made(note: Note, body: bytes, headers: Mapping[str, str], *, keyed: bool, due: float) -> ServiceBusMessage:
    named = f"{note.id}~{note.copy}" if note.copy else note.id
    properties: dict[str | bytes, Any] = dict(headers.items())
    made = ServiceBusMessage(
        body,
        application_properties=properties | note.properties(keyed=keyed),
        message_id=named if 0 < len(named) <= LONGEST else sha256(named.encode()).hexdigest(),
        content_type="application/json",
    )
    if keyed:
        made.session_id = session_of(note.id if note.key is None else note.key)
    if due:
        made.scheduled_enqueue_time_utc = datetime.fromtimestamp(due, UTC)
    return made


def note_of(received: ServiceBusReceivedMessage) -> Note:
    """What is noted on a message; one that others sent has its own id and no more."""
    said = {name[len(OURS) :]: value for name, value in _properties(received).items() if name.startswith(OURS)}
    enqueued = received.enqueued_time_utc
    return Note(
        said.get("id") or received.message_id or str(received.sequence_number),
        said.get("key", received.session_id or None),
        float(said.get("sent", enqueued.timestamp() if enqueued else 0.0)),
        int(said.get("attempt", 0)),
        said.get("reason", ""),
        int(said.get("handed", 0)),
        int(said.get("copy", 0)),
    )


def headers_of(received: ServiceBusReceivedMessage) -> dict[str, str]:
    """The properties that are not ours, nor the service's word on a dead letter."""
    named = _properties(received).items()
    return {name: str(value) for name, value in named if not name.startswith(OURS) and name not in DEAD}


def body_of(received: ServiceBusReceivedMessage) -> bytes:
    """The body; what others sent as a value of AMQP is text, or JSON."""
    body = received.body
    if isinstance(body, bytes | str):
        return body.encode() if isinstance(body, str) else body
    if received.body_type.value == "data":
        return b"".join(body)
    return json.dumps(body if isinstance(body, dict) else list(body), default=str).encode()


def delivery(queue: str, received: ServiceBusReceivedMessage, note: Note, claim: str, deadline: float) -> Delivery:
    """`note.handed` are the hand-outs without a verdict, this one included."""
    return Delivery(
        queue, note.id, body_of(received), note.key, headers_of(received), 0, note.sent_at, note.attempt, note.handed,
        note.reason, claim, deadline,
    )  # fmt: skip


async def put(sender: ServiceBusSender, messages: Sequence[ServiceBusMessage]) -> None:
    """Send in as few transfers as their size allows, each of one session; durable when it returns."""
    batch, session = await sender.create_message_batch(), None
    for message in messages:
        if len(batch) and message.session_id != session:
            await sender.send_messages(batch, timeout=SENDING)
            batch = await sender.create_message_batch()
        session = message.session_id
        try:
            batch.add_message(message)
            continue
        except MessageSizeExceededError:
            await sender.send_messages(batch, timeout=SENDING)  # nothing happens if it is empty
            batch = await sender.create_message_batch()
        try:
            batch.add_message(message)
        except MessageSizeExceededError:
            await sender.send_messages(message, timeout=SENDING)
    await sender.send_messages(batch, timeout=SENDING)


def _properties(received: ServiceBusReceivedMessage) -> Mapping[str, Any]:
    named = received.application_properties or {}
    return {_text(name): _text(value) if isinstance(value, bytes) else value for name, value in named.items()}


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
