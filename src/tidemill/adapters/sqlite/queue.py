"""Queues: messages that are claimed, worked on and settled.

A message is a row that does not change until it is settled. Beside it stands one narrow row: in `tidemill_ready`
(ready or delayed, in the order of claiming) or in `tidemill_claim` (its owner, and the random name of the receive
that took it), so claiming moves a few bytes and never a body. The claim we hand out is `seq.nonce`. A claim lives
until it is settled or its owner is freed. Settled messages are deleted; dead ones move to the letters in the same
transaction.

Failure cases. A lost reply to `settle`: the row is gone or has another nonce, and the handle remembers what it
settled, so the same outcome is `Settled` again and any other is `Lost`; only the caller of the first call can
repeat it, so memory is enough. A lost reply to `receive`: the claims stay with the owner until it is freed. A
power cut right after `receive` may forget the claim, never a verdict: claims do not wait for the disk.

Strictly by priority although delayed messages lie between: the claim walks the priorities downwards, each by one
seek in the index, and takes what is due.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from sqlite3 import Connection
from typing import Any, TypeAlias

from tidemill.adapters.sqlite.session import Session
from tidemill.adapters.sqlite.store import dumps
from tidemill.adapters.sqlite.waiting import parsed, peek, purge
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
    Waiting,
)

Row: TypeAlias = tuple[Any, ...]

DUE = "queue = ? AND priority = ? AND (due, seq) <= (?, ?)"

TAKE = """
SELECT r.due, r.seq, m.id, m.body, m.key, m.headers, r.priority, m.sent_at, m.attempt, r.deliveries + 1, m.reason
FROM tidemill_ready r CROSS JOIN tidemill_message m ON m.seq = r.seq
WHERE r.queue = ? AND r.priority = ? AND r.due <= ? ORDER BY r.due, r.seq LIMIT ?
"""

HOLD = f"""
INSERT INTO tidemill_claim (seq, queue, priority, due, deliveries, dedup, owner, nonce)
SELECT seq, queue, priority, due, deliveries + 1, dedup, ?, ? FROM tidemill_ready WHERE {DUE}
"""

HOLDERS = """
SELECT group_concat(seq || '.' || nonce), group_concat(dedup) FROM tidemill_claim
WHERE seq IN (SELECT value FROM json_each(?))
"""
"""One row, because each row would offer the interpreter's lock to the other threads (see `columns`)."""

NEXT_PRIORITY = "SELECT max(priority) FROM tidemill_ready WHERE queue = ? AND priority < ?"

NEXT_DUE = """
WITH RECURSIVE step (priority) AS (
    SELECT max(priority) FROM tidemill_ready WHERE queue = :queue
    UNION ALL
    SELECT (SELECT max(r.priority) FROM tidemill_ready r WHERE r.queue = :queue AND r.priority < step.priority)
    FROM step WHERE step.priority IS NOT NULL)
SELECT min((SELECT min(r.due) FROM tidemill_ready r WHERE r.queue = :queue AND r.priority = step.priority)) FROM step
"""

DEPTH = """
SELECT count(*) FILTER (WHERE due <= :now), count(*) FILTER (WHERE due > :now), min(due),
       (SELECT count(*) FROM tidemill_claim WHERE queue = :queue)
FROM tidemill_ready WHERE queue = :queue
"""

PUT_BACK = """
INSERT INTO tidemill_ready (queue, priority, due, seq, deliveries, dedup)
SELECT queue, priority, {due}, seq, {deliveries}, dedup FROM tidemill_claim WHERE """

END_DEDUP = """
UPDATE tidemill_dedup SET until = ? WHERE (queue, dedup) = (SELECT queue, dedup FROM tidemill_message WHERE seq = ?)
"""

