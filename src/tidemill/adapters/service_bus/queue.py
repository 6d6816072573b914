"""A queue without sessions: peek-lock, and copies for what the service has no field for.

State: `_claims` are locked by us, each with the deadline that we believe in. Trust: a lock's time is counted from
before the call that gave it, by the queue's lock duration as said (`lock`) or as seen, whichever is shorter; the
clock of the service is compared with nothing of ours. A receive leaves credit on its link when it brings less than
was asked for, and the service may use it afterwards, so the time of what the next one brings runs from that earlier
receive.

A verdict that must be kept (an attempt, a reason, a delay, a hand-out that does not count) goes into a copy of the
message; then the original is completed. Failure cases. *A crash between the two* leaves both: at least once. *A
settle is repeated*: a copy that is known to stand is not sent again, and one that may stand has the same id again, so
that a queue which detects duplicates keeps one. The id is another than the original's, or such a queue would swallow
the copy, and the completion would lose the message. *A completion was not answered*: asked again it finds no lock; if
the lock still had time, our own first try ended it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from azure.servicebus import ServiceBusMessage, ServiceBusMessageState, ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSender

from tidemill.adapters.service_bus.claims import Claims
from tidemill.adapters.service_bus.faults import LOST, unable
from tidemill.adapters.service_bus.letters import bury
from tidemill.adapters.service_bus.links import Clients, Link, look
from tidemill.adapters.service_bus.wire import Note, copy, delivery, fresh, note_of, put
from tidemill.errors import TooLarge
from tidemill.model import Dead, Delivery, Depth, Later, Lost, Message, Outcome, QueueSpec, Settled, Waiting
from tidemill.ports import Clock

LEAST = 0.1
"""Seconds that a receive waits at least: the service answers over a network."""
STALE = 2.0
"""Credit that was left for longer, in seconds, may have locked messages too long ago: their locks are renewed first."""
SOON = 1.0
"""A lock with less time left, in seconds, is renewed before a copy is sent: it may be somebody else's already."""
COUNTED = 500
"""Messages that are looked at for a depth, at most."""
FRESH = 1.0
ABREAST = 100
"""Requests about single messages that are under way at a time."""

I = TypeVar("I")  # noqa: E741
R = TypeVar("R")


@dataclass(slots=True, eq=False)
class Held:
    """A locked message. `copied`: its copy stands. `asked`: a settle was sent, and its outcome is unknown."""

    message: ServiceBusReceivedMessage
    note: Note
    deadline: float
    copied: bool = False
    asked: bool = False


