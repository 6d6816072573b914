"""Queues: messages that are claimed, worked on and settled.

A message is a row. Ready or delayed: `owner` is null and `due` in the past or not. Claimed: `owner` is a member,
`nonce` the random name of the receive that took it; the claim we hand out is `seq.nonce`. A claim lives until it
is settled or its owner is freed. Settled messages are deleted; dead ones move to the letters in the same
transaction.

Failure cases. A lost reply to `settle`: the row is gone or has another nonce, and the handle remembers what it
settled, so the same outcome is `Settled` again and any other is `Lost`; only the caller of the first call can
repeat it, so memory is enough. A lost reply to `receive`: the claims stay with the owner until it is freed. A
power cut right after `receive` may forget the claim, never a verdict: claims do not wait for the disk.

Strictly by priority although delayed messages lie between: the claim walks the priorities downwards, each by one
seek in the index, and takes what is due.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any, TypeAlias

from tidemill.adapters.sqlite.session import Session
from tidemill.adapters.sqlite.store import dumps
from tidemill.model import (
    MAX_WAIT,
    Dead,
    Delivery,
    Depth,
    Done,
    Later,
    Lost,
    Message,
    Outcome,
    QueueSpec,
    Settled,
)

Row: TypeAlias = tuple[Any, ...]

CLAIM = """
UPDATE tidemill_message SET owner = ?, nonce = ?, deliveries = deliveries + 1
WHERE seq IN (
    SELECT seq FROM tidemill_message WHERE queue = ? AND owner IS NULL AND priority = ? AND due <= ?
    ORDER BY due, seq LIMIT ?)
RETURNING due, seq, id, body, key, headers, priority, sent_at, attempt, deliveries, reason
"""

NEXT_PRIORITY = (
    "SELECT max(priority) FROM tidemill_message WHERE queue = ? AND owner IS NULL AND priority < ?"
)

NEXT_DUE = """
WITH RECURSIVE step (priority) AS (
    SELECT max(priority) FROM tidemill_message WHERE queue = :queue AND owner IS NULL
    UNION ALL
    SELECT (SELECT max(m.priority) FROM tidemill_message m
            WHERE m.queue = :queue AND m.owner IS NULL AND m.priority < step.priority)
    FROM step WHERE step.priority IS NOT NULL)
SELECT min((SELECT min(m.due) FROM tidemill_message m
            WHERE m.queue = :queue AND m.owner IS NULL AND m.priority = step.priority)) FROM step
"""

DEPTH = """
SELECT count(*) FILTER (WHERE owner IS NULL AND due <= :now), count(*) FILTER (WHERE owner IS NULL AND due > :now),
       min(due) FROM tidemill_message WHERE queue = :queue AND owner IS NULL