IN_LIST = "IN (SELECT value FROM json_each(?))"

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
        self._depth = None
        return await session.write(run, rings=self._topics)

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        clock = self._session.clock
        end = clock.monotonic() + min(wait, MAX_WAIT)
        with self._session.bell.listen(self._topics[0]) as event:
            while True:
                event.clear()
                due = 0.0 if self._likely else await self._next_due()
                if due <= clock.now():
                    deliveries = await self._claim(owner, limit)
                    self._likely = len(deliveries) == limit
                    if deliveries:
                        return deliveries
                left = end - clock.monotonic()
                if left <= 0:
                    return ()
                if due > clock.now():
                    await clock.wait(event, min(left, max(due - clock.now(), 0.001)))

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        """Claims live as long as their owner: nothing is written."""
        claims = [delivery.claim for delivery in deliveries]
        held = await self._session.reads.submit(lambda connection: holders(connection, claims))
        return [float("inf") if claim in held else Lost() for claim in claims]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        session, now = self._session, self._session.clock.now()

        def remember(hits: set[str]) -> None:
            session.settled.remember([outcome for outcome in outcomes if outcome.delivery.claim in hits])
            session.bell.ring(topics)

        topics = self._topics if any(comes_back(outcome) for outcome in outcomes) else ()
        job = session.writer.submit(lambda connection: apply(connection, session, outcomes, now), after=remember)
        hits = await job
        settled, lost = Settled(), Lost()
        ours = [outcome.delivery.claim in hits or session.settled.repeated(outcome) for outcome in outcomes]
        return [settled if it_is else lost for it_is in ours]

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        def run(connection: Connection) -> list[str]:
            if owners:
                theirs, args = f"queue = ? AND owner {IN_LIST}", (self._number, json.dumps(list(owners)))
                connection.execute(PUT_BACK.format(due="due", deliveries="deliveries") + theirs, args)
                connection.execute(f"DELETE FROM tidemill_claim WHERE {theirs}", args)
            rows = connection.execute("SELECT DISTINCT owner FROM tidemill_claim WHERE queue = ?", (self._number,))
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

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        place = parsed(after)
        return await self._session.reads.submit(lambda connection: peek(connection, self._number, place, limit))

    async def purge(self) -> int:
        self._depth = None
        return await self._session.write(lambda connection: purge(connection, self._number), rings=())

    async def _next_due(self) -> float:
        row = await self._session.reads.submit(
            lambda connection: connection.execute(NEXT_DUE, {"queue": self._number}).fetchone()
        )
        return float("inf") if row[0] is None else float(row[0])

    async def _claim(self, owner: str, limit: int) -> list[Delivery]:
        """Claim in the writer. What nobody waits for any more (a time limit above us, a cancelled task) goes back:
        its owner lives on and would hold it unknowingly for ever."""
        session = self._session
        now, nonce = session.clock.now(), f"{session.random.getrandbits(64):x}"

        def orphaned(rows: list[Row]) -> None:
            if rows and session.running:
                session.writer.submit(lambda connection: give_back(connection, nonce), durable=False)

        job = session.writer.submit(
            lambda connection: claim(connection, self._number, owner, nonce, limit, now),
            after=lambda rows: orphaned(rows) if job.done() else None,
            durable=False,
        )
        try:
            return deliveries_of(self._name, await job, nonce)
        except asyncio.CancelledError:
            if job.done() and not job.cancelled():
                orphaned(job.result())
            raise


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


def claim(connection: Connection, queue: int, owner: str, nonce: str, limit: int, now: float) -> list[Row]:
    """Take what is due, highest priority first, then by due time; rows as `deliveries_of` wants them."""
    taken: list[Row] = []
    priority = BEFORE_ALL
    while len(taken) < limit:
        priority = connection.execute(NEXT_PRIORITY, (queue, priority)).fetchone()[0]
        if priority is None:
            break
        rows = connection.execute(TAKE, (queue, priority, now, limit - len(taken))).fetchall()
        if rows:  # all up to the last of them are claimed: the order of both statements is one
            upto = (queue, priority, *rows[-1][:2])
            connection.execute(HOLD, (owner, nonce, *upto))
            connection.execute(f"DELETE FROM tidemill_ready WHERE {DUE}", upto)
            taken += rows
    return taken


