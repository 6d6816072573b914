"""Claiming what is due, however many dead rows lie before it.

Strictly by priority although delayed messages lie between: the claim walks the priorities downwards, each by one seek
in the index, and takes what is due there. Rows leave `ready` by the same statement, but the dead stay until they are
vacuumed away: the server does that once a minute, and not at all while somebody holds an old snapshot (an idle
transaction, a dump). Each claim would walk over all that was claimed meanwhile.

So after a whole look that found enough, the next ones begin where it ended: in each priority behind what was taken, in
the others at its own time. What appears behind that (a message that was put back with its old due time, one whose
transaction took long, a priority that was not there) is found by the next whole look: that is made when a look from
there does not find enough, when this process put something back, and after twenty times what the last one took, so no
more than a twentieth of the time goes into the walk.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tidemill.adapters.postgres.ddl_queue import Tables
from tidemill.adapters.postgres.link import Link, Row

SHARE = 20.0
RARELY = 30.0
"""So many times what a whole look took, and at most so many seconds, until the next."""

STEP = """
RECURSIVE step (priority) AS (
    SELECT max(priority) FROM {ready} WHERE priority < {below}
    UNION ALL
    SELECT (SELECT max(r.priority) FROM {ready} r WHERE r.priority < step.priority)
    FROM step WHERE step.priority IS NOT NULL)
"""
"""The priorities downwards, one seek in the index each."""

WHOLE = (
    STEP
    + """,
place (priority, due) AS MATERIALIZED (
    SELECT priority, timestamptz '-infinity' FROM step WHERE priority IS NOT NULL ORDER BY priority DESC)
"""
)

NEAR = """
place (priority, due) AS MATERIALIZED (
    SELECT * FROM unnest($4::bigint[], $5::text[]::timestamptz[]) AS p (priority, due) ORDER BY priority DESC)
"""

CLAIM = """
WITH {place},
-- what is due, from the highest priority downwards; what another receive is taking is passed over
found AS MATERIALIZED (
    SELECT due.at FROM place CROSS JOIN LATERAL (
        SELECT r.ctid AS at FROM {ready} r
        WHERE r.priority = place.priority AND r.due >= place.due AND r.due <= statement_timestamp()
        ORDER BY r.due, r.seq LIMIT $1::int FOR UPDATE SKIP LOCKED) due
    LIMIT $1::int),
taken AS (DELETE FROM {ready} WHERE ctid = ANY (ARRAY(SELECT at FROM found)) RETURNING *),
held AS (
    INSERT INTO {claim} (seq, priority, due, deliveries, owner, nonce)
    SELECT seq, priority, due, deliveries + 1, $2::text, $3::text FROM taken)
SELECT seq, id, body, key, headers, priority, sent_at, attempt, deliveries, reason FROM (
    SELECT m.seq, m.id, m.body, m.key, m.headers, t.priority, m.sent_at, m.attempt, t.deliveries + 1 AS deliveries,
        m.reason, t.due
    FROM taken t CROSS JOIN LATERAL (SELECT * FROM {message} WHERE seq = t.seq LIMIT 1) m
    UNION ALL
    -- and always a last row: where to go on, and in how many seconds if nothing was found
    SELECT NULL, set_config('synchronous_commit', 'off', true), NULL, NULL, NULL, NULL,
        CASE WHEN NOT EXISTS (SELECT FROM found) THEN (
            SELECT extract(epoch FROM min(next.due) - statement_timestamp())::float8 FROM place CROSS JOIN LATERAL (
                SELECT r.due FROM {ready} r WHERE r.priority = place.priority AND r.due > statement_timestamp()
                ORDER BY r.due LIMIT 1) next)
        END, NULL, NULL, (
            SELECT string_agg(priority || ' ' || coalesce(last, statement_timestamp()), ',')
            FROM place LEFT JOIN (SELECT priority, max(due) AS last FROM taken GROUP BY 1) t USING (priority)),
        NULL
    ORDER BY priority DESC NULLS LAST, due, seq) claimed
"""
"""A claim need not wait for the disk: if a crash forgets it, the message is ready again."""


@dataclass
class Claimer:
    """Claims for one handle, and remembers where it looked."""

    tables: Tables
    _places: dict[int, str] = field(default_factory=dict)
    _whole_at: float = 0.0

    def __post_init__(self) -> None:
        t = self.tables
        whole = WHOLE.format(ready=t.ready, below=f"{ABOVE_ALL}::bigint").strip()
        self._whole = CLAIM.format(place=whole, ready=t.ready, claim=t.claim, message=t.message)
        self._near = CLAIM.format(place=NEAR.strip(), ready=t.ready, claim=t.claim, message=t.message)

    def forget(self) -> None:
        """Something was put back: look from the start."""
        self._places = {}

    def sent(self, priorities: Iterable[int]) -> None:
        """A priority that was not there needs a look from the start."""
        if self._places and not self._places.keys() >= set(priorities):
            self._places = {}

    async def take(self, link: Link, owner: str, nonce: str, limit: int, monotonic: Any) -> tuple[Sequence[Row], float]:
        """The rows, as `Delivery` has its fields; and the seconds until there is more, if it is known."""
        began = monotonic()
        places = self._places
        if places and began < self._whole_at:
            *rows, last = await link.fetch(self._near, limit, owner, nonce, list(places), list(places.values()))
            if len(rows) < limit:
                self._places = {}
            else:
                self._places = places_of(last[9])
            if rows:
                return rows, 0.0
            began = monotonic()
        *rows, last = await link.fetch(self._whole, limit, owner, nonce)
        took = monotonic() - began
        self._places = {}
        if len(rows) == limit:
            self._whole_at = began + took + min(took * SHARE, RARELY)
            self._places = places_of(last[9])
        return rows, float("inf") if last[6] is None else last[6]


ABOVE_ALL = (1 << 63) - 1
"""Above every priority."""


def places_of(text: str) -> dict[int, str]:
    """By priority the time from which to look on."""
    pairs = (place.split(" ", 1) for place in text.split(","))
    return {int(priority): due for priority, due in pairs}