"""

BEFORE_ALL = 1 << 62
"""Above every priority."""

PRUNED = 500
"""No more expired dedup keys are removed in one go."""


class Queue:
    """`ports.Queue` on a file."""

    def __init__(self, session: Session, spec: QueueSpec) -> None:
        self._session = session
        self._number = session.queue(spec.name)[1]
        self._name = spec.name
        self._topics = (f"queue/{spec.name}",)
        self._likely = False  # the last receive was full: there is probably more
        self._depth: tuple[float, Depth] | None = None
        self._pruned = float("-inf")

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        session, now = self._session, self._session.clock.now()
        prune = session.clock.monotonic() - self._pruned >= 1.0

        def run(connection: Connection) -> list[str]:
            if prune:
                prune_dedup(connection, now)
            return insert(connection, session, messages, now)

        for message in messages:
            session.check_body(message.body)
        if prune:
            self._pruned = session.clock.monotonic()
        return await session.write(run, rings=self._topics)

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        clock = self._session.clock
        end = clock.monotonic() + min(wait, MAX_WAIT)
        with self._session.bell.listen(self._topics[0]) as event:
            while True:
                event.clear()
                due = 0.0 if self._likely else await self._next_due()
                if due <= clock.now():
                    rows = await self._claim(owner, limit)
                    self._likely = len(rows) == limit
                    if rows:
                        return [delivery(self._name, row) for row in rows]
                left = end - clock.monotonic()
                if left <= 0:
                    return ()
                if due > clock.now():
                    await clock.wait(event, min(left, max(due - clock.now(), 0.001)))

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        """Claims live as long as their owner: nothing is written."""
        claims = [parse(delivery.claim) for delivery in deliveries]

        def run(connection: Connection) -> list[float | Lost]:
            held = "SELECT 1 FROM tidemill_message WHERE seq = ? AND nonce = ?"
            return [
                float("inf") if connection.execute(held, claim).fetchone() else Lost() for claim in claims
            ]

        return await self._session.reads.submit(run)

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        session, now = self._session, self._session.clock.now()

        def remember(hits: set[str]) -> None:
            session.remember([outcome for outcome in outcomes if outcome.delivery.claim in hits])
            session.bell.ring(topics)

        topics = self._topics if any(comes_back(outcome) for outcome in outcomes) else ()
        job = session.writer.submit(
            lambda connection: apply(connection, session, outcomes, now), after=remember
        )
        hits = await job
        return [
            Settled() if outcome.delivery.claim in hits or session.repeated(outcome) else Lost()
            for outcome in outcomes
        ]

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        def run(connection: Connection) -> list[str]:
            if owners:
                connection.execute(
                    "UPDATE tidemill_message SET owner = NULL, nonce = NULL"
                    " WHERE queue = ? AND owner IN (SELECT value FROM json_each(?))",
                    (self._number, json.dumps(list(owners))),
                )
            rows = connection.execute(
                "SELECT DISTINCT owner FROM tidemill_message WHERE queue = ? AND owner IS NOT NULL",
                (self._number,),
            )
            return [row[0] for row in rows]

        if owners:
            return await self._session.write(run, rings=self._topics)
        return await self._session.reads.submit(run)

    async def depth(self) -> Depth:
        clock = self._session.clock
        if self._depth is None or not 0 <= clock.monotonic() - self._depth[0] < 1.0:
            now = clock.now()
            counted = await self._session.slow.submit(lambda connection: count(connection, self._number, now))
            self._depth = (clock.monotonic(), counted)
        return self._depth[1]

    async def _next_due(self) -> float:
        row = await self._session.reads.submit(
            lambda connection: connection.execute(NEXT_DUE, {"queue": self._number}).fetchone()
        )
        return float("inf") if row[0] is None else float(row[0])

    async def _claim(self, owner: str, limit: int) -> list[Row]:
        session = self._session
        now, nonce = session.clock.now(), session.random.getrandbits(62)
        return await session.write(
            lambda connection: claim(connection, self._number, owner, nonce, limit, now), durable=False
        )


# --- inside the writer's transaction ------------------------------------------------------------------------


def insert(connection: Connection, session: Session, messages: Sequence[Message], now: float) -> list[str]:
    """Add messages (of any queue); the id of each, the first one's for a duplicate."""
    sql = (
        "INSERT INTO tidemill_message (queue, id, priority, due, sent_at, key, dedup, headers, body)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (queue, id) DO NOTHING"
    )
    if not any(message.dedup for message in messages):
        connection.executemany(sql, [values(session, message, now) for message in messages])
        return [message.id for message in messages]
    ids = []
    for message in messages:
        row = values(session, message, now)
        first = connection.execute(
            "SELECT id FROM tidemill_dedup WHERE queue = ? AND dedup = ? AND (until IS NULL OR until > ?)",
            (row[0], message.dedup, now),
        ).fetchone()
        if first is None and connection.execute(sql, row).rowcount and message.dedup is not None:
            connection.execute(
                "INSERT OR REPLACE INTO tidemill_dedup VALUES (?, ?, ?, NULL)",
                (row[0], message.dedup, message.id),
            )
        ids.append(first[0] if first else message.id)
    return ids


def values(session: Session, message: Message, now: float) -> Row:
    headers = dumps(dict(message.headers)) if message.headers else ""
    return (
        session.queue(message.queue)[1],
        message.id,
        message.priority,
        now + message.delay,
        now,
        message.key,
        message.dedup,
        headers,
        message.body,
    )


def prune_dedup(connection: Connection, now: float) -> None:
    connection.execute(
        "DELETE FROM tidemill_dedup WHERE (queue, dedup) IN"
        " (SELECT queue, dedup FROM tidemill_dedup WHERE until <= ? LIMIT ?)",
        (now, PRUNED),
    )


def claim(connection: Connection, queue: int, owner: str, nonce: int, limit: int, now: float) -> list[Row]:
    """Take what is due, highest priority first, then by due time; rows as `delivery` wants them."""
    taken: list[Row] = []
    priority = BEFORE_ALL
    while len(taken) < limit:
        priority = connection.execute(NEXT_PRIORITY, (queue, priority)).fetchone()[0]
        if priority is None:
            break
        left = limit - len(taken)
        rows = connection.execute(CLAIM, (owner, nonce, queue, priority, now, left)).fetchall()
        rows.sort(key=lambda row: row[:2])
        taken += [(*row, nonce) for row in rows]
    return taken


