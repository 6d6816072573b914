"""Dead letters, in the queue beside each that Functions calls its poison queue.

The service shows no more than 32 messages without taking them, so what is longer is walked: everything is received,
hidden for `HOLD` seconds, and made visible again at once. Failure cases. *Two walk at the same time*: each sees a
part; whoever has seen fewer than there are gives back what it holds and walks again, a few times. *A process ends
in a walk*: what it held is seen again after `HOLD`. *It ends between copy and removal* (a message that dies, a letter
that is released): there are two of one id, which are shown as one and removed together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace

from azure.storage.queue import QueueMessage

from tidemill.adapters.azure.several import each
from tidemill.adapters.storage_queue.letter import QUEUE, letter_of, revived, written
from tidemill.adapters.storage_queue.queue import StorageQueue
from tidemill.adapters.storage_queue.service import PAGE
from tidemill.errors import ConfigurationError
from tidemill.model import DeadLetter
from tidemill.ports import Clock

HOLD = 30.0
PAUSES = (0.0, 0.1, 0.3, 0.7, 1.5)
MOST = 10_000
"""Letters that one walk takes at most."""


class StorageDeadLetters:
    """Implements `tidemill.ports.DeadLetters`, for the queues that were opened and for nothing else."""

    def __init__(self, queues: Mapping[str, StorageQueue], clock: Clock, encoded: bool) -> None:
        self._queues = queues
        self._clock = clock
        self._encoded = encoded
        self._walking = asyncio.Lock()

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            queue = self._queue(letter.source)
            if letter.id not in {known.id for known in await self._look(queue)}:
                await queue.dead.send(written(letter, self._encoded))

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        letters = await self._look(self._queue(source))
        return [one for one in letters if one.order > after and (key is None or one.key == key)][:limit]

    async def count(self, prefix: str) -> Mapping[str, int]:
        names = sorted(name for name in self._queues if f"{QUEUE}{name}".startswith(prefix))
        counts = await each(lambda name: self._queues[name].dead.count(), names)
        return {f"{QUEUE}{name}": count for name, count in zip(names, counts, strict=True) if count}

    async def release(self, source: str, ids: Sequence[str]) -> int:
        queue = self._queue(source)

        async def back(letter: DeadLetter) -> None:
            await queue.put_back(revived(letter, self._encoded))

        return await self._remove(queue, ids, back)

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        async def nothing(letter: DeadLetter) -> None:
            """It goes for good."""

        return await self._remove(self._queue(source), ids, nothing)

    # --- inside ---------------------------------------------------------------------------------------------

    def _queue(self, source: str) -> StorageQueue:
        queue = self._queues.get(source.removeprefix(QUEUE))
        if queue is None or not source.startswith(QUEUE):
            names = ", ".join(QUEUE + name for name in sorted(self._queues))
            raise ConfigurationError(
                f"{source!r}: Azure Storage Queue keeps the dead letters of its own queues: {names}"
            )
        return queue

    async def _look(self, queue: StorageQueue) -> Sequence[DeadLetter]:
        """All letters by order, one of each id."""
        seen: dict[str, DeadLetter] = {}

        async def note(message: QueueMessage) -> bool:
            seen[message.id] = letter_of(queue.name, message, self._encoded)
            return False

        async with self._walking:
            for pause in PAUSES:
                await self._clock.sleep(pause)
                total = await queue.dead.count() or 0
                if total > PAGE:
                    await self._walk(queue, note)
                else:
                    await each(note, await queue.dead.peek() if total else [])
                if len(seen) >= min(total, MOST):
                    break
        return _ordered(list(seen.values()))

    async def _remove(
        self, queue: StorageQueue, ids: Sequence[str], do: Callable[[DeadLetter], Awaitable[None]]
    ) -> int:
        """Do this with each letter of these ids, and remove it; how many there were."""
        wanted, done = frozenset(ids), set[str]()

        async def act(message: QueueMessage) -> bool:
            letter = letter_of(queue.name, message, self._encoded)
            if letter.id not in wanted:
                return False
            if letter.id not in done:  # a second copy goes without it: if it fails, the first is still there
                done.add(letter.id)
                await do(letter)
            return await queue.dead.delete(message.id, message.pop_receipt or "")

        async with self._walking:
            for pause in PAUSES:
                await self._clock.sleep(pause)
                total = await queue.dead.count() or 0
                if not total or await self._walk(queue, act) >= min(total, MOST) or len(done) == len(wanted):
                    break
        return len(done)

    async def _walk(self, queue: StorageQueue, act: Callable[[QueueMessage], Awaitable[bool]]) -> int:
        """Take all that can be seen, and make visible again what `act` has not removed; how many there were."""
        taken: list[QueueMessage] = []

        async def one(message: QueueMessage) -> None:
            if not await act(message):
                await queue.dead.update(message.id, message.pop_receipt or "", 0.0)

        while len(taken) < MOST and (some := await queue.dead.receive(PAGE, HOLD)):
            taken += some
        await each(one, taken)
        return len(taken)


def _ordered(letters: list[DeadLetter]) -> list[DeadLetter]:
    """One of each id; two of one order are told apart, so that a page can end between them."""
    once: dict[str, DeadLetter] = {}
    for letter in sorted(letters, key=lambda one: (one.order, one.id)):
        once.setdefault(letter.id, letter)
    found: list[DeadLetter] = []
    for letter in once.values():
        after = found[-1].order if found else -1
        found.append(letter if letter.order > after else replace(letter, order=after + 1))
    return found
