"""Looking at the messages that wait, and removing them: what people do to a queue, beside what workers do.

Both walk `ready`, which has just the messages that are not claimed. A place is `priority/due/seq`, the key of its row:
a message keeps it for as long as it is neither claimed nor put back.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TypeAlias

from tidemill.adapters.postgres.claims import ABOVE_ALL, STEP
from tidemill.adapters.postgres.ddl_queue import Tables
from tidemill.adapters.postgres.link import Link, Row
from tidemill.adapters.postgres.names import literal
from tidemill.adapters.postgres.sending import parsed_headers
from tidemill.errors import BadOption
from tidemill.model import Waiting

Place: TypeAlias = tuple[int, datetime, int]

PURGED = 1_000
"""No more messages are removed in one transaction: others wait for it."""

PAGE = f"""
WITH {STEP},
place AS (
    (SELECT * FROM {{ready}} WHERE priority = $1::bigint AND (due, seq) > ($2::timestamptz, $3::bigint)
    ORDER BY due, seq LIMIT $4::int)
    UNION ALL
    (SELECT r.* FROM step CROSS JOIN LATERAL (
        SELECT * FROM {{ready}} WHERE priority = step.priority ORDER BY due, seq LIMIT $4::int) r
    WHERE step.priority IS NOT NULL LIMIT $4::int))
SELECT m.id, m.body, m.key, m.headers, r.priority, m.sent_at, r.due, m.attempt, m.reason, m.seq
FROM (SELECT * FROM place ORDER BY priority DESC, due, seq LIMIT $4::int) r
CROSS JOIN LATERAL (SELECT * FROM {{message}} WHERE seq = r.seq LIMIT 1) m
ORDER BY r.priority DESC, r.due, r.seq
"""
"""The rest of one priority, then those below it, each by one seek."""

PURGE = """
WITH doomed AS MATERIALIZED (
    SELECT ctid FROM {ready} ORDER BY priority, due, seq LIMIT {limit} FOR UPDATE SKIP LOCKED),
gone AS (DELETE FROM {ready} WHERE ctid = ANY (ARRAY(SELECT ctid FROM doomed)) RETURNING seq),
removed AS (DELETE FROM {message} WHERE seq = ANY (ARRAY(SELECT seq FROM gone)) RETURNING id, dedup),
-- nothing was done with them: their keys are free at once
freed AS (
    DELETE FROM {dedup} d USING removed m
    WHERE m.dedup IS NOT NULL AND d.queue = {queue} AND d.dedup = m.dedup AND d.id = m.id)
SELECT count(*)::int FROM gone
"""

DEPTH = """
SELECT count(*) FILTER (WHERE due <= statement_timestamp())::int,
    count(*) FILTER (WHERE due > statement_timestamp())::int,
    (SELECT count(*) FROM {claim})::int,
    coalesce(extract(epoch FROM greatest(statement_timestamp() - min(due), interval '0')), 0)::float8
FROM {ready}
"""


async def peek(link: Link, t: Tables, after: Place, limit: int) -> list[Waiting]:
    """A page in the order of claiming."""
    sql = PAGE.format(ready=t.ready, message=t.message, below="$1::bigint")
    return [waiting(row) for row in await link.fetch(sql, *after, limit)]


def waiting(row: Row) -> Waiting:
    id, body, key, headers, priority, sent_at, due, attempt, reason, seq = row
    place = f"{priority}/{due.isoformat()}/{seq}"
    return Waiting(id, body, key, parsed_headers(headers), priority, sent_at, due.timestamp(), attempt, reason, place)


def parsed(place: str) -> Place:
    """Raises `BadOption` for what is no place."""
    if not place:
        return ABOVE_ALL, datetime.max.replace(tzinfo=UTC), 0
    try:
        priority, due, seq = place.split("/")
        found = int(priority), datetime.fromisoformat(due), int(seq)
        if found[1].tzinfo is None or not (abs(found[0]) <= ABOVE_ALL and 0 <= found[2] <= ABOVE_ALL):
            raise ValueError  # the server has no such numbers
        return found
    except ValueError:
        raise BadOption(f"{place!r} is no place in a queue; take it from the page before") from None


async def purge(link: Link, t: Tables, queue: str) -> int:
    """Remove messages that nobody holds, with their dedup keys; how many."""
    sql = PURGE.format(ready=t.ready, message=t.message, dedup=t.dedup, queue=literal(queue), limit=PURGED)
    removed: int = await link.fetchval(sql)
    return removed
