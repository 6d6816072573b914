"""A lease that is ours: what is stored, what should be, and the one swap that is on its way.

State: `lease` as it is stored for certain, the newest state wanted, at most one write in flight; what
comes meanwhile is coalesced. Trust: the fence is compared before each send. Failure cases: a write that
is not answered may have committed; the next one is then stale and finds our own *nonce*, which nobody
else writes: it goes on from there. Any other stale reply means that the lease is lost: never "try again".
A hold that is lost writes nothing more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

from tidemill.core import lease as leases
from tidemill.core.lease import Lease, State, from_value, key_of
from tidemill.errors import Unavailable
from tidemill.model import Gone, Record, Stale, Swap, Swapped
from tidemill.ports import Clock, Store

AGAIN = 0.25


class Hold:
    """One partition while we own its lease. Made by `Leases`; used by who works the partition.

    `busy` is for its worker to set: keys are in flight, so if something must be released, rather another one.
    """

    def __init__(self, worker: str, partition: str, version: str, lease: Lease, *, writer: Writer) -> None:
        self.worker = worker
        self.partition = partition
        self.key: str = key_of(worker, partition)
        self.version: str = version
        self.lease: Lease = lease
        self.lost = False
        self.busy = False
        self.flight: asyncio.Event | None = None
        self._wanted = lease
        self._writer = writer

    @property
    def token(self) -> tuple[int, str]:
        """The fencing token: epoch and nonce."""
        return (self.lease.epoch, self.lease.nonce)

    @property
    def wanted(self) -> Lease:
        return self._wanted

    @property
    def dirty(self) -> bool:
        """The newest state is not stored yet."""
        return self._wanted != self.lease and not self.lost

    def mark(
        self, cursor: str, *, state: State | None = None, running_one: int | None = None, calm: bool = False
    ) -> None:
        """The newest state: everything before the cursor is done, and this change is being run alone.

        Stored with the next checkpoint; use `flush` to know.
        """
        marked = leases.checkpoint(self._wanted, cursor, running_one=running_one, calm=calm)
        self._wanted = marked if state is None else replace(marked, state=state)

    async def flush(self) -> bool:
        """Store the newest state now. True when it is; False when the lease was lost."""
        while self.dirty:
            if self.flight is not None:
                await self.flight.wait()
            elif not await self._writer.write([self]) and self.dirty:
                await self._writer.pause()
        return not self.lost

    async def reset(self, cursor: str) -> bool:
        """Go on from this cursor, wherever it lies, under a new token. The partition must be quiet."""
        self._wanted = leases.reset(self._wanted, cursor, self._writer.nonce())
        return await self.flush()

    async def release(self, next_owner: str | None) -> bool:
        """Give it up in one write. The partition must be quiet, its last cursor marked. False: it was
        lost."""
        self._wanted = leases.release(self._wanted, next_owner)
        return await self.flush()

    async def split(self, children: Mapping[str, str], copy: Callable[[], Awaitable[None]] | None = None) -> bool:
        """The partition has moved: children with their cursors first, then `copy` (the park), the parent
        last.

        The partition must be quiet. False if the lease was lost, or a child is there that is none of ours
        (two parents, one child): then nothing is deleted, and somebody must decide.
        """
        if not await self.flush():
            return False
        for partition, cursor in sorted(children.items()):
            if not await self._writer.child(self, partition, cursor):
                return False
        if copy is not None:
            await copy()
        return await self._writer.delete(self)

    def replied(self, sent: Lease, result: Swapped) -> bool:
        """What became of a write. False if the lease went to somebody else."""
        if isinstance(result, Record):
            self.version, self.lease = result.version, sent
            return True
        current = result.current if isinstance(result, Stale) else None
        if current is None:
            return False
        found = from_value(current.value)
        if found.nonce not in (sent.nonce, self.lease.nonce):
            return False
        self.version, self.lease = current.version, found
        return True


class Writer:
    """Writes holds: many in one call, one write in flight for each.

    `check` compares the fence before each send. `ended` is told when a hold ends here: taken, or moved.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        random: Random,
        check: Callable[[], bool],
        ended: Callable[[Hold, str], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._check = check
        self._ended = ended

    async def write(self, holds: Sequence[Hold]) -> bool:
        """Store the newest state of those that changed. False if the outcome is unknown, or nothing was
        sent."""
        ready = [(hold, hold.wanted) for hold in holds if hold.dirty and hold.flight is None]
        if not ready or not self._check():
            return not ready
        landed = asyncio.Event()
        for hold, _ in ready:
            hold.flight = landed
        try:
            results = await self._store.swap([self.swap(h.key, h.version, wanted) for h, wanted in ready])
        except Unavailable:
            return False
        finally:
            landed.set()
            for hold, _ in ready:
                hold.flight = None
        for (hold, wanted), result in zip(ready, results, strict=True):
            if not hold.lost and not hold.replied(wanted, result):
                self._ended(hold, "taken")
        return True

    async def child(self, parent: Hold, partition: str, cursor: str) -> bool:
        """Create a child's lease. One that an earlier try has created, and nobody worked, gets this
        cursor."""
        wanted = leases.created(cursor, source=parent.lease.source, parents=(parent.partition,))
        version: str | None = None
        while not parent.lost:
            result = await self._one(self.swap(key_of(parent.worker, partition), version, wanted))
            if isinstance(result, Record):
                return True
            if isinstance(result, Stale):
                version = result.current.version if result.current else None
            if not isinstance(result, Stale) or result.current is None:
                continue
            found = from_value(result.current.value)
            if parent.partition not in found.parents:
                return False
            if found.epoch or found == wanted:
                return True
        return False

    async def delete(self, hold: Hold) -> bool:
        """Remove the lease. A lost reply is known by there being none."""
        while not hold.lost:
            result = await self._one(Swap(hold.key, hold.version, None))
            if isinstance(result, Gone) or (isinstance(result, Stale) and result.current is None):
                self._ended(hold, "moved")
                return True
            if result is not None and not hold.replied(hold.wanted, result):
                self._ended(hold, "taken")
        return False

    async def pause(self) -> None:
        """Before the same is tried again."""
        await self._clock.sleep(AGAIN)

    def nonce(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    def swap(self, key: str, version: str | None, lease: Lease) -> Swap:
        return Swap(key, version, replace(lease, write=self.nonce()).to_value())

    async def _one(self, swap: Swap) -> Swapped | None:
        """One swap, if the fence holds; None when it was not sent or its outcome is unknown."""
        if self._check():
            try:
                [result] = await self._store.swap([swap])
            except Unavailable:
                pass
            else:
                return result
        await self.pause()
        return None