def delivery(queue: str, row: Row) -> Delivery:
    _, seq, id, body, key, headers, priority, sent_at, attempt, deliveries, reason, nonce = row
    return Delivery(
        queue,
        id,
        body,
        key,
        json.loads(headers) if headers else {},
        priority,
        sent_at,
        attempt,
        deliveries,
        reason,
        f"{seq}.{nonce}",
    )


def parse(claim: str) -> tuple[int, int]:
    """Seq and nonce; a claim that is none of ours matches no row."""
    seq, _, nonce = claim.partition(".")
    return (int(seq), int(nonce)) if seq.isdecimal() and nonce.isdecimal() else (-1, -1)


def comes_back(outcome: Outcome) -> bool:
    return not outcome.started or isinstance(outcome.verdict, Later)


def apply(connection: Connection, session: Session, outcomes: Sequence[Outcome], now: float) -> set[str]:
    """Give each outcome effect if its claim is the one in the queue; the claims that were."""
    hits: set[str] = set()
    done: dict[int, dict[int, Outcome]] = {}
    for outcome in outcomes:
        seq, nonce = parse(outcome.delivery.claim)
        if outcome.started and isinstance(outcome.verdict, Done):
            done.setdefault(nonce, {})[seq] = outcome
        elif apply_one(connection, session, outcome, (seq, nonce), now):
            hits.add(outcome.delivery.claim)
    for nonce, group in done.items():
        rows = connection.execute(
            "DELETE FROM tidemill_message WHERE seq IN (SELECT value FROM json_each(?)) AND nonce = ?"
            " RETURNING seq, dedup",
            (json.dumps(list(group)), nonce),
        ).fetchall()
        for seq, dedup in rows:
            hits.add(group[seq].delivery.claim)
            if dedup is not None:
                end_dedup(connection, session, group[seq].delivery.queue, dedup, now)
    return hits


def apply_one(
    connection: Connection, session: Session, outcome: Outcome, claim: tuple[int, int], now: float
) -> bool:
    """An outcome that keeps the message in some form."""
    verdict = outcome.verdict
    if not outcome.started:
        sql = "UPDATE tidemill_message SET owner = NULL, nonce = NULL, deliveries = deliveries - 1"
        return connection.execute(f"{sql} WHERE seq = ? AND nonce = ?", claim).rowcount == 1
    if isinstance(verdict, Later):
        sql = (
            "UPDATE tidemill_message SET owner = NULL, nonce = NULL, deliveries = 0, due = ?, reason = ?,"
            " attempt = attempt + ? WHERE seq = ? AND nonce = ?"
        )
        changes = (now + verdict.delay, verdict.reason, int(verdict.attempt), *claim)
        return connection.execute(sql, changes).rowcount == 1
    assert isinstance(verdict, Dead)
    row = connection.execute(
        "SELECT dedup FROM tidemill_message WHERE seq = ? AND nonce = ?", claim
    ).fetchone()
    if row is None:
        return False
    bury(connection, outcome, claim[0], verdict.reason, now)
    if row[0] is not None:
        end_dedup(connection, session, outcome.delivery.queue, row[0], now)
    return True


def bury(connection: Connection, outcome: Outcome, seq: int, reason: str, now: float) -> None:
    """Move a message to the dead letters of its queue."""
    connection.execute(
        "INSERT OR IGNORE INTO tidemill_letter"
        " SELECT ?, id, key, seq, body, attempt + 1, ?, ?, ?, iif(headers = '', '{}', headers),"
        " json_object('priority', priority, 'sent_at', sent_at, 'dedup', dedup) FROM tidemill_message WHERE seq = ?",
        (f"queue/{outcome.delivery.queue}", reason, outcome.error, now, seq),
    )
    connection.execute("DELETE FROM tidemill_message WHERE seq = ?", (seq,))


def end_dedup(connection: Connection, session: Session, queue: str, dedup: str, now: float) -> None:
    """The message is settled: from now on its key is taken for the window only."""
    spec, number = session.queue(queue)
    connection.execute(
        "UPDATE tidemill_dedup SET until = ? WHERE queue = ? AND dedup = ?",
        (now + spec.dedup_window, number, dedup),
    )


def count(connection: Connection, queue: int, now: float) -> Depth:
    ready, delayed, oldest = connection.execute(DEPTH, {"queue": queue, "now": now}).fetchone()
    (claimed,) = connection.execute(
        "SELECT count(*) FROM tidemill_message WHERE queue = ? AND owner IS NOT NULL", (queue,)
    ).fetchone()
    return Depth(ready, delayed, claimed, max(0.0, now - oldest) if ready else 0.0)
