"""Putting messages into a queue, in whatever transaction the caller has.

A key in `dedup` is taken before the message is written, and the row stays locked until the end of the transaction: of
two senders at once the second waits, and then finds the key taken. Keys are taken in their order, so that two senders
never wait for each other. A key that was taken for a message whose id turns out to be in the queue is given back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from tidemill.adapters.postgres.ddl_queue import Tables, tables
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, literal
from tidemill.adapters.postgres.session import Session
from tidemill.model import Message, Statement

NOW = "extract(epoch FROM statement_timestamp())::float8"

MANY = """
SELECT {number} AS seq, u.* FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::bigint[],
    $7::float8[]) WITH ORDINALITY AS u (id, key, dedup, headers, body, priority, delay, place) ORDER BY place
"""
ONE = """
SELECT {number} AS seq, $1::text AS id, $2::text AS key, $3::text AS dedup, $4::text AS headers, $5::bytea AS body,
    $6::bigint AS priority, $7::float8 AS delay
"""
"""What is to be sent, from arrays or single values. Each parameter once and in order: any driver can bind them."""

PLAIN = """
WITH new AS MATERIALIZED ({new}),
-- the message, unless its id is in the queue already
sent AS (
    INSERT INTO {message} (seq, id, sent_at, key, dedup, headers, body)
    SELECT seq, id, {now}, key, dedup, headers, body FROM new {free}
    ON CONFLICT (id) DO NOTHING RETURNING seq)
-- and its turn
INSERT INTO {ready} SELECT priority, statement_timestamp() + delay * interval '1 second', seq, 0
FROM new JOIN sent USING (seq)
"""

TAKING = """
WITH new AS MATERIALIZED ({new}),
-- keys that nobody has, or whose window is over
taken AS (
    INSERT INTO {dedup} AS d (queue, dedup, id)
    SELECT {queue}, dedup, id FROM new
    WHERE dedup IS NOT NULL AND NOT EXISTS (SELECT FROM {message} m WHERE m.id = new.id) ORDER BY dedup
    ON CONFLICT (queue, dedup) DO UPDATE SET id = excluded.id, until = NULL WHERE d.until <= clock_timestamp()
    RETURNING dedup),
"""
FREE = "WHERE dedup IS NULL OR dedup IN (SELECT dedup FROM taken)"

HAVE = """
SELECT dedup, id FROM {dedup} WHERE queue = {queue} AND dedup = ANY ($1::text[])
AND (until IS NULL OR until > statement_timestamp())
"""

UNUSED = """
DELETE FROM {dedup} d WHERE queue = {queue} AND dedup = {keys} AND until IS NULL
AND NOT EXISTS (SELECT FROM {message} m WHERE m.id = d.id AND m.dedup = d.dedup)
"""
"""Another sender was quicker with the same id and another key."""

PRUNE = """
DELETE FROM {dedup} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {dedup} WHERE until <= statement_timestamp() LIMIT {slice} FOR UPDATE SKIP LOCKED))
"""
FAR = 1e10
"""Seconds, three centuries: no longer delay is kept."""

SLICE = 10_000
"""No more expired dedup keys are removed in one go."""


async def insert(link: Link, session: Session, messages: Sequence[Message]) -> list[str]:
    """Add messages (of any queue) inside the transaction of `link`; the id of each, the first one's for a duplicate."""
    ids: dict[int, str] = {}
    for queue in dict.fromkeys(message.queue for message in messages):
        session.queue(queue)
        at = [n for n, message in enumerate(messages) if message.queue == queue]
        found = await insert_into(link, session.names, queue, [messages[n] for n in at])
        ids.update(zip(at, found, strict=True))
    return [ids[n] for n in range(len(messages))]


async def insert_into(link: Link, names: Names, queue: str, messages: Sequence[Message]) -> list[str]:
    """As `insert`, for one queue. A single statement if no message has a dedup key."""
    first = {message.dedup: message for message in reversed(messages) if message.dedup is not None}
    sql = texts(names, queue)
    if not first:
        await link.execute(sql["plain"], *columns(messages))
        return [message.id for message in messages]
    new = [message for message in messages if message.dedup is None or first[message.dedup] is message]
    await link.execute(sql["taking"], *columns(new))
    await link.execute(sql["unused"], list(first))
    have = dict(await link.fetch(sql["have"], list(first)))
    return [have.get(message.dedup, message.id) if message.dedup else message.id for message in messages]


async def prune(link: Link, names: Names, queue: str) -> None:
    await link.execute(texts(names, queue)["prune"])


def message_statements(session: Session, message: Message) -> list[Statement]:
    """The same for a connection of the user's. A message that is a duplicate changes no row, which is a success."""
    session.queue(message.queue)
    session.check_body(message.body)
    sql = texts(session.names, message.queue)
    args = tuple(column[0] for column in columns([message]))
    if message.dedup is None:
        return [Statement(sql["plain one"], args, None)]
    return [Statement(sql["taking one"], args, None), Statement(sql["unused one"], (message.dedup,), None)]


def columns(messages: Iterable[Message]) -> list[list[object]]:
    rows = [(m.id, m.key, m.dedup, headers_of(m.headers), m.body, m.priority, until(m.delay)) for m in messages]
    return [list(column) for column in zip(*rows, strict=True)]


def until(delay: float) -> float:
    """A delay as the server can add it to a time."""
    return float(delay) if delay < FAR else FAR


def headers_of(headers: Mapping[str, str]) -> str:
    return json.dumps(dict(headers), separators=(",", ":")) if headers else ""


def texts(names: Names, queue: str) -> Mapping[str, str]:
    """The statements of one queue."""
    return _texts(tables(names, queue), literal(queue))


@cache
def _texts(t: Tables, name: str) -> Mapping[str, str]:

    def fill(text: str, **more: object) -> str:
        return text.format(message=t.message, ready=t.ready, dedup=t.dedup, queue=name, now=NOW, **more).strip()

    many, one = MANY.format(number=t.number).strip(), ONE.format(number=t.number).strip()
    taking = TAKING.rstrip() + "\n" + PLAIN.split("\n", 2)[2]
    return {
        "plain": fill(PLAIN, new=many, free=""),
        "plain one": fill(PLAIN, new=one, free=""),
        "taking": fill(taking, new=many, free=FREE),
        "taking one": fill(taking, new=one, free=FREE),
        "have": fill(HAVE),
        "unused": fill(UNUSED, keys="ANY ($1::text[])"),
        "unused one": fill(UNUSED, keys="$1::text"),
        "prune": fill(PRUNE, slice=SLICE),
    }


def parsed_headers(text: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(text) if text else {}
    return found
