"""What one replica knows of the leases of one feed worker: as read last, as written since, and what it holds.

Reads may be old: what stands here only proposes swaps. Our own holds are known better than any read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias

from tidemill.core.balance import Division, Slot
from tidemill.core.foreign import Seen
from tidemill.core.lease import Lease, from_value, prefix_of
from tidemill.engine.hold import Hold
from tidemill.model import Record
from tidemill.ports import Store

Known: TypeAlias = tuple[str, Lease]
"""A lease and the version it was seen at."""

PAGE = 1_000


class Holder(Protocol):
    """Who works the partitions of one feed worker. Each `acquired` is ended by one `lost`, whatever the reason."""

    @property
    def worker(self) -> str: ...

    @property
    def group(self) -> str: ...

    @property
    def source(self) -> str: ...

    async def partitions(self) -> Sequence[str]:
        """The partitions that can be read now."""
        ...

    async def start(self, partition: str, since: float = 0.0) -> str:
        """The first cursor of a partition that was never worked. One that begins "now" has begun at the time `since`,
        if there is one."""
        ...

    async def acquired(self, hold: Hold) -> None:
        """Begin to work on it; returns soon. Nothing is asked of the partition before it has returned."""
        ...

    async def quiet(self, partition: str, deadline: float) -> bool:
        """Stop reading it and let keys in flight end, until `deadline` (monotonic).

        True: nothing runs and the last cursor was marked; it stays so until `lost`. False: it goes on as before.
        May be cancelled, and asked again.
        """
        ...

    def lost(self, partition: str, why: str) -> None:
        """It is not ours any more: cancel handlers, forget it, write nothing. Returns at once."""
        ...


class LeaseView:
    """The leases of one feed worker. `looked` is when they were read last (monotonic). `silent` are the partitions of
    hosts of another kind that have shown no life for long enough to be taken over."""

    def __init__(self, holder: Holder, interval: float) -> None:
        self.holder = holder
        self.worker: str = holder.worker
        self.group: str = holder.group
        self.interval = interval
        self.looked: float = float("-inf")
        self.written: float = float("-inf")
        self.listed: Sequence[str] = ()
        self.leases: dict[str, Known] = {}
        self.holds: dict[str, Hold] = {}
        self.remembered: dict[str, Known] = {}
        self.free_since: dict[str, float] = {}
        self.kept_until: dict[str, float] = {}
        self.silent: frozenset[str] = frozenset()
        self.begun: dict[str, asyncio.Task[None]] = {}
        self.giving: dict[str, asyncio.Task[None]] = {}

    async def read(self, store: Store) -> None:
        """Read partitions and leases. Raises `Unavailable`."""
        listed = await self.holder.partitions()
        prefix = prefix_of(self.worker)
        found: dict[str, Known] = {}
        after = prefix
        while True:
            page = await store.scan(prefix, after, PAGE)
            for record in page:
                partition = record.key.removeprefix(prefix)
                known = self.leases.get(partition)
                same = known is not None and known[0] == record.version
                found[partition] = known if known is not None and same else _parsed(record)
            if len(page) < PAGE:
                break
            after = page[-1].key
        self.listed = listed
        self.leases = found
        for partition, hold in self.holds.items():
            if partition not in found or not _later(found[partition][1], hold.lease):
                found[partition] = (hold.version, hold.lease)

    def note(self, partition: str, record: Record | None) -> Lease | None:
        """A swap has shown what stands there now."""
        if record is None:
            self.leases.pop(partition, None)
            return None
        known = self.leases[partition] = _parsed(record)
        self.silent -= {partition}
        return known[1]

    def free(self, now: float, is_buried: Callable[[str], bool]) -> None:
        """Keep count of how long each partition has had no living owner."""
        since = self.free_since
        self.free_since = {p: since.get(p, now) for p in self.names() if self.owner(p, is_buried) is None}

    def names(self) -> Sequence[str]:
        """All partitions: those that have a lease, and those that are listed and may get one.

        While one that is no longer listed has a lease, the others come from it: ranges that were merged are read on
        under their old bounds, and what lists them now never gets a lease of its own.
        """
        return sorted({*self.leases, *(self.listed if self._complete() else ())})

    def owner(self, partition: str, is_buried: Callable[[str], bool]) -> str | None:
        """Who has it; None when it is free, never worked, or its owner is buried or silent."""
        known = self.leases.get(partition)
        owner = known[1].owner if known is not None else None
        if known is not None and known[1].foreign:
            return None if partition in self.silent else owner
        return None if owner is None or is_buried(owner) else owner

    def strangers(self) -> Mapping[str, Seen]:
        """What hosts of another kind hold, as it was read last."""
        return {
            name: Seen(version, lease.owner or "", lease.renewed_at)
            for name, (version, lease) in self.leases.items()
            if lease.foreign
        }

    def division(self, weights: Mapping[str, int], is_buried: Callable[[str], bool]) -> Division:
        """The same as the balance wants to see it. What a living stranger holds is not ours to divide."""
        slots = {}
        for partition in self.names():
            known = self.leases.get(partition)
            if known is not None and known[1].foreign and partition not in self.silent:
                continue
            slots[partition] = Slot(self.owner(partition, is_buried), known[1].next_owner if known else None)
        return Division(weights, slots)

    def claimable(self, partition: str) -> bool:
        """Nothing must be done first.

        A child waits until its parents' leases are gone. A lease is not created from the start while there is one
        for a partition that is no longer listed: that one will be split, and knows where its children begin.
        """
        known = self.leases.get(partition)
        if known is None:
            return partition in self.listed and self._complete()
        return not any(parent in self.leases for parent in known[1].parents)

    def _complete(self) -> bool:
        """Every lease is that of a partition that is listed."""
        return self.leases.keys() <= set(self.listed)

    def due(self, now: float, last: bool) -> Sequence[Hold]:
        """The holds whose checkpoint is due, all of them for the last time."""
        if not last and now - self.written < self.interval:
            return []
        self.written = now
        return list(self.holds.values())

    def forget(self, *, remember: bool, only: Collection[str] | None = None) -> list[str]:
        """All holds end (or `only` these). With `remember` they are kept in mind, to be resumed. The partitions that
        were held."""
        held = list(self.holds) if only is None else list(only)
        for partition in held:
            hold = self.holds.pop(partition)
            hold.lost = True
            if remember:
                self.remembered[partition] = (hold.version, hold.lease)
        if not remember:
            self.remembered.clear()
        return held

    def lapsed(self, now: float) -> list[str]:
        """The partitions whose own fence has passed."""
        return [partition for partition, hold in self.holds.items() if hold.fence.deadline <= now]


def _later(found: Lease, held: Lease) -> bool:
    """Whether a read shows what came after what we hold. A host of another kind copies our epoch and takes our nonce
    away; a claim of ours has another one with another epoch."""
    return found.epoch > held.epoch or (found.epoch == held.epoch and found.nonce != held.nonce)


def _parsed(record: Record) -> Known:
    return record.version, from_value(record.value)
