"""Dead letters: bodies that are kept until somebody decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from tidemill.adapters.postgres.ddl_queue import tables
from tidemill.adapters.postgres.link import Row
from tidemill.adapters.postgres.names import literal
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.verdicts import clean
from tidemill.errors import ConfigurationError
from tidemill.model import DeadLetter

QUEUE = "queue/"

COLUMNS = "source, id, key, ord, body, attempts, reason, error, at, headers, meta"

PUT = f"""
INSERT INTO {{letter}} ({COLUMNS})
SELECT source, id, key, ord::numeric, body, attempts, reason, error, at, headers::json, meta::json
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::int[], $7::text[], $8::text[],
    $9::float8[], $10::text[], $11::text[]) AS u ({COLUMNS})
ON CONFLICT DO NOTHING
"""
"""`ord` has more than 64 bits, so it goes as text."""

PAGE = """
SELECT source, id, key, ord::text, body, attempts, reason, error, at, headers::text, meta::text FROM {letter} l
WHERE source = $1 AND ord > $2::text::numeric AND ($3::text IS NULL OR key = $3) ORDER BY l.ord, id LIMIT $4::int
"""

COUNT = """
SELECT source, count(*)::int FROM {letter} WHERE source >= $1::text AND source < $1::text || chr(1114111)
GROUP BY source
"""

RELEASE = """
WITH gone AS (DELETE FROM {letter} WHERE source = $1 AND id = ANY ($2::text[]) RETURNING *),
message AS (
    SELECT id, key, body, nullif(headers::text, '{{}}') AS headers, meta ->> 'dedup' AS dedup,
        coalesce((meta ->> 'priority')::bigint, 0) AS priority,
        coalesce((meta ->> 'sent_at')::float8, extract(epoch FROM statement_timestamp())) AS sent_at
    FROM gone),
sent AS (
    INSERT INTO {message} (id, sent_at, key, dedup, headers, body)
    SELECT id, sent_at, key, dedup, coalesce(headers, ''), coalesce(body, '') FROM message
    ON CONFLICT (id) DO NOTHING RETURNING seq, id),
turn AS (
    INSERT INTO {ready} SELECT priority, statement_timestamp(), seq, 0 FROM message JOIN sent USING (id)),
-- its dedup key is taken again, unless a newer message has it
taken AS (
    INSERT INTO {dedup} AS d (queue, dedup, id)
    SELECT {queue}, dedup, id FROM message JOIN sent USING (id) WHERE dedup IS NOT NULL
    ON CONFLICT (queue, dedup) DO UPDATE SET until = NULL WHERE d.id = excluded.id)
SELECT count(*) FROM gone
"""

DROP = "DELETE FROM {letter} WHERE source = $1 AND id = ANY ($2::text[])"


class DeadLetters:
    """`ports.DeadLetters` in one table."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._letter = session.names.of("letter")

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            columns = [list(column) for column in zip(*map(row_of, letters), strict=True)]
            await self._session.data.execute(PUT.format(letter=self._letter), *columns)

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        sql = PAGE.format(letter=self._letter)
        return [letter_of(row) for row in await self._session.data.fetch(sql, source, str(after), key, limit)]

    async def count(self, prefix: str) -> Mapping[str, int]:
        rows = await self._session.data.fetch(COUNT.format(letter=self._letter), prefix)
        return dict(rows)

    async def release(self, source: str, ids: Sequence[str]) -> int:
        if not source.startswith(QUEUE):
            raise ConfigurationError(f"{source}: only dead letters of a queue can be put back")
        name = source.removeprefix(QUEUE)
        t = tables(self._session.names, name)
        sql = RELEASE.format(letter=t.letter, message=t.message, ready=t.ready, dedup=t.dedup, queue=literal(name))
        released = int(await self._session.data.value(sql, source, list(ids)))
        self._session.watch.bell.ring(("queue",))
        self._session.watch.poke()
        return released

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        return await self._session.data.execute(DROP.format(letter=self._letter), source, list(ids))


def row_of(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.source,
        letter.id,
        letter.key,
        str(letter.order),
        letter.body,
        letter.attempts,
        clean(letter.reason),
        clean(letter.error),
        letter.at,
        json.dumps(dict(letter.headers)),
        json.dumps(dict(letter.meta)),
    )


def letter_of(row: Row) -> DeadLetter:
    source, id, key, order, body, attempts, reason, error, at, headers, meta = row
    return DeadLetter(
        source, id, key, int(order), body, attempts, reason, error, at, json.loads(headers), json.loads(meta)
    )
