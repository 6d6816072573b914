"""Queues: messages that are claimed, worked on and settled.

`ddl_queue` has the tables, `sending`, `claims` and `verdicts` the SQL. The claim we hand out is `seq.nonce`; it lives
until it is settled or its owner is freed. All times are the server's: replicas never compare their clocks.

Failure cases. A settle that is repeated: the claim is gone, and the handle remembers what it settled, so the same
outcome is `Settled` again and any other is `Lost`. One whose commit was lost with the connection is not remembered:
the repeated call finds `Lost`, and nothing is done twice. A lost reply to `receive`: the claims stay with the owner
until it is freed; a receive that was cancelled gives back what it took. A crash of the server right after `receive`
may forget the claim, never a verdict.

Waiting: `watch` rings for all queues when a message's number was drawn anywhere, or falsely, or (a transaction of a
user that took long) not at all. So a receive looks when it rang, when the next message is due, and once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from tidemill.adapters.postgres import sending, verdicts
from tidemill.adapters.postgres.claims import Claimer
from tidemill.adapters.postgres.ddl_queue import tables
from tidemill.adapters.postgres.link import Row
from tidemill.adapters.postgres.sending import insert, message_statements
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.verdicts import apply, outcome_statements
from tidemill.adapters.postgres.waiting import DEPTH, parsed, peek, purge
from tidemill.errors import TidemillError
from tidemill.model import (
    MAX_WAIT,
    Delivery,
    Depth,
    Lost,
    Message,
    Outcome,
    QueueSpec,
    Settled,
    Waiting,
)

__all__ = ["Queue", "apply", "insert", "message_statements", "outcome_statements"]

NEWS = ("queue",)

AGAIN, SELDOM = 0.002, 0.02
"""Seconds between two looks while it rings (for another queue, perhaps) and nothing is found: at first, at most."""


class Queue:
    """`ports.Queue` on a server."""

    def __init__(self, session: Session, spec: QueueSpec) -> None:
        self._session = session
        self._name = session.queue(spec.name).name
        self._tables = tables(session.names, spec.name)
        self._sql = verdicts.texts(session.names, spec.name, spec.dedup_window)
        self._claimer = Claimer(self._tables)
        self._depth: tuple[float, Depth] | None = None
        self._pruned = float("-inf")
        self._quiet = float("-inf")  # until then nothing is due, unless it rings
        self._heard = ExitStack()  # from the first receive on it is heard, also between two of them
        self._rang: asyncio.Event | None = None
        self._strays: set[asyncio.Task[None]] = set()

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        session = self._session
        for message in messages:
            session.check_body(message.body)
        if not messages:
            return []
        single = len({message.queue for message in messages}) == 1 and not any(message.dedup for message in messages)
        async with session.data.one() if single else session.data.transaction() as link:
            ids = await insert(link, session, messages)
        self._claimer.sent(message.priority for message in messages)
        self._tell()
        if self._depth:
            later = sum(message.delay > 0 for message in messages)
            at, depth = self._depth
            ready, delayed = depth.ready + len(messages) - later, depth.delayed + later
            self._depth = at, replace(depth, ready=ready, delayed=delayed)
        await self._prune()
        return ids

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        clock, bell = self._session.clock, self._session.watch.bell
        end = clock.monotonic() + min(wait, MAX_WAIT)
        pause = AGAIN
        if self._rang is None:
            self._rang = self._heard.enter_context(bell.listen(NEWS[0]))
            self._session.watch.poke(tell=False)  # it sleeps while nobody listens
        with bell.listen(NEWS[0]) as event:
            look = wait <= 0 or self._rang.is_set() or clock.monotonic() >= self._quiet
            while True:
                if look:
                    event.clear()
                    self._rang.clear()
                    deliveries, due = await self._claim(owner, limit)
                    if deliveries:
                        return deliveries
                    self._quiet = clock.monotonic() + min(max(due, 0.001), MAX_WAIT)
                left = end - clock.monotonic()
                if left <= 0:
                    return ()
                if look:
                    await clock.sleep(min(left, pause, max(due, 0.001)))
                    pause = min(pause * 2, SELDOM)
                rest = min(end, self._quiet) - clock.monotonic()
                look = await clock.wait(event, max(rest, 0.0)) or clock.monotonic() >= self._quiet

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        """Claims live as long as their owner: nothing is written."""
        named = [claim for delivery in deliveries if (claim := verdicts.parsed(delivery.claim))]
        args = [seq for seq, _ in named], [nonce for _, nonce in named]
        held = ((await self._session.data.value(self._sql["held"], *args) if named else "") or "").split()
        return [float("inf") if delivery.claim in held else Lost() for delivery in deliveries]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        session = self._session
        groups = verdicts.groups(outcomes)
        hits: set[str] = set()
        if len(groups) == 1:
            async with session.data.one() as link:
                hits = await verdicts.give(link, session, *groups[0])
        elif groups:
            async with session.data.transaction() as link:
                hits = await apply(link, session, outcomes)
        session.settled.remember([outcome for outcome in outcomes if outcome.delivery.claim in hits])
        if any(what in ("later", "back") for _, what, _ in groups):
            self._came_back()
        settled, lost = Settled(), Lost()
        ours = [outcome.delivery.claim in hits or session.settled.repeated(outcome) for outcome in outcomes]
        return [settled if it_is else lost for it_is in ours]

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        if owners:
            await self._session.data.value(self._sql["free"], list(owners))
            self._came_back()
        return [row[0] for row in await self._session.data.fetch(self._sql["owners"])]

    async def depth(self) -> Depth:
        """Counted once a second, or less often where that takes long."""
        began = self._session.clock.monotonic()
        if self._depth is None or began >= self._depth[0]:
            row = await self._session.data.row(DEPTH.format(ready=self._tables.ready, claim=self._tables.claim))
            assert row is not None
            now = self._session.clock.monotonic()
            self._depth = began + max(1.0, 10 * (now - began)), Depth(*row)
        return self._depth[1]

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        place = parsed(after)
        async with self._session.data.one() as link:
            return await peek(link, self._tables, place, limit)

    async def purge(self) -> int:
        self._depth = None
        async with self._session.data.one() as link:
            return await purge(link, self._tables, self._name)

    def _tell(self) -> None:
        self._session.watch.bell.ring(NEWS)
        self._session.watch.poke()

    def _came_back(self) -> None:
        self._claimer.forget()
        self._tell()

    async def _prune(self) -> None:
        """Once a second; what fails here is done with the next."""
        now = self._session.clock.monotonic()
        if now - self._pruned < 1.0:
            return
        self._pruned = now
        try:
            async with self._session.data.one() as link:
                await sending.prune(link, self._session.names, self._name)
        except TidemillError:
            return  # the messages are sent

    async def _claim(self, owner: str, limit: int) -> tuple[list[Delivery], float]:
        """Claim, and say in how many seconds there is more. What nobody waits for any more goes back: its owner lives
        on and would hold it unknowingly for ever."""
        nonce = f"{self._session.random.getrandbits(64):x}"
        task = asyncio.ensure_future(self._take(owner, nonce, limit))
        try:
            rows, due = await asyncio.shield(task)
        except asyncio.CancelledError:
            stray = asyncio.ensure_future(self._give_back(task, owner, nonce))
            self._strays.add(stray)
            stray.add_done_callback(self._strays.discard)
            raise
        return deliveries_of(self._name, rows, nonce), due

    async def _take(self, owner: str, nonce: str, limit: int) -> tuple[Sequence[Row], float]:
        async with self._session.data.one() as link:
            return await self._claimer.take(link, owner, nonce, limit, self._session.clock.monotonic)

    async def _give_back(self, task: asyncio.Future[tuple[Sequence[Row], float]], owner: str, nonce: str) -> None:
        try:
            rows, _ = await task
            if rows and await self._session.data.value(self._sql["give back"], owner, nonce):
                self._came_back()
        except TidemillError:
            return  # they are found when claims are freed


def deliveries_of(queue: str, rows: Sequence[Row], nonce: str) -> list[Delivery]:
    known = sending.parsed_headers
    return [
        Delivery(
            queue, id, body, key, known(headers) if headers else {}, priority, sent_at, attempt, deliveries, reason,
            f"{seq}.{nonce}",
        )
        for seq, id, body, key, headers, priority, sent_at, attempt, deliveries, reason in rows
    ]  # fmt: skip
