"""Small records in memory, and who is present."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tidemill.adapters.memory.state import State
from tidemill.model import Gone, Record, Stale, Swap, Swapped


class MemoryStore:
    """Implements `tidemill.ports.Store`."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        return [self._state.records.get(key) for key in keys]

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        keys = sorted(key for key in self._state.records if key.startswith(prefix) and key > after)
        return [self._state.records[key] for key in keys[:limit]]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        return [swap_one(self._state, swap) for swap in swaps]


class MemoryPresence:
    """Implements `tidemill.ports.Presence`. `vanish` is for tests: the process of a member has ended."""

    def __init__(self, state: State) -> None:
        self._state = state

    async def hold(self, member: str) -> None:
        self._state.present.add(member)

    async def drop(self, member: str) -> None:
        self._state.present.discard(member)

    async def gone(self, members: Sequence[str]) -> Sequence[str]:
        return [member for member in members if member in self._state.ended]

    def vanish(self, member: str) -> None:
        self._state.present.discard(member)
        self._state.ended.add(member)


def swap_one(state: State, swap: Swap) -> Swapped:
    """One swap by itself."""
    current = state.records.get(swap.key)
    if (current.version if current else None) != swap.version:
        return Stale(swap.key, current)
    if swap.value is None:
        state.records.pop(swap.key, None)
        return Gone(swap.key)
    record = Record(swap.key, f"v{state.serial()}", json.loads(json.dumps(swap.value)))  # a copy, and JSON for sure
    state.records[swap.key] = record
    return record
