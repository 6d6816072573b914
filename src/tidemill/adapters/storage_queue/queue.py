"""One queue: messages that are claimed for a while, and written anew when something is to be recorded about them.

Receiving polls (`pace`); who holds what is in `claims`; what stands in a message in `envelope`. Recorded are `attempt`,
`reason`, `due` (of a delay), and `uncounted`: how many of the hand-outs that the service counts lie before the last
verdict, or brought the message to nobody. Trust: a claim's deadline is counted from before the request.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from azure.storage.queue import QueueMessage

from tidemill.adapters.azure.several import AT_ONCE, each
from tidemill.adapters.storage_queue.address import Address
from tidemill.adapters.storage_queue.claims import Claims, Held
from tidemill.adapters.storage_queue.envelope import (
    LARGEST,
    RECORDS,
    RESERVE,
    Content,
    fitted,
    plain,
    read,
    room,
    wrapped,
)
from tidemill.adapters.storage_queue.letter import META, QUEUE, order, written
from tidemill.adapters.storage_queue.pace import Pace
from tidemill.adapters.storage_queue.service import PAGE, Queue
from tidemill.errors import ConfigurationError, TooLarge, Unavailable
from tidemill.model import (
    Dead,
    DeadLetter,
    Delivery,
    Depth,
    Done,
    Json,
    Later,
    Lost,
    Message,
    Outcome,
    Settled,
    Waiting,
)
from tidemill.ports import Clock

AGE = 1.0
"""Seconds for which a depth is told again."""


class StorageQueue:
    """Implements `tidemill.ports.Queue`."""

    def __init__(self, name: str, there: Queue, dead: Queue, address: Address, clock: Clock) -> None:
        self.name = name
        self._there = there
        self.dead = dead
        self._address = address
        self._clock = clock
        self._claims = Claims()
        self._pace = Pace(clock, address.poll)
        self._depth: tuple[float, Depth] | None = None
        self._moves = 0
        self._orders = 0

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        now = self._clock.now()
        texts = [self._text(message, now) for message in messages]

        async def one(pair: tuple[Message, tuple[str, bool]]) -> str:
            message, (text, named) = pair
            id = await self._there.send(text, self._hidden(message.delay))
            return message.id if named else id

        ids = await each(one, list(zip(messages, texts, strict=True)))
        self.moved(*{message.delay for message in messages})
        return ids

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        end = self._clock.monotonic() + wait
        asks = wait <= 0
        while True:
            bell = self._pace.bell
            if self._pace.due() or asks:
                taken = await self._take(limit)
                self._pace.asked(len(taken))
                if taken:
                    self._depth = None
                    return taken
            left = end - self._clock.monotonic()
            if left <= 0:
                return []
            await self._pace.rest(bell, left)

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        return await each(self._extend, deliveries)

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        try:
            return await each(self._settle, outcomes)
        finally:
            delays = {
                outcome.verdict.delay if outcome.started and isinstance(outcome.verdict, Later) else 0.0
                for outcome in outcomes
                if not outcome.started or isinstance(outcome.verdict, Later)
            }
            self.moved(*delays)

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        return []

    async def depth(self) -> Depth:
        now, moves = self._clock.monotonic(), self._moves
        if self._depth is not None and now - self._depth[0] < AGE:
            return self._depth[1]
        depth = await self._measured()
        self._depth = (now, depth) if moves == self._moves else None  # else it may lack what was sent meanwhile
        return depth

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        raise ConfigurationError(f"queue {self.name!r}: Azure Storage Queue shows no more than the first 32 messages")

    async def purge(self) -> int:
        told = f"az storage message clear --queue-name {self._there.name}"
        raise ConfigurationError(
            f"queue {self.name!r}: here a purge removes claimed messages too; stop the workers, {told}"
        )

    def moved(self, *delays: float) -> None:
        """Something was put here, or ends its delay after so long: who waits looks again, and the depth is another."""
        self._depth, self._moves = None, self._moves + 1
        for delay in delays:
            self._pace.ring(float(self._hidden(delay)))

    async def put_back(self, text: str) -> None:
        """A message as it stands, at once."""
        await self._there.send(text)
        self.moved(0.0)

    # --- sending --------------------------------------------------------------------------------------------

    def _text(self, message: Message, now: float) -> tuple[str, bool]:
        """As it goes over the wire, and whether that has its id in it. Raises `TooLarge` where what is to be recorded
        later would have no room."""
        line, encoded = _line(message, now), self._address.base64
        if message.delay > self._address.longest:
            line["until"] = now + message.delay
        alone = None if self._address.envelope or "until" in line else plain(message.body, encoded)
        text = alone if alone is not None else wrapped(Content(message.body, line), encoded)
        free = RESERVE if alone is not None else RECORDS
        most = room(encoded) - RESERVE
        if len(message.body) > most or len(text.encode()) > LARGEST - free:
            raise TooLarge(
                f"queue {self.name!r}: the message has {len(text.encode()):,} bytes of text, its body"
                f" {len(message.body):,} before it is encoded; the service takes {LARGEST:,}, a body may have {most:,}:"
                " keep the content elsewhere and send where it is, or send fewer headers"
            )
        return text, alone is None

    def _hidden(self, delay: float) -> int:
        """The service counts whole seconds, and nothing may come early."""
        return math.ceil(min(delay, self._address.longest))

    # --- receiving ------------------------------------------------------------------------------------------

    async def _take(self, limit: int) -> list[Delivery]:
        """A full page is followed by as many more as are wanted, at once. One that fails does not lose the others."""
        self._claims.forget(self._clock.monotonic() - self._address.claim)
        found = await self._page(limit)
        if len(found) == PAGE < limit:
            sizes = [min(PAGE, limit - at) for at in range(PAGE, limit, PAGE)][:AT_ONCE]
            pages = await asyncio.gather(*map(self._page, sizes), return_exceptions=True)
            found += [pair for page in pages if isinstance(page, list) for pair in page]
        deliveries = await each(self._deliver, found)
        return [delivery for delivery in deliveries if delivery is not None]

    async def _page(self, size: int) -> list[tuple[QueueMessage, float]]:
        """Messages, with the deadline of their claims."""
        deadline = self._clock.monotonic() + self._address.claim
        return [(message, deadline) for message in await self._there.receive(size, self._address.claim)]

    async def _deliver(self, pair: tuple[QueueMessage, float]) -> Delivery | None:
        """None for what came back before its time, because the service hides nothing for longer than a week."""
        message, deadline = pair
        content = read(message.content or "", self._address.base64)
        held = Held(message.id, message.pop_receipt or "", deadline, message.dequeue_count or 1, content)
        left = content.number("until") - self._clock.now()
        if left > 0:
            with suppress(Unavailable):  # it comes again when its claim ends; the others were claimed, too
                await self._rewrite(held, left, uncounted=held.dequeued)
            return None
        claim = f"{held.id}.{held.dequeued}"
        self._claims.add(claim, held)
        return Delivery(
            self.name,
            held.name,
            content.body,
            content.key,
            content.headers(),
            content.whole("priority"),
            content.number("sent_at", _seconds(message.inserted_on)),
            content.whole("attempt"),
            max(held.dequeued - content.whole("uncounted"), 1),
            content.text("reason"),
            claim,
            deadline,
        )

    # --- claims ---------------------------------------------------------------------------------------------

    async def _extend(self, delivery: Delivery) -> float | Lost:
        held = self._claims.get(delivery)
        if held is None:
            return Lost()
        async with held.lock:
            if self._claims.get(delivery) is not held or not await self._renew(delivery.claim, held):
                self._claims.drop(delivery.claim)
                return Lost()
            return held.deadline

    async def _renew(self, claim: str, held: Held) -> bool:
        """Whether the claim is still ours; then it has a new receipt and a new deadline."""
        deadline = self._clock.monotonic() + self._address.claim
        held.doubt = True  # until there is an answer
        receipt = await self._there.update(held.id, held.receipt, self._address.claim)
        if receipt is not None:
            self._claims.extended(claim, held, receipt, deadline)
        return receipt is not None

    async def _settle(self, outcome: Outcome) -> Settled | Lost:
        held = self._claims.get(outcome.delivery)
        if held is None:
            return Settled() if self._claims.repeated(outcome) else Lost()
        async with held.lock:
            if self._claims.get(outcome.delivery) is not held:
                return Settled() if self._claims.repeated(outcome) else Lost()
            trial = (outcome.verdict, outcome.started)
            ours = held.tried == trial and not held.doubt and self._clock.monotonic() < held.deadline
            held.tried = trial
            if not await self._apply(held, outcome) and not ours:
                self._claims.drop(outcome.delivery.claim)
                return Lost()
            self._claims.settled(outcome)
            return Settled()

    async def _apply(self, held: Held, outcome: Outcome) -> bool:
        """Whether the service took it; the claim is lost otherwise."""
        content = held.content
        if not outcome.started:
            return await self._rewrite(held, 0.0, uncounted=content.whole("uncounted") + 1)
        match outcome.verdict:
            case Done():
                return await self._there.delete(held.id, held.receipt)
            case Later(delay, reason, counts):
                now = self._clock.now()
                record: dict[str, Json] = {"attempt": content.whole("attempt") + counts, "uncounted": held.dequeued}
                record |= {"reason": reason, "due": now + delay}
                if delay > self._address.longest:
                    record["until"] = now + delay
                return await self._rewrite(held, delay, **record)
            case Dead(reason):
                return await self._bury(outcome.delivery.claim, held, reason, outcome.error)

    async def _rewrite(self, held: Held, hidden: float, **record: Json) -> bool:
        """Hide it for so long, with this recorded as far as there is room for it."""
        text = fitted(Content(held.content.body, {**held.content.line, **record}), self._address.base64)
        return await self._there.update(held.id, held.receipt, self._hidden(hidden), text) is not None

    async def _bury(self, claim: str, held: Held, reason: str, error: str) -> bool:
        """A copy among the dead first, then the message goes: a crash between leaves two of one id, and loses none.
        That the claim is ours is asked before, for a copy cannot be taken back."""
        if not held.buried:
            if not await self._renew(claim, held):
                return False
            await self.dead.send(written(self._letter(held, reason, error), self._address.base64))
            held.buried = True
        return await self._there.delete(held.id, held.receipt)

    def _letter(self, held: Held, reason: str, error: str) -> DeadLetter:
        now, content = self._clock.now(), held.content
        self._orders = max(order(now, held.name), self._orders + 1)
        meta = {name: content.line[name] for name in META if name in content.line}
        return DeadLetter(
            QUEUE + self.name, held.name, content.key, self._orders, content.body, content.whole("attempt") + 1,
            reason, error, now, content.headers(), meta,
        )  # fmt: skip

    # --- depth ----------------------------------------------------------------------------------------------

    async def _measured(self) -> Depth:
        """The service counts all, hidden ones too. What can be seen is counted up to a page; of the hidden ones those
        are called claimed that this process holds, and the others, which other processes may hold, delayed."""
        total = await self._there.count() or 0
        if not total:
            return Depth(0, 0, 0, 0.0)
        seen = await self._there.peek()
        claimed = min(self._claims.standing(self._clock.monotonic()), total)
        ready = len(seen) if len(seen) < PAGE else max(total - claimed, PAGE)
        since = [_since(message, self._address.base64) for message in seen]
        oldest = max(self._clock.now() - min(since), 0.0) if since else 0.0
        return Depth(ready, max(total - claimed - ready, 0), claimed, oldest)


def _line(message: Message, now: float) -> dict[str, Json]:
    """What an envelope says of a message that is sent."""
    line: dict[str, Json] = {"id": message.id, "sent_at": now}
    if message.key is not None:
        line["key"] = message.key
    if message.headers:
        line["headers"] = dict(message.headers)
    if message.priority:
        line["priority"] = message.priority
    if message.dedup is not None:
        line["dedup"] = message.dedup
    if message.delay:
        line["due"] = now + message.delay
    return line


def _since(message: QueueMessage, encoded: bool) -> float:
    """Since when it is ready, as far as it says so itself."""
    content = read(message.content or "", encoded)
    return content.number("due", content.number("sent_at", _seconds(message.inserted_on)))


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0
