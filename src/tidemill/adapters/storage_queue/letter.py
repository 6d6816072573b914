"""A dead letter as a message of the poison queue: the body behind a line that says why, when, and after how much."""

from __future__ import annotations

from zlib import crc32

from azure.storage.queue import QueueMessage

from tidemill.adapters.storage_queue.envelope import Content, fitted, plain, read
from tidemill.model import DeadLetter, Json

META = ("priority", "dedup", "sent_at")
"""What a line says of a message beside its id, key and headers, whether it lives or not."""

QUEUE = "queue/"
SHIFT = 12
SECOND = 1000 << SHIFT


def order(at: float, id: str) -> int:
    """A number to sort by, by time: milliseconds, and what tells two of one apart. Below 2**53, which JSON keeps."""
    return int(at * 1000) << SHIFT | crc32(id.encode()) & ((1 << SHIFT) - 1)


def written(letter: DeadLetter, encoded: bool) -> str:
    """Its text. Where there is no room for all of the line the error is cut first; the body stays whole."""
    meta = letter.meta
    line: dict[str, Json] = {name: meta[name] for name in META if meta.get(name) is not None}
    line |= {"id": letter.id, "attempts": letter.attempts, "at": letter.at, "order": letter.order}
    line |= {"reason": letter.reason, "error": letter.error, "headers": dict(letter.headers)}
    if letter.key is not None:
        line["key"] = letter.key
    body = letter.body or b""
    return fitted(Content(body, line), encoded) or plain(body, encoded) or ""


def letter_of(queue: str, message: QueueMessage, encoded: bool) -> DeadLetter:
    """What a message of the poison queue tells; one that Functions put there tells its body and when."""
    content = read(message.content or "", encoded)
    at = message.inserted_on.timestamp() if message.inserted_on else 0.0
    id = content.text("id") or message.id
    return DeadLetter(
        QUEUE + queue,
        id,
        content.key,
        content.whole("order") or int(at) * SECOND + crc32(id.encode()) % SECOND,  # the service tells whole seconds
        content.body,
        content.whole("attempts"),
        content.text("reason") or ("" if content.line else "put here by another program"),
        content.text("error"),
        content.number("at", at),
        content.headers(),
        {name: content.line[name] for name in META if name in content.line},
    )


def revived(letter: DeadLetter, encoded: bool) -> str:
    """The text by which it goes back: as it was sent, without attempts. Always an envelope, which keeps its id."""
    line: dict[str, Json] = {name: letter.meta[name] for name in META if name in letter.meta}
    line |= {"id": letter.id, **({} if letter.key is None else {"key": letter.key}), "headers": dict(letter.headers)}
    body = letter.body or b""
    return fitted(Content(body, line), encoded) or plain(body, encoded) or ""