def deliveries_of(queue: str, rows: list[Row], nonce: str) -> list[Delivery]:
    return [
        Delivery(
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
        for _, seq, id, body, key, headers, priority, sent_at, attempt, deliveries, reason in rows
    ]


def holders(connection: Connection, claims: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of the claims on these messages, each with its seq and whether there is a dedup key."""
    seqs = json.dumps([claim.partition(".")[0] for claim in claims])
    held, dedups = connection.execute(HOLDERS, (seqs,)).fetchone()
    if held is None:
        return {}
    return {
        claim: (int(claim.partition(".")[0]), int(dedup))
        for claim, dedup in zip(held.split(","), dedups.split(","), strict=True)
    }


def comes_back(outcome: Outcome) -> bool:
    return not outcome.started or isinstance(outcome.verdict, Later)


def apply(connection: Connection, session: Session, outcomes: Sequence[Outcome], now: float) -> set[str]:
    """Give each outcome effect if its claim is the one in the queue; the claims that were."""
    asked = {outcome.delivery.claim: outcome for outcome in outcomes}
    ours = {claim: found for claim, found in holders(connection, asked).items() if claim in asked}
    leaving = []
    for claim, (seq, dedup) in ours.items():
        outcome = asked[claim]
        if outcome.started and type(outcome.verdict) is Done and not dedup:  # what nearly all are, without the long way
            leaving.append(seq)
            continue
        if comes_back(outcome):
            put_back(connection, outcome, seq, now)
            continue
        leaving.append(seq)
        if dedup:
            window = session.queue(outcome.delivery.queue)[0].dedup_window
            connection.execute(END_DEDUP, (now + window, seq))
        if isinstance(outcome.verdict, Dead):
            bury(connection, outcome, seq, outcome.verdict.reason, now)
    connection.execute(f"DELETE FROM tidemill_message WHERE seq {IN_LIST}", (json.dumps(leaving),))
    settled = json.dumps([seq for seq, _ in ours.values()])
    connection.execute(f"DELETE FROM tidemill_claim WHERE seq {IN_LIST}", (settled,))
    return set(ours)


def put_back(connection: Connection, outcome: Outcome, seq: int, now: float) -> None:
    """Make a claimed message ready again: after a delay, or as if it had never been handed out."""
    if outcome.started and isinstance(outcome.verdict, Later):
        verdict = outcome.verdict
        connection.execute(PUT_BACK.format(due="?", deliveries="0") + "seq = ?", (now + verdict.delay, seq))
        connection.execute(
            "UPDATE tidemill_message SET attempt = attempt + ?, reason = ? WHERE seq = ?",
            (int(verdict.attempt), verdict.reason, seq),
        )
    else:
        connection.execute(PUT_BACK.format(due="due", deliveries="deliveries - 1") + "seq = ?", (seq,))


def give_back(connection: Connection, nonce: str) -> None:
    """End all claims of one receive, as if it had never been."""
    connection.execute(PUT_BACK.format(due="due", deliveries="deliveries - 1") + "nonce = ?", (nonce,))
    connection.execute("DELETE FROM tidemill_claim WHERE nonce = ?", (nonce,))


def bury(connection: Connection, outcome: Outcome, seq: int, reason: str, now: float) -> None:
    """Copy a message to the dead letters of its queue."""
    connection.execute(
        "INSERT OR IGNORE INTO tidemill_letter"
        " SELECT ?, id, key, seq, body, attempt + 1, ?, ?, ?, iif(headers = '', '{}', headers),"
        " json_object('priority', priority, 'sent_at', sent_at, 'dedup', dedup) FROM tidemill_message WHERE seq = ?",
        (f"queue/{outcome.delivery.queue}", reason, outcome.error, now, seq),
    )


def count(connection: Connection, queue: int, now: float) -> Depth:
    ready, delayed, oldest, claimed = connection.execute(DEPTH, {"queue": queue, "now": now}).fetchone()
    return Depth(ready, delayed, claimed, max(0.0, now - oldest) if ready else 0.0)
