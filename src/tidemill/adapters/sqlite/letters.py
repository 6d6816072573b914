"""Dead letters: bodies that are kept until somebody decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from sqlite3 import Connection

from tidemill.adapters.sqlite.schema import register
from tidemill.adapters.sqlite.session import Session
from tidemill.adapters.sqlite.store import dumps
from tidemill.errors import ConfigurationError
from tidemill.model import DeadLetter

QUEUE = "queue/"

COLUMNS = "source, id, key, ord, body, attempts, reason, error, at, headers, meta"


class DeadLetters:
    """`ports.DeadLetters` in one table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        rows = [row_of(letter) for letter in letters]
        sql = f"INSERT OR IGNORE INTO tidemill_letter ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        await self._session.write(lambda connection: connection.executemany(sql, rows).rowcount)

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        where, args = "source = ? AND ord > ?", (source, after)
        sql = f"SELECT {COLUMNS} FROM tidemill_letter WHERE {where}{'' if key is None else ' AND key = ?'}"
        asked = args if key is None else (*args, key)
        return await self._session.slow.submit(
            lambda connection: [
                letter_of(*row) for row in connection.execute(f"{sql} ORDER BY ord, id LIMIT ?", (*asked, limit))
            ]
        )

    async def count(self, prefix: str) -> Mapping[str, int]:
        sql = (
            "SELECT source, count(*) FROM tidemill_letter"
            " WHERE source >= ? AND source < CAST(? AS TEXT) GROUP BY source"
        )
        bounds = (prefix, prefix.encode() + b"\xff")
        return await self._session.slow.submit(lambda connection: dict(connection.execute(sql, bounds).fetchall()))

    async def release(self, source: str, ids: Sequence[str]) -> int:
        if not source.startswith(QUEUE):
            raise ConfigurationError(f"{source}: only dead letters of a queue can be put back")
        name, now = source.removeprefix(QUEUE), self._session.clock.now()

        def run(connection: Connection) -> int:
            queue = register(connection, "queue", name)
            return sum(release(connection, queue, source, id, now) for id in ids)

        return await self._session.write(run, rings=(f"queue/{name}",))

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        sql = "DELETE FROM tidemill_letter WHERE source = ? AND id IN (SELECT value FROM json_each(?))"
        asked = (source, json.dumps(list(ids)))
        return await self._session.write(lambda connection: connection.execute(sql, asked).rowcount)


def release(connection: Connection, queue: int, source: str, id: str, now: float) -> int:
    """Put one message back; its dedup key is taken again unless a newer message has it."""
    row = connection.execute(
        f"DELETE FROM tidemill_letter WHERE source = ? AND id = ? RETURNING {COLUMNS}", (source, id)
    ).fetchone()
    if row is None:
        return 0
    letter = letter_of(*row)
    dedup = letter.meta.get("dedup")
    connection.execute(
        "INSERT INTO tidemill_message (queue, id, priority, due, sent_at, key, dedup, headers, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (queue, id) DO NOTHING",
        (
            queue,
            id,
            letter.meta.get("priority", 0),
            now,
            letter.meta.get("sent_at", now),
            letter.key,
            dedup,
            dumps(dict(letter.headers)),
            letter.body or b"",
        ),
    )
    if dedup is not None:
        connection.execute(
            "INSERT INTO tidemill_dedup VALUES (?, ?, ?, NULL)"
            " ON CONFLICT DO UPDATE SET until = NULL WHERE id = excluded.id",
            (queue, dedup, id),
        )
    return 1


def row_of(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.source,
        letter.id,
        letter.key,
        letter.order,
        letter.body,
        letter.attempts,
        letter.reason,
        letter.error,
        letter.at,
        dumps(dict(letter.headers)),
        dumps(dict(letter.meta)),
    )


def letter_of(
    source: str,
    id: str,
    key: str | None,
    order: int,
    body: bytes | None,
    attempts: int,
    reason: str,
    error: str,
    at: float,
    headers: str,
    meta: str,
) -> DeadLetter:
    return DeadLetter(source, id, key, order, body, attempts, reason, error, at, json.loads(headers), json.loads(meta))
