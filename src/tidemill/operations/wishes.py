"""Writing controls: one record changed under compare-and-swap, whoever else writes it at the same moment."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tidemill.model import FORMAT, Stale, Swap, Value
from tidemill.ports import Store


async def change(store: Store, key: str, edit: Callable[[Value | None], Value | None]) -> bool:
    """Replace what stands at `key` by what `edit` makes of it; None is no record. False if that was the same.

    Raises `Unavailable` with an unknown outcome: the command is then repeated.
    """
    [current] = await store.get([key])
    while True:
        before = current.value if current else None
        after = edit(before)
        if after == before:
            return False
        [reply] = await store.swap([Swap(key, current.version if current else None, after)])
        if not isinstance(reply, Stale):
            return True
        current = reply.current


async def wish(store: Store, key: str, value: Value, random: Random) -> None:
    """Write a control over whatever stands there: a later wish replaces one that nobody has acted on."""
    await change(store, key, lambda _: {"format": FORMAT, **value, "write": f"{random.getrandbits(64):016x}"})