class ServiceBusQueue:
    """Implements `tidemill.ports.Queue`."""

    def __init__(self, clients: Clients, spec: QueueSpec, clock: Clock) -> None:
        self._address = clients.address
        self._spec = spec
        self._clock = clock
        self._told = clients.told(spec.name)
        self.sender: Link[ServiceBusSender] = clients.sender(spec.name)
        self._receiver = clients.receiver(spec.name)
        self._claims: Claims[Held] = Claims()
        self._turn = asyncio.Lock()
        self._abreast = asyncio.Semaphore(ABREAST)
        self._lock = self._address.lock
        self._since: float | None = None
        self._depth: tuple[float, Depth] | None = None

    async def open(self) -> None:
        """Connect both ways. Raises errors of ours."""
        await asyncio.gather(self.sender.open(), self._receiver.open())

    async def close(self) -> None:
        await asyncio.gather(self.sender.close(), self._receiver.close())

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        for message in messages:
            if len(message.body) > self._address.body:
                most = f"{self._address.body} bytes are the most (size={self._address.size >> 10}, in KiB)"
                raise TooLarge(
                    f"{self._address.shown}: queue {self._spec.name!r}: a body of {len(message.body)}; {most}"
                )
        once, now = self._address.window > 0, self._clock.now()
        made = [fresh(message, keyed=False, once=once, now=now) for message in messages]
        await self._put([message for _, message in made])
        return [id for id, _ in made]

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        until = self._clock.monotonic() + max(wait, LEAST)
        try:
            await asyncio.wait_for(self._turn.acquire(), until - self._clock.monotonic())
        except TimeoutError:
            return []  # another receive of ours has the link
        try:
            now = self._clock.monotonic()
            since = now if self._since is None else self._since
            self._since = now  # credit may be left, also if this raises
            left = max(until - now, LEAST / 10)
            received = await self._guarded(self._receiver.use(lambda link: link.receive_messages(limit, left)))
            self._since = now if len(received) < limit else None
        finally:
            self._turn.release()
        taken = [self._take(message, since) for message in received]
        if taken and now - since > STALE:
            kept = await self.extend(taken)
            taken = [
                one._replace(deadline=till) for one, till in zip(taken, kept, strict=True) if not isinstance(till, Lost)
            ]
        return taken

    def _take(self, message: ServiceBusReceivedMessage, since: float) -> Delivery:
        self._depth = None
        if message.locked_until_utc and message.enqueued_time_utc:
            seen = (message.locked_until_utc - message.enqueued_time_utc).total_seconds()
            self._lock = min(self._lock, max(seen, LEAST))  # it cannot have been locked before it was there
        note = note_of(message)
        note = replace(note, handed=note.handed + (message.delivery_count or 0) + 1)
        claim, deadline = str(message.lock_token), since + self._lock
        self._claims.held[claim] = Held(message, note, deadline)
        for old, held in list(self._claims.held.items())[:2]:  # those that nobody settles, a few at a time
            if held.deadline + self._lock + 60 < since:
                del self._claims.held[old]
        return delivery(self._spec.name, message, note, claim, deadline)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        return await self._each(self._extend, deliveries)

    async def _extend(self, delivery: Delivery) -> float | Lost:
        held = self._claims.of(delivery)
        if held is None or held.copied:
            return Lost()
        asked = self._clock.monotonic()
        try:
            await self._receiver.use(lambda link: link.renew_message_lock(held.message), asks=1)
        except LOST:
            return Lost()
        held.deadline = max(held.deadline, asked + self._lock)
        return held.deadline

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        self._depth = None
        first = {outcome.delivery.claim: outcome for outcome in reversed(outcomes)}
        ours = [outcome for outcome in first.values() if self._claims.of(outcome.delivery) is not None]
        await self._copy([outcome for outcome in ours if _comes_back(outcome)])
        await self._each(self._settle, ours)
        return [self._claims.absent(outcome) for outcome in outcomes]

    async def _copy(self, outcomes: Sequence[Outcome]) -> None:
        """Send what comes back; those whose lock is lost are not held any more."""
        now = self._clock.monotonic()
        late = [one for one in outcomes if (held := self._claims.of(one.delivery)) and held.deadline < now + SOON]
        for one, kept in zip(late, await self.extend([one.delivery for one in late]), strict=True):
            held = self._claims.of(one.delivery)
            if isinstance(kept, Lost) and held is not None and not held.copied:
                self._claims.lost(one)
        pairs = [(one, held) for one in outcomes if (held := self._claims.of(one.delivery)) and not held.copied]
        if pairs:
            await self._put([self._next(one, held) for one, held in pairs])
        for _, held in pairs:
            held.copied = True

    def _next(self, outcome: Outcome, held: Held) -> ServiceBusMessage:
        note, verdict = replace(held.note, copy=held.note.copy + 1), outcome.verdict
        if not outcome.started or not isinstance(verdict, Later):
            return copy(held.message, replace(note, handed=note.handed - 1))
        note = replace(note, attempt=note.attempt + verdict.attempt, reason=verdict.reason, handed=0)
        return copy(held.message, note, due=self._clock.now() + verdict.delay if verdict.delay > 0 else 0.0)

    async def _settle(self, outcome: Outcome) -> Settled | Lost:
        held = self._claims.of(outcome.delivery)
        if held is None:
            return Lost()

        async def end(link: ServiceBusReceiver) -> None:
            if outcome.started and isinstance(outcome.verdict, Dead):
                told = bury(outcome.verdict.reason, outcome.error, held.note.attempt + 1, self._clock.now())
                await link.dead_letter_message(held.message, **told)
            else:
                await link.complete_message(held.message)

        try:
            await self._receiver.use(end)
        except LOST:
            ours = held.copied or (held.asked and self._clock.monotonic() < held.deadline)
            return self._claims.ended(outcome) if ours else self._claims.lost(outcome)
        except Exception:
            held.asked = True
            raise
        return self._claims.ended(outcome)

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        return []

    async def depth(self) -> Depth:
        now = self._clock.monotonic()
        if self._depth is None or now - self._depth[0] > FRESH:
            self._depth = now, await self._count()
        return self._depth[1]

    async def _count(self) -> Depth:
        found = await self._guarded(look(self._receiver, 1, COUNTED))
        mine = {held.message.sequence_number for held in self._claims.held.values()}
        delayed = sum(message.state == ServiceBusMessageState.SCHEDULED for message in found)
        ready = [
            message for message in found
            if message.state == ServiceBusMessageState.ACTIVE and message.sequence_number not in mine
        ]  # fmt: skip
        times = [message.enqueued_time_utc.timestamp() for message in ready if message.enqueued_time_utc]
        return Depth(len(ready), delayed, len(mine), max(self._clock.now() - min(times), 0.0) if times else 0.0)

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        raise unable(self._spec.name, "what waits cannot be told from what is claimed by others")

    async def purge(self) -> int:
        raise unable(self._spec.name, "messages are removed one by one; delete the queue and create it again")

    async def _put(self, messages: Sequence[ServiceBusMessage]) -> None:
        self._depth = None
        if messages:
            await self._guarded(self.sender.use(lambda link: put(link, messages)))

    async def _guarded(self, call: Awaitable[R]) -> R:
        try:
            return await call
        except Exception as error:
            raise self._told(error, False) from error

    async def _each(self, call: Callable[[I], Awaitable[R]], items: Sequence[I]) -> list[R]:
        """Each by itself, some abreast; raises the first error when all have ended."""

        async def one(item: I) -> R | Exception:
            async with self._abreast:
                try:
                    return await call(item)
                except Exception as error:
                    return self._told(error, False)

        results = await asyncio.gather(*map(one, items))
        for result in results:
            if isinstance(result, Exception):
                raise result
        return [result for result in results if not isinstance(result, Exception)]


def _comes_back(outcome: Outcome) -> bool:
    return not outcome.started or isinstance(outcome.verdict, Later)
