"""Dead letters: the queues' own. Why one is dead are the reason and the description that the service keeps with it.

The description is the error's text, and in its last line what we know besides: `tidemill {"attempts": 3, "at": …}`.
What the service itself has buried (`MaxDeliveryCountExceeded`, `TTLExpiredException`) has its words and no such line.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, TypedDict

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import ServiceBusReceiver, ServiceBusSender

from tidemill.adapters.service_bus.links import Clients, Link, look
from tidemill.adapters.service_bus.wire import body_of, copy, headers_of, note_of, put
from tidemill.errors import ConfigurationError
from tidemill.model import DeadLetter
from tidemill.ports import Clock

QUEUE = "queue/"
OURS = "tidemill "
LONGEST = 4_000
"""Characters of a reason or a description; the service takes 4,096."""
COUNTED = 1_000
"""More dead letters of a queue are not counted."""
FRESH = 5.0
PAGE = 250
ROUNDS = 5
"""Looks for letters that somebody else holds at the moment."""
WAIT = 1.0


Act: TypeAlias = Callable[[ServiceBusReceivedMessage], Awaitable[None]]


class Words(TypedDict):
    """As the client wants them."""

    reason: str
    error_description: str


def bury(reason: str, error: str, attempts: int, at: float) -> Words:
    """What is told of a message that dies."""
    known = f"{OURS}{json.dumps({'attempts': attempts, 'at': at})}"
    return Words(reason=reason[:LONGEST], error_description=f"{error[: LONGEST - len(known) - 1]}\n{known}")


class Graves:
    """The dead letters of one queue. What is claimed here to be released or dropped is nobody else's for a moment."""

    def __init__(self, clients: Clients, queue: str, sender: Link[ServiceBusSender]) -> None:
        self.told: Callable[[Exception, bool], Exception] = clients.told(queue)
        self.sender = sender
        self._link: Link[ServiceBusReceiver] = clients.receiver(queue, dead=True)
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        await self._link.close()

    async def look(self, first: int, most: int) -> list[ServiceBusReceivedMessage]:
        """Letters from this sequence number on. Raises errors of ours."""
        async with self._turn:
            try:
                return await look(self._link, first, most)
            except Exception as error:
                raise self.told(error, False) from error

    async def each(self, ids: set[str], act: Act) -> int:
        """Act on each of these letters and remove it; how many there were. Raises errors of ours."""
        async with self._turn:
            try:
                return await self._rounds(ids, act)
            except Exception as error:
                raise self.told(error, False) from error
            finally:
                self._link.retire()  # what its credit brings later would be locked for nobody

    async def _rounds(self, ids: set[str], act: Act) -> int:
        count = 0
        for _ in range(ROUNDS):
            there = [note_of(message).id for message in await look(self._link, 1, COUNTED)]
            if ids.isdisjoint(there):
                break
            count += await self._some(ids, len(there), act)
        return count

    async def _some(self, ids: set[str], most: int, act: Act) -> int:
        """Those that nobody else holds. What is found beside them is put back."""
        done, others = set[str](), list[ServiceBusReceivedMessage]()
        while len(others) + len(done) < most and not ids <= done:
            receive = partial(ServiceBusReceiver.receive_messages, max_message_count=min(most, 100), max_wait_time=WAIT)
            got = await self._link.use(receive)
            if not got:
                break
            for message in got:
                if (id := note_of(message).id) not in ids:
                    others.append(message)
                    continue
                if id not in done:
                    await act(message)
                done.add(id)
                await self._link.use(partial(ServiceBusReceiver.complete_message, message=message))
        for message in others:
            await self._link.use(partial(ServiceBusReceiver.abandon_message, message=message))
        ids -= done
        return len(done)


class ServiceBusDeadLetters:
    """Implements `tidemill.ports.DeadLetters` for queues; there is no place for those of feeds."""

    def __init__(self, graves: Mapping[str, Graves], shown: str, clock: Clock) -> None:
        self._graves = graves
        self._shown = shown
        self._clock = clock
        self._counts: dict[str, tuple[float, int]] = {}

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        if letters:
            told = "the dead letters of feeds have no place in Service Bus; give the feed another database"
            raise ConfigurationError(f"{self._shown}: {letters[0].source}: {told}")

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        graves = self._graves.get(source)
        found: list[DeadLetter] = []
        start = max(after + 1, 1)
        while graves is not None and len(found) < limit:
            seen = await graves.look(start, PAGE)
            if not seen:
                break
            start = (seen[-1].sequence_number or start) + 1
            letters = [_letter(source, message) for message in seen]
            found += [letter for letter in letters if key is None or letter.key == key]
        return found[:limit]

    async def count(self, prefix: str) -> Mapping[str, int]:
        """A count of those that are looked at, `COUNTED` at most; as old as `FRESH` seconds if it was not zero."""
        counts = {}
        for source, graves in sorted(self._graves.items()):
            if source.startswith(prefix) and (count := await self._count(source, graves)):
                counts[source] = count
        return counts

    async def _count(self, source: str, graves: Graves) -> int:
        now = self._clock.monotonic()
        at, count = self._counts.get(source, (now, 0))
        if not count or now - at > FRESH:
            count = len(await graves.look(1, COUNTED))
            self._counts[source] = now, count
        return count

    async def release(self, source: str, ids: Sequence[str]) -> int:
        graves = self._graves.get(source)
        if graves is None:
            raise ConfigurationError(f"{source!r} cannot be released into a queue; only sources queue/… can")

        async def send(message: ServiceBusReceivedMessage) -> None:
            note = note_of(message)
            again = copy(message, replace(note, attempt=0, reason="", handed=0, copy=note.copy + 1))
            await graves.sender.use(lambda link: put(link, [again]))

        return await self._act(source, graves, ids, send)

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        async def nothing(message: ServiceBusReceivedMessage) -> None:
            """It is removed, and that is all."""

        graves = self._graves.get(source)
        return 0 if graves is None else await self._act(source, graves, ids, nothing)

    async def _act(self, source: str, graves: Graves, ids: Sequence[str], act: Act) -> int:
        self._counts.pop(source, None)
        return await graves.each(set(ids), act)


def _letter(source: str, message: ServiceBusReceivedMessage) -> DeadLetter:
    note, told = note_of(message), message.dead_letter_error_description or ""
    error, _, last = told.rpartition("\n")
    known: Mapping[str, Any] = {}
    if last.startswith(OURS):
        try:
            known = json.loads(last[len(OURS) :])
        except ValueError:
            error = told
    else:
        error = told
    enqueued = message.enqueued_time_utc
    at = known.get("at", enqueued.timestamp() if enqueued else 0.0)
    return DeadLetter(
        source, note.id, note.key, message.sequence_number or 0, body_of(message), known.get("attempts", note.attempt),
        message.dead_letter_reason or "", error, at, headers_of(message), {"sent_at": note.sent_at},
    )  # fmt: skip
