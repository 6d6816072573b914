"""Dead letters in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tidemill.adapters.memory.queue import revive
from tidemill.adapters.memory.state import State
from tidemill.errors import ConfigurationError
from tidemill.model import DeadLetter

QUEUE = "queue/"


class MemoryDeadLetters:
    """Implements `tidemill.ports.DeadLetters`."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        for letter in letters:
            self._state.letters.setdefault(letter.source, {}).setdefault(letter.id, letter)

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        found = [
            letter
            for letter in self._state.letters.get(source, {}).values()
            if letter.order > after and (key is None or letter.key == key)
        ]
        return sorted(found, key=lambda letter: letter.order)[:limit]

    async def count(self, prefix: str) -> Mapping[str, int]:
        return {
            source: len(letters)
            for source, letters in sorted(self._state.letters.items())
            if source.startswith(prefix) and letters
        }

    async def release(self, source: str, ids: Sequence[str]) -> int:
        queue = self._state.queues.get(source.removeprefix("queue/"))
        if queue is None or not source.startswith("queue/"):
            raise ConfigurationError(f"{source!r} cannot be released into a queue; only sources queue/… can")
        letters = self._state.letters.get(source, {})
        released = [letters.pop(id) for id in ids if id in letters]
        for letter in released:
            revive(self._state, queue, letter)
        queue.bell.ring()
        return len(released)

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        letters = self._state.letters.get(source, {})
        return sum(letters.pop(id, None) is not None for id in ids)
