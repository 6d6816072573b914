"""A lease that is ours: what is stored, what should be, and the one swap that is on its way.

State: `lease` as it is stored for certain, the newest state wanted, at most one write in flight; what
comes meanwhile is coalesced. Trust: the fence is compared before each send. Failure cases: a write that
is not answered may have committed; the next one is then stale and finds our own *nonce*, which nobody
else writes: it goes on from there. Any other stale reply means that the lease is lost: never "try again".
A hold that is lost writes nothing more.

Beside hosts of another kind (`core.foreign`) a lease is also written when nothing has changed, before its last write
gets too old, and has a fence of its own below the store's: the send of its last good write + 45 s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from random import Random

from tidemill.core import lease as leases
from tidemill.core.fence import Fence
from tidemill.core.foreign import Rules
from tidemill.core.lease import Lease, State, from_value, key_of
from tidemill.errors import Unavailable
from tidemill.model import Gone, Record, Stale, Swap, Swapped
from tidemill.ports import Clock, Store

AGAIN = 0.25


class Hold:
    """One partition while we own its lease. Made by `Leases`; used by who works the partition.

    `busy` is for its worker to set: keys are in flight, so if something must be released, rather another one. `sent` is
    when the write was sent that it stands by (monotonic), `fence` until when it is trusted.
    """

    def __init__(self, worker: str, partition: str, version: str, lease: Lease, *, writer: Writer, sent: float) -> None:
        self.worker = worker
        self.partition = partition
        self.key: str = key_of(worker, partition)
        self.version: str = version
        self.lease: Lease = lease
        self.lost = False
        self.busy = False
        self.flight: asyncio.Event | None = None
        self.sent: float = sent
        self.fence: Fence = writer.fence_of(sent)
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

    def replied(self, wanted: Lease, result: Swapped, sent: float) -> bool:
        """What became of a write that was sent then. False if the lease went to somebody else."""
        if isinstance(result, Record):
            self.version, self.lease = result.version, wanted
            self.sent = max(self.sent, sent)
            self._writer.extend(self.fence, sent)
            return True
        current = result.current if isinstance(result, Stale) else None
        if current is None:
            return False
        found = from_value(current.value)
        if found.nonce not in (wanted.nonce, self.lease.nonce):
            return False
        self.version, self.lease = current.version, found
        return True


class Writer:
    """Writes holds: many in one call, one write in flight for each.

    `check` compares the fence of the store before each send; that of each lease is compared here. `ended` is told when
    a hold ends here: taken, or moved. `rules` are those beside hosts of another kind.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        random: Random,
        check: Callable[[], bool],
        ended: Callable[[Hold, str], None],
        fence: Fence,
        rules: Rules | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._check = check
        self._ended = ended
        self._fence = fence
        self._rules = rules

    def fence_of(self, sent: float) -> Fence:
        """That of a lease whose last good write was sent then."""
        return self._fence if self._rules is None else Fence(sent + self._rules.fence, self._fence)

    def extend(self, fence: Fence, sent: float) -> None:
        """A write of this lease that was sent then was good: nobody had taken it before, either."""
        if self._rules is not None:
            fence.extend(sent, self._rules.fence)

    async def write(self, holds: Sequence[Hold]) -> bool:
        """Store the newest state of those that changed, or must be seen to live. False if the outcome is unknown, or
        nothing was sent."""
        sent = self._clock.monotonic()
        ready = [(hold, hold.wanted) for hold in holds if self._is_due(hold, sent) and hold.flight is None]
        if not ready or not self._check():
            return not ready
        if self._rules is None:
            return await self._send(ready, sent, self._depart(ready))
        # Each in a call of its own: one that fails must not keep the others from what they were told.
        trusted = [[one] for one in ready if one[0].fence.holds(sent)]
        flights = [(one, self._depart(one)) for one in trusted]
        try:
            written = await asyncio.gather(*(self._send(one, sent, landed) for one, landed in flights))
        finally:
            for one, landed in flights:  # one that was cancelled before it began has landed as well
                self._land(one, landed)
        return all(written) and len(trusted) == len(ready)

    def _depart(self, ready: Sequence[tuple[Hold, Lease]]) -> asyncio.Event:
        """A write of these is on its way from now on, until the event is set."""
        landed = asyncio.Event()
        for hold, _ in ready:
            hold.flight = landed
        return landed

    def _land(self, ready: Sequence[tuple[Hold, Lease]], landed: asyncio.Event) -> None:
        landed.set()
        for hold, _ in ready:
            if hold.flight is landed:
                hold.flight = None

    async def _send(self, ready: Sequence[tuple[Hold, Lease]], sent: float, landed: asyncio.Event) -> bool:
        try:
            results = await self._store.swap([self.swap(h.key, h.version, wanted) for h, wanted in ready])
        except Unavailable:
            return False
        finally:
            self._land(ready, landed)
        for (hold, wanted), result in zip(ready, results, strict=True):
            if not hold.lost and not hold.replied(wanted, result, sent):
                self._ended(hold, "taken")
        return True

    async def ask(self, swaps: Sequence[Swap]) -> Sequence[Swapped | None]:
        """Claims, many in one call. Beside strangers each in a call of its own, and None where its outcome is unknown:
        one that fails must not keep the others from being claimed."""
        if self._rules is None:
            return await self._store.swap(swaps)
        return await asyncio.gather(*(self._ask(swap) for swap in swaps))

    async def _ask(self, swap: Swap) -> Swapped | None:
        try:
            return (await self._store.swap([swap]))[0]
        except Unavailable:
            return None

    def _is_due(self, hold: Hold, now: float) -> bool:
        return hold.dirty or (self._rules is not None and not hold.lost and now - hold.sent >= self._rules.renew)

    async def child(self, parent: Hold, partition: str, cursor: str) -> bool:
        """Create a child's lease. One that an earlier try has created, and nobody worked, gets this
        cursor."""
        lease = parent.lease
        wanted = leases.created(cursor, source=lease.source, parents=(parent.partition,), notes=lease.notes)
        version: str | None = None
        while not parent.lost:
            result = await self._one(parent, self.swap(key_of(parent.worker, partition), version, wanted))
            if isinstance(result, Record):
                return True
            if isinstance(result, Stale):
                version = result.current.version if result.current else None
            if not isinstance(result, Stale) or result.current is None:
                continue
            found = from_value(result.current.value)
            if parent.partition not in found.parents:
                return False
            if found.epoch or found.owner is not None or found == wanted:
                return True
        return False

    async def delete(self, hold: Hold) -> bool:
        """Remove the lease. A lost reply is known by there being none."""
        while not hold.lost:
            sent = self._clock.monotonic()
            result = await self._one(hold, Swap(hold.key, hold.version, None))
            if isinstance(result, Gone) or (isinstance(result, Stale) and result.current is None):
                self._ended(hold, "moved")
                return True
            if result is not None and not hold.replied(hold.wanted, result, sent):
                self._ended(hold, "taken")
        return False

    async def pause(self) -> None:
        """Before the same is tried again."""
        await self._clock.sleep(AGAIN)

    def nonce(self) -> str:
        return f"{self._random.getrandbits(64):016x}"

    def swap(self, key: str, version: str | None, lease: Lease) -> Swap:
        return Swap(key, version, replace(lease, write=self.nonce()).to_value())

    async def _one(self, hold: Hold, swap: Swap) -> Swapped | None:
        """One swap for a hold, if the fence holds; None when it was not sent or its outcome is unknown."""
        if self._check() and hold.fence.holds(self._clock.monotonic()):
            try:
                [result] = await self._store.swap([swap])
            except Unavailable:
                pass
            else:
                return result
        await self.pause()
        return None
