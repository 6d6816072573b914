"""Looking at the messages that wait, and removing them: what people do to a queue, beside what workers do.

Both walk `tidemill_ready`, which has just the messages that are not claimed. A place is `priority/due/seq`, the key of
its row: a message keeps it for as long as it is neither claimed nor put back.
"""

from __future__ import annotations

import json
from sqlite3 import Connection
from typing import Any, TypeAlias

from tidemill.errors import BadOption
from tidemill.model import Waiting

Row: TypeAlias = tuple[Any, ...]
Place: TypeAlias = tuple[int, float, int]

PURGED = 1_000
"""No more messages are removed in one transaction: others wait for it."""

UPWARDS = """
SELECT m.id, m.body, m.key, m.headers, r.priority, m.sent_at, r.due, m.attempt, m.reason, r.seq
FROM tidemill_ready r CROSS JOIN tidemill_message m ON m.seq = r.seq
WHERE r.queue = ? AND r.priority = ? AND (r.due, r.seq) > (?, ?) ORDER BY r.due, r.seq LIMIT ?
"""

HIGHEST = "SELECT max(priority) FROM tidemill_ready WHERE queue = ? AND priority < ?"

DOOMED = "SELECT priority, due, seq FROM tidemill_ready WHERE queue = ? LIMIT ?"

FREE_DEDUP = """
DELETE FROM tidemill_dedup WHERE (queue, dedup, id) IN (
    SELECT queue, dedup, id FROM tidemill_message
    WHERE seq IN (SELECT value FROM json_each(?)) AND dedup IS NOT NULL)
"""
# The row value with `id`: a later message may have taken the key when the window of an earlier one was over.

ABOVE_ALL = 1 << 62
"""Above every priority."""

BEFORE_ALL = (float("-inf"), -1)
"""Before every due time and seq."""

START: Place = (ABOVE_ALL, *BEFORE_ALL)


def peek(connection: Connection, queue: int, after: Place, limit: int) -> list[Waiting]:
    """A page in the order of claiming: each priority by one seek in the index, as `queue.claim` does it."""
    priority = after[0]
    found = page(connection, (queue, *after), limit)
    while len(found) < limit:
        priority = connection.execute(HIGHEST, (queue, priority)).fetchone()[0]
        if priority is None:
            break
        found += page(connection, (queue, priority, *BEFORE_ALL), limit - len(found))
    return found


def page(connection: Connection, start: Row, limit: int) -> list[Waiting]:
    return [waiting(row) for row in connection.execute(UPWARDS, (*start, limit))]


def waiting(row: Row) -> Waiting:
    id, body, key, headers, priority, sent_at, due, attempt, reason, seq = row
    known = json.loads(headers) if headers else {}
    return Waiting(id, body, key, known, priority, sent_at, due, attempt, reason, f"{priority}/{due!r}/{seq}")


def parsed(place: str) -> Place:
    """Raises `BadOption` for what is no place."""
    if not place:
        return START
    try:
        priority, due, seq = place.split("/")
        found = int(priority), float(due), int(seq)
        if not (abs(found[0]) < ABOVE_ALL and 0 <= found[2] < ABOVE_ALL):
            raise ValueError  # SQLite has no such numbers
        return found
    except ValueError:
        raise BadOption(f"{place!r} is no place in a queue; take it from the page before") from None


def purge(connection: Connection, queue: int) -> int:
    """Remove messages that nobody holds, with their dedup keys; how many."""
    rows = connection.execute(DOOMED, (queue, PURGED)).fetchall()
    seqs = json.dumps([seq for _, _, seq in rows])
    connection.execute(FREE_DEDUP, (seqs,))
    connection.execute("DELETE FROM tidemill_message WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
    connection.executemany(
        "DELETE FROM tidemill_ready WHERE queue = ? AND priority = ? AND due = ? AND seq = ?",
        [(queue, *row) for row in rows],
    )
    return len(rows)
