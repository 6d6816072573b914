"""Queues in memory: heaps by due time and by priority, claims that belong to members."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from tidemill.adapters.memory.state import Held, QueueState, State
from tidemill.errors import BadOption
from tidemill.model import (
    Dead,
    DeadLetter,
    Delivery,
    Depth,
    Done,
    Later,
    Lost,
    Message,
    Outcome,
    Settled,
    Waiting,
)

REMEMBERED = 10_000
"""Settled claims that are recognised when the same outcome comes again because its reply was lost."""

PURGED = 1_000
"""No more messages are removed by one purge."""

SOON = 0.001
"""Nobody waits for less, in seconds: the time of day is too coarse to tell the moment before a message is due."""


class MemoryQueue:
    """Implements `tidemill.ports.Queue`."""

    def __init__(self, state: State, queue: QueueState) -> None:
        self._state = state
        self._queue = queue

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        ids = [send(self._state, self._queue, message) for message in messages]
        self._queue.bell.ring()
        return ids

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        clock = self._state.clock
        deadline = clock.monotonic() + wait
        while not (claimed := self._claim(owner, limit)):
            left = deadline - clock.monotonic()
            if left <= 0:
                return []
            waiting = self._queue.waiting
            first_due = max(waiting[0][0] - clock.now(), SOON) if waiting else left
            await clock.wait(self._queue.bell.event, min(left, first_due))
        return claimed

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        return [float("inf") if claimed(self._queue, d) else Lost() for d in deliveries]

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        replies = [settle(self._state, self._queue, outcome) for outcome in outcomes]
        self._queue.bell.ring()
        return replies

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        others: set[str] = set()
        for held in self._queue.messages.values():
            if held.claim and held.owner in owners:
                held.owner = held.claim = ""
                enqueue(self._state, self._queue, held)
            elif held.claim:
                others.add(held.owner)
        self._queue.bell.ring()
        return sorted(others)

    async def depth(self) -> Depth:
        now = self._state.clock.now()
        unclaimed = [held for held in self._queue.messages.values() if not held.claim]
        ready = [held.due for held in unclaimed if held.due <= now]
        claimed = len(self._queue.messages) - len(unclaimed)
        return Depth(len(ready), len(unclaimed) - len(ready), claimed, now - min(ready) if ready else 0.0)

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        behind = _parsed(after)
        places = [(_place(held), held) for held in self._queue.messages.values() if not held.claim]
        found = sorted((pair for pair in places if pair[0] > behind), key=lambda pair: pair[0])
        return [_waiting(held) for _, held in found[:limit]]

    async def purge(self) -> int:
        queue = self._queue
        doomed = [held for held in queue.messages.values() if not held.claim][:PURGED]
        for held in doomed:
            del queue.messages[held.id]  # its entry in a heap is void by that
            if held.dedup is not None and queue.dedup.get(held.dedup) == held.id:
                del queue.dedup[held.dedup]
        return len(doomed)

    def _claim(self, owner: str, limit: int) -> list[Delivery]:
        queue, now = self._queue, self._state.clock.now()
        while queue.waiting and queue.waiting[0][0] <= now:
            due, serial, id = heappop(queue.waiting)
            held = queue.messages.get(id)
            if held is not None and held.serial == serial and not held.claim:
                heappush(queue.ready, (-held.priority, due, serial, id))
        taken: list[Delivery] = []
        while queue.ready and len(taken) < limit:
            _, _, serial, id = heappop(queue.ready)
            held = queue.messages.get(id)
            if held is None or held.serial != serial or held.claim:
                continue  # it was settled, freed or sent anew since this entry was made
            held.owner, held.claim = owner, f"c{self._state.serial()}"
            held.deliveries += 1
            taken.append(_delivery(held))
        return taken


def send(state: State, queue: QueueState, message: Message) -> str:
    """Add a message unless its id or dedup key is there already; the id that counts."""
    now = state.clock.now()
    if message.id in queue.messages:
        return message.id
    if message.dedup is not None:
        _forget(queue, now)
        if message.dedup in queue.dedup:
            return queue.dedup[message.dedup]
        queue.dedup[message.dedup] = message.id
    held = Held(
        queue.spec.name,
        message.id,
        message.body,
        message.key,
        dict(message.headers),
        message.priority,
        now,
        now + message.delay,
        0,
        message.dedup,
    )
    queue.messages[message.id] = held
    enqueue(state, queue, held)
    return message.id


def enqueue(state: State, queue: QueueState, held: Held) -> None:
    """Make it claimable when it is due. Its new serial makes older heap entries void."""
    held.serial = state.serial()
    heappush(queue.waiting, (held.due, held.serial, held.id))


def claimed(queue: QueueState, delivery: Delivery) -> bool:
    """Whether this claim is the one in the queue."""
    held = queue.messages.get(delivery.id)
    return held is not None and held.claim == delivery.claim


def repeated(queue: QueueState, outcome: Outcome) -> bool:
    """Whether this very outcome took effect before and its reply was lost."""
    known = queue.settled.get(outcome.delivery.claim)
    return (
        known is not None
        and known.delivery.id == outcome.delivery.id
        and (known.verdict, known.started) == (outcome.verdict, outcome.started)
    )


def settle(state: State, queue: QueueState, outcome: Outcome) -> Settled | Lost:
    """Give one outcome effect if its claim still stands."""
    delivery = outcome.delivery
    if not claimed(queue, delivery):
        return Settled() if repeated(queue, outcome) else Lost()
    held = queue.messages[delivery.id]
    _remember(queue, outcome)
    now = state.clock.now()
    held.owner = held.claim = ""
    if not outcome.started:
        held.deliveries -= 1
        enqueue(state, queue, held)
        return Settled()
    match outcome.verdict:
        case Done():
            _remove(queue, held, now)
        case Later(delay, reason, attempt):
            held.attempt += int(attempt)
            held.deliveries, held.reason, held.due = 0, reason, now + delay
            enqueue(state, queue, held)
        case Dead(reason):
            _remove(queue, held, now)
            letter = _letter(state, held, reason, outcome.error, now)
            state.letters.setdefault(letter.source, {}).setdefault(held.id, letter)
    return Settled()


def revive(state: State, queue: QueueState, letter: DeadLetter) -> None:
    """Put a dead message back, with attempt 0; its dedup key is taken again unless a newer message has it."""
    if letter.id in queue.messages:
        return
    priority, sent_at, dedup = (letter.meta.get(name) for name in ("priority", "sent_at", "dedup"))
    now = state.clock.now()
    held = Held(
        queue.spec.name,
        letter.id,
        letter.body or b"",
        letter.key,
        dict(letter.headers),
        priority if isinstance(priority, int) else 0,
        sent_at if isinstance(sent_at, float) else now,
        now,
        0,
        dedup if isinstance(dedup, str) else None,
    )
    if held.dedup is not None and queue.dedup.setdefault(held.dedup, held.id) == held.id:
        queue.ending.pop(held.dedup, None)
    queue.messages[letter.id] = held
    enqueue(state, queue, held)


def _remember(queue: QueueState, outcome: Outcome) -> None:
    queue.settled[outcome.delivery.claim] = outcome
    if len(queue.settled) > REMEMBERED:
        del queue.settled[next(iter(queue.settled))]


def _remove(queue: QueueState, held: Held, now: float) -> None:
    del queue.messages[held.id]
    if held.dedup is not None and queue.dedup.get(held.dedup) == held.id:
        queue.ending[held.dedup] = now + queue.spec.dedup_window


def _forget(queue: QueueState, now: float) -> None:
    """Drop the keys whose window is over."""
    while queue.ending:
        key, until = next(iter(queue.ending.items()))
        if until > now:
            return
        del queue.ending[key], queue.dedup[key]


def _letter(state: State, held: Held, reason: str, error: str, now: float) -> DeadLetter:
    source = f"queue/{held.queue}"
    meta = {"priority": held.priority, "sent_at": held.sent_at, "dedup": held.dedup}
    attempts = held.attempt + 1
    return DeadLetter(
        source, held.id, held.key, state.serial(), held.body, attempts, reason, error, now, held.headers, meta
    )


def _delivery(held: Held) -> Delivery:
    return Delivery(
        held.queue,
        held.id,
        held.body,
        held.key,
        held.headers,
        held.priority,
        held.sent_at,
        held.attempt,
        held.deliveries,
        held.reason,
        held.claim,
    )


def _place(held: Held) -> tuple[float, float, int]:
    return -held.priority, held.due, held.serial


def _parsed(place: str) -> tuple[float, float, int]:
    if not place:
        return float("-inf"), 0.0, 0
    try:
        priority, due, serial = place.split("/")
        return -int(priority), float(due), int(serial)
    except ValueError:
        raise BadOption(f"{place!r} is no place in a queue; take it from the page before") from None


def _waiting(held: Held) -> Waiting:
    return Waiting(
        held.id,
        held.body,
        held.key,
        dict(held.headers),
        held.priority,
        held.sent_at,
        held.due,
        held.attempt,
        held.reason,
        f"{held.priority}/{held.due!r}/{held.serial}",
    )
