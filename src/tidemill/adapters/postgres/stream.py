"""Queues with an order by key: what is sent is appended to a log, and read like any feed.

So they have what feeds have: order per key, parked keys, no dead rows. A key's messages stand in the order in which
they were sent, if each send had ended before the next began; between two transactions that were open together there is
none. `doc` is the message's id, `before` its headers. A message is known again for the queue's dedup window after it
was *sent*: by its `dedup`, else by its id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NoReturn

from tidemill.adapters.postgres import trimming
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, literal
from tidemill.adapters.postgres.sending import insert, prune
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.windows import FIRST, Cursor
from tidemill.errors import ConfigurationError
from tidemill.model import Delivery, Depth, Lost, Message, Outcome, QueueSpec, Settled, Statement, StreamSpec, Waiting

TAKE = """
INSERT INTO {s}.dedup AS d SELECT {queue}, w.dedup, w.id, clock_timestamp() + interval '{window} s' FROM {given}
ON CONFLICT (queue, dedup) DO UPDATE SET id = excluded.id, until = excluded.until WHERE d.until <= clock_timestamp()
RETURNING dedup
"""
"""The keys that were free, taken for these messages."""

APPEND = """
INSERT INTO {log} (era, slot, part, kind, doc, key, body, before)
SELECT o.era, o.slot, {s}.part(w.key, {partitions}), 0, w.id, w.key, w.body, w.headers FROM {given},
    (SELECT era, slot FROM {s}.source WHERE name = {name}) o {where} ORDER BY w.place
"""

TAKEN = "SELECT dedup, id FROM {s}.dedup WHERE queue = {queue} AND dedup = ANY ($1::text[])"

MANY = """unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
    WITH ORDINALITY AS w (id, dedup, key, body, headers, place)"""

ONE = "(VALUES ($1::text, $2::text, $3::text, $4::bytea, $5::bytea, 1)) AS w (id, dedup, key, body, headers, place)"


class StreamQueue:
    """The sending end, as `ports.Queue`. Nothing is received from it: its workers read the log."""

    def __init__(self, session: Session, spec: QueueSpec) -> None:
        self._session = session
        self._spec = spec

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        session = self._session
        for message in messages:
            session.check_body(message.body)
        if not messages:
            return []
        async with session.data.transaction() as link:
            ids = await append(link, session, self._spec, messages)
            await prune(link, session.names, self._spec.name)
        session.watch.poke()
        return ids

    async def depth(self) -> Depth:
        """What has not been trimmed: it goes about a minute after it was worked on."""
        stream = StreamSpec.of(self._spec.name)
        marks = await trimming.marks(self._session, stream.name)
        cursors = {str(part): marks.get(part, Cursor(FIRST)) for part in range(stream.partitions)}
        lags = (await trimming.lag(self._session, stream.name, self._session.names.log(stream.name), cursors)).values()
        return Depth(sum(lag.items for lag in lags), 0, 0, max(lag.seconds for lag in lags))

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        self._no()

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        self._no()

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        self._no()

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        return []

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        self._no()

    async def purge(self) -> int:
        self._no()

    def _no(self) -> NoReturn:
        raise ConfigurationError(f"queue {self._spec.name!r} is ordered by its key: its worker reads it like a feed")


async def append(link: Link, session: Session, spec: QueueSpec, messages: Sequence[Message]) -> list[str]:
    """Send, in the transaction of `link`; the ids, the first one's for a duplicate."""
    taking: dict[str, Message] = {}
    for message in messages:
        taking.setdefault(known_by(message), message)
    new = {row[0] for row in await link.fetch(text(session.names, spec, TAKE, MANY), *columns(taking.values()))}
    fresh = [message for name, message in taking.items() if name in new]
    if fresh:
        await link.execute(text(session.names, spec, APPEND, MANY), *columns(fresh))
    first = {name: message.id for name, message in taking.items()}
    if len(new) < len(taking):
        first |= dict(await link.fetch(text(session.names, spec, TAKEN, MANY), list(taking.keys() - new)))
    return [first[known_by(message)] for message in messages]


async def insert_all(link: Link, session: Session, messages: Sequence[Message]) -> list[str]:
    """Send messages of any queues, in the transaction of `link`."""
    ordered = {m.queue: spec for m in messages if (spec := session.queue(m.queue)).key is not None}
    if not ordered:
        return await insert(link, session, messages)
    ids: dict[int, str] = {}
    for queue in dict.fromkeys(message.queue for message in messages):
        at = [n for n, message in enumerate(messages) if message.queue == queue]
        mine = [messages[n] for n in at]
        keyed = ordered.get(queue)
        found = await (insert(link, session, mine) if keyed is None else append(link, session, keyed, mine))
        ids.update(zip(at, found, strict=True))
    return [ids[n] for n in range(len(messages))]


def stream_statements(session: Session, spec: QueueSpec, message: Message) -> list[Statement]:
    """The same for a connection of the user's. A duplicate changes no row, which is a success."""
    session.check_body(message.body)
    args = tuple(column[0] for column in columns([message]))
    take = text(session.names, spec, TAKE, ONE)
    both = f"WITH free AS ({take}) {text(session.names, spec, APPEND, ONE, where='WHERE EXISTS (SELECT FROM free)')}"
    return [Statement(both, args, None)]


def text(names: Names, spec: QueueSpec, sql: str, given: str, *, where: str = "") -> str:
    stream = StreamSpec.of(spec.name)
    return sql.format(
        s=names.schema,
        queue=literal(spec.name),
        window=float(spec.dedup_window),
        given=given,
        log=names.log(stream.name),
        partitions=stream.partitions,
        name=literal(stream.name),
        where=where,
    )


def known_by(message: Message) -> str:
    """What a repetition has in common with it."""
    return f"id {message.id}" if message.dedup is None else f"key {message.dedup}"


def columns(messages: Iterable[Message]) -> list[list[object]]:
    rows = [
        (
            message.id,
            known_by(message),
            message.id if message.key is None else message.key,
            message.body,
            json.dumps(dict(message.headers)).encode() if message.headers else None,
        )
        for message in messages
    ]
    return [list(column) for column in zip(*rows, strict=True)]
