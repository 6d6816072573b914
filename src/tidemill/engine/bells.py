"""Bells: how replicas tell each other to look now. One record for each group, `bell/<group>`.

A ring swaps the record + 1; everybody reads all bells five times a second in one call. A bell only shortens a
wait: what it announces was written before, and is found by the regular look if the ring is lost. Failure
cases: a stale swap means that somebody else rang meanwhile (their ring is heard here, and ours goes on
top); one that is not answered is sent again at the next look, so that a bell may ring twice but not
never.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tidemill.errors import Unavailable
from tidemill.model import FORMAT, Record, Stale, Swap, Swapped, Value
from tidemill.ports import Store

TRIES = 5


class Bells:
    """The bells of one store, as one replica hears and rings them."""

    def __init__(self, store: Store, random: Random) -> None:
        self._store = store
        self._random = random
        self._records: dict[str, Record | None] = {}
        self._callbacks: dict[str, list[Callable[[], None]]] = {}
        self._asked: set[str] = set()
        self._ringing = False

    def on_ring(self, group: str, callback: Callable[[], None]) -> None:
        """Call this when somebody else has rung the bell of the group."""
        self._callbacks.setdefault(group, []).append(callback)

    async def ring(self, *groups: str) -> None:
        """Ring these bells. While a ring is under way others join it; it returns then at once."""
        self._asked.update(groups)
        if self._ringing:
            return
        self._ringing = True
        try:
            for _ in range(TRIES):
                if not self._asked:
                    return
                await self._ring(sorted(self._asked))
        except Unavailable:
            return  # still asked for: the next look tries again
        finally:
            self._ringing = False

    async def look(self) -> None:
        """Read all bells, and tell those who wait for one that has rung. Raises `Unavailable`."""
        if self._asked:
            await self.ring()
        groups = list(self._callbacks)
        for group, record in zip(groups, await self._store.get([_key(g) for g in groups]), strict=True):
            before = self._records.get(group)
            if group not in self._records:
                self._records[group] = record
            elif record is not None and (before is None or before.version != record.version):
                self._heard(group, record)

    async def _ring(self, groups: list[str]) -> None:
        swaps = [self._swap(group, self._records.get(group)) for group in groups]
        for group, result in zip(groups, await self._store.swap(swaps), strict=True):
            self._rang(group, result)

    def _rang(self, group: str, result: Swapped) -> None:
        if isinstance(result, Record):
            self._asked.discard(group)
            self._records[group] = result
        elif isinstance(result, Stale):
            self._heard(group, result.current)

    def _heard(self, group: str, record: Record | None) -> None:
        self._records[group] = record
        for callback in self._callbacks.get(group, ()):
            callback()

    def _swap(self, group: str, before: Record | None) -> Swap:
        count = before.value.get("count", 0) if before is not None else 0
        value: Value = {
            **(before.value if before is not None else {}),
            "format": FORMAT,
            "count": count + 1 if isinstance(count, int) else 1,
            "write": f"{self._random.getrandbits(64):016x}",
        }
        return Swap(_key(group), before.version if before is not None else None, value)


def _key(group: str) -> str:
    return f"bell/{group}"
