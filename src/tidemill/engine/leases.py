"""Leases: which partitions this replica works. It takes what falls to it, gives what is too much, keeps the rest.

State per feed worker: a `LeaseView`. Trust: a lease is ours from the reply of its claim, while the fence of its store
holds and no write of ours is stale. Only a free lease, or one whose owner is buried, is claimed: nothing is ever
taken from the living, so two replicas never own a partition at once.

Failure cases. *Reads are old*: a swap is stale and shows what is there. *A claim is not answered*: if it committed,
the next read shows a lease that is ours and not held; it is resumed with epoch + 1. *A checkpoint is stale*: lost,
unless it is our own lost reply (see `hold`). *The fence has passed*: everything is forgotten at once and its cursors
remembered; resumed with epoch + 1 if we are still a member, so that an outage of the store moves nothing. *We were
buried*: nothing is remembered. *A replica stands still*: its share is claimed by anybody after 2 s if it is free, and
after its burial if it is not. *A partition does not get quiet*: see `giving`. *Hosts of another kind share the leases*
(`core.foreign`): what a living one holds is not divided, a silent one's is claimed like the dead's; one that takes what
is ours is seen by our next write, which is stale, or our next look; a lease whose writes do not get through is
forgotten and remembered by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tidemill.core import lease as records
from tidemill.core.foreign import Rules
from tidemill.core.lease import Lease, key_of
from tidemill.engine.giving import TRY_LATER, Giving
from tidemill.engine.hold import AGAIN, Hold, Writer
from tidemill.engine.lease_plan import Moves, moves
from tidemill.engine.lease_view import Holder, LeaseView
from tidemill.engine.membership import Membership
from tidemill.engine.strangers import Strangers
from tidemill.errors import ClaimLost, Unavailable
from tidemill.model import Fact, Observer, Record, Stale, Swapped, Value
from tidemill.ports import Clock, Store

__all__ = ["Hold", "Holder", "Leases"]

LOOK_EVERY = 15.0
FRESH = 1.0
SETTLE = 1.0
CHECKPOINT_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class _Claim:
    view: LeaseView
    partition: str
    version: str | None
    lease: Lease


class Leases:
    """The leases of all feed workers of this replica in one store. `register`, then `run()` until `stop()`."""

    def __init__(
        self, store: Store, membership: Membership, *, clock: Clock, random: Random, observer: Observer,
        rules: Rules | None = None,
    ) -> None:  # fmt: skip
        self._store = store
        self._membership = membership
        self._clock = clock
        self._random = random
        self._observe = observer
        self._strangers = Strangers(rules, clock, observer)
        self._look_every = LOOK_EVERY if rules is None else rules.look
        self._writer = Writer(
            store, clock=clock, random=random, check=membership.check, ended=self._ended,
            fence=membership.fence, rules=rules,
        )  # fmt: skip
        self._views: dict[str, LeaseView] = {}
        self._giving = Giving(
            clock=clock, observer=observer, spawn=self._spawn, ended=self._ended, ring=membership.ring,
            changed=lambda: self._wake.set(), views=self._views, plan=lambda: self._moves().releases,
        )  # fmt: skip
        self._asked: set[str] = set()  # claims that are sent and not known to have failed
        self._known_members: frozenset[str] = frozenset()
        self._settled = float("inf")
        self._bereaved = False
        self._look_now = True
        self._next = float("-inf")
        self._draining = False
        self._stalled = self._told_stalled = False
        self._group: asyncio.TaskGroup | None = None
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        membership.listen(self)
        membership.on_burial(self._someone_died)
        membership.on_change(self._members_changed)
        membership.naming(self._named)

    def register(self, holder: Holder, *, interval: float = CHECKPOINT_EVERY) -> None:
        """Divide this worker's partitions as well; checkpoints are written each `interval` seconds."""
        self._views[holder.worker] = LeaseView(holder, interval)
        self._membership.on_ring(holder.group, self._look_soon)

    @property
    def held(self) -> Sequence[str]:
        """The partitions that are ours, or may be soon, as `<worker>/<partition>`."""
        views = self._views.values()
        return sorted(self._asked.union(f"{v.worker}/{p}" for v in views for p in (*v.holds, *v.remembered)))

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Claim, checkpoint and give, until `stop()`."""
        self._members_changed()
        self._settle()
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._checkpointing())
            await self._dividing()

    async def stop(self) -> None:
        """Claim and give nothing more; what is held stays ours. Idempotent, and legal before `run`."""
        self._stopping.set()
        self._wake.set()

    def stall(self, stuck: bool) -> None:
        """The handlers stand still: keep only what they have begun. Or they go on."""
        self._stalled = stuck
        self._wake.set()

    async def drain(self, deadline: float) -> None:
        """Claim nothing more, and release each partition as it gets quiet, until `deadline` (monotonic)."""
        self._draining = True
        self._wake.set()
        while self.held and self._clock.monotonic() < deadline:
            await self._giving.all(deadline)
            if self.held:
                await self._clock.sleep(AGAIN)

    async def release_quiet(self) -> None:
        """Release what is quiet now."""
        self._draining = True
        self._wake.set()
        await self._giving.all(self._clock.monotonic())

    # --- what membership tells ------------------------------------------------------------------------------

    def fenced(self) -> None:
        self._forget("fenced", remember=True)

    def buried(self) -> None:
        self._forget("buried", remember=False)

    def resumed(self) -> None:
        self._look_soon()

    def _forget(self, why: str, *, remember: bool) -> None:
        for view in self._views.values():
            self._forget_some(view, why, remember=remember)

    def _forget_some(self, view: LeaseView, why: str, *, remember: bool, only: Collection[str] | None = None) -> None:
        held = view.forget(remember=remember, only=only)
        if held:
            self._observe(Fact("leases_forgotten", view.worker, len(held), detail={"why": why}))
        for partition in held:
            view.holder.lost(partition, why)

    def _lapse(self) -> None:
        """Forget the leases whose own fence has passed, and remember them."""
        for view in self._views.values():
            if lapsed := self._strangers.lapsed(view):
                self._forget_some(view, "fenced", remember=True, only=lapsed)
                self._look_soon()

    def _members_changed(self) -> None:
        members = frozenset(m.id for m in self._membership.members())
        if members - self._known_members - {self._membership.member}:
            self._settle()
        self._known_members = members
        self._wake.set()

    def _settle(self) -> None:
        """Divide nothing yet, for others may join beside us. Who follows the dead alone takes over at once."""
        alone = all(m.id == self._membership.member for m in self._membership.members())
        self._settled = self._clock.monotonic() + (0.0 if alone and self._bereaved else SETTLE)

    def _someone_died(self, _member: str) -> None:
        self._bereaved = True
        if self._settled > self._clock.monotonic():
            self._settle()
        self._wake.set()

    def _look_soon(self) -> None:
        self._look_now = True
        self._wake.set()

    def _named(self) -> Sequence[str]:
        known = [lease for view in self._views.values() for _, lease in view.leases.values()]
        return [lease.owner for lease in known if lease.owner is not None and not lease.foreign]

    # --- dividing -------------------------------------------------------------------------------------------

    async def _dividing(self) -> None:
        while not self._stopping.is_set():
            now = self._clock.monotonic()
            self._next = now + self._look_every * (0.95 + 0.1 * self._random.random())
            try:
                if self._membership.check():
                    await self._round(now)
            except Unavailable:
                self._look_now = True
                self._by(now + 2 * AGAIN)
            await self._clock.wait(self._wake, max(self._next - self._clock.monotonic(), AGAIN))
            self._wake.clear()

    def _by(self, when: float) -> None:
        """Look at things again by then, at the latest."""
        self._next = min(self._next, when)

    async def _round(self, now: float) -> None:
        look, self._look_now = self._look_now, False
        self._lapse()
        for view in self._views.values():
            if look or now - view.looked >= self._look_every * 0.95:
                await self._look(view)
        for view in self._views.values():
            await self._resume(view)
        if self._stalled != self._told_stalled:
            self._told_stalled = self._stalled
            await self._membership.weigh(0 if self._stalled else None)
        if self._draining:
            return
        if self._clock.monotonic() < self._settled:
            self._by(self._settled)
            return
        await self._divide()

    async def _look(self, view: LeaseView) -> None:
        asked = self._clock.monotonic()
        await view.read(self._store)
        view.looked = asked
        self._strangers.respect(view, asked)
        self._asked = {name for name in self._asked if not name.startswith(f"{view.worker}/")}
        me = self._membership.member
        owners = set()
        for partition, known in list(view.leases.items()):
            hold, owner = view.holds.get(partition), known[1].owner
            if hold is not None and owner != me:
                self._ended(hold, "taken")
            elif hold is None and owner == me:
                view.remembered.setdefault(partition, known)
            elif owner is not None and owner != me and not known[1].foreign:
                owners.add(owner)
        for owner in sorted(owners - {m.id for m in self._membership.living()}):
            await self._membership.certainly_buried(owner)

    async def _divide(self) -> None:
        planned = self._moves()
        now = self._clock.monotonic()
        old = [view for name, view in self._views.items() if planned.touch(name) and now - view.looked > FRESH]
        if old:  # what was read some time ago is good enough to stand still, not to move
            for view in old:
                await self._look(view)
            planned = self._moves()
        self._by(planned.again)
        await self._claim([(view, p) for name, view in self._views.items() for p in planned.claims[name]])
        for name, view in self._views.items():
            for partition in planned.overdue[name]:  # else it would be given back at once, to and fro
                view.kept_until[partition] = now + TRY_LATER
            self._by(self._giving.some(view, planned.releases[name]))

    def _moves(self) -> Moves:
        return moves(self._views, self._membership, self._clock.monotonic(), draining=self._draining)

    # --- taking ---------------------------------------------------------------------------------------------

    async def _claim(self, wanted: Sequence[tuple[LeaseView, str]]) -> None:
        me = self._membership.member
        claims = [c for view, partition in wanted if (c := await self._claim_of(view, partition, me)) is not None]
        if not claims or not self._membership.check() or self._membership.member != me or self._draining:
            return
        swaps = [self._writer.swap(key_of(c.view.worker, c.partition), c.version, c.lease) for c in claims]
        names = [f"{claim.view.worker}/{claim.partition}" for claim in claims]
        self._asked = set(names)
        sent = self._clock.monotonic()
        results = await self._writer.ask(swaps)
        self._asked = {name for name, result in zip(names, results, strict=True) if result is None}
        for claim, result in zip(claims, results, strict=True):
            self._claimed(claim, result, sent)

    async def _claim_of(self, view: LeaseView, partition: str, me: str) -> _Claim | None:
        """Free, or its owner is buried or silent: of a living owner's partition no claim is ever made."""
        version, lease = view.leases.get(partition) or (None, None)
        try:
            if lease is None:
                lease = records.created(await view.holder.start(partition), source=view.holder.source)
            elif not lease.cursor:
                lease = replace(lease, cursor=await view.holder.start(partition, lease.since))
        except Unavailable:
            self._by(self._clock.monotonic() + 2 * AGAIN)
            return None
        claimed = records.claim(lease, me, self._writer.nonce(), buried=lease.owner is not None)
        return _Claim(view, partition, version, claimed)

    def _claimed(self, claim: _Claim, result: Swapped | None, sent: float) -> None:
        if isinstance(result, Record):
            self._acquired(claim.view, claim.partition, result.version, claim.lease, sent)
        elif isinstance(result, Stale):
            found = claim.view.note(claim.partition, result.current)
            if found is not None and found.owner == self._membership.member:
                claim.view.remembered[claim.partition] = claim.view.leases[claim.partition]
            self._wake.set()
        elif result is None:  # it may be ours: the next look shows it
            self._look_now = True
            self._by(self._clock.monotonic() + 2 * AGAIN)

    async def _resume(self, view: LeaseView) -> None:
        """Leases that are ours and not held: after a fence, or of a claim whose reply was lost."""
        while view.remembered and self._membership.check():
            me = self._membership.member
            wanted = {
                partition: (version, self._resumed(lease))
                for partition, (version, lease) in view.remembered.items()
                if lease.owner == me
            }
            swaps = [self._writer.swap(key_of(view.worker, p), v, lease) for p, (v, lease) in wanted.items()]
            sent = self._clock.monotonic()
            results = await self._writer.ask(swaps) if swaps else []
            view.remembered.clear()
            for (partition, (_, lease)), result in zip(wanted.items(), results, strict=True):
                if isinstance(result, Record) and lease.owner is None:
                    view.note(partition, result)
                    await self._membership.ring(view.group)
                else:
                    self._claimed(_Claim(view, partition, None, lease), result, sent)

    def _resumed(self, lease: Lease) -> Lease:
        resumed = records.resume(lease, self._writer.nonce())
        return records.release(resumed, None) if self._draining else resumed

    def _acquired(self, view: LeaseView, partition: str, version: str, lease: Lease, sent: float) -> None:
        """The lease is ours. If trust has ended while the reply was on its way, it is only remembered."""
        if lease.owner != self._membership.member:
            return
        view.leases[partition] = (version, lease)
        if self._draining or not self._membership.check():
            view.remembered[partition] = (version, lease)
            self._wake.set()
            return
        hold = view.holds[partition] = Hold(view.worker, partition, version, lease, writer=self._writer, sent=sent)
        detail: Value = {"partition": partition, "epoch": lease.epoch, "crashes": lease.crashes}
        self._observe(Fact("lease_acquired", view.worker, detail=detail))
        view.begun[partition] = self._spawn(self._begin(view, hold, view.begun.get(partition)))

    async def _begin(self, view: LeaseView, hold: Hold, before: asyncio.Task[None] | None) -> None:
        """Let the worker begin, after it has come back from a former hold of the same partition."""
        if before is not None:
            await asyncio.wait([before])
        while not hold.lost:
            try:
                await view.holder.acquired(hold)
                return
            except ClaimLost:
                self._ended(hold, "taken")
            except Unavailable:
                await self._writer.pause()

    # --- giving ---------------------------------------------------------------------------------------------

    # --- writing --------------------------------------------------------------------------------------------

    async def _checkpointing(self) -> None:
        tick = min((view.interval for view in self._views.values()), default=CHECKPOINT_EVERY)
        while not self._stopping.is_set():
            await self._clock.wait(self._stopping, tick)
            self._lapse()
            now, last = self._clock.monotonic(), self._stopping.is_set()
            await self._writer.write([hold for view in self._views.values() for hold in view.due(now, last)])

    def _ended(self, hold: Hold, why: str) -> None:
        """The hold is over, once."""
        if hold.lost:
            return
        hold.lost, view = True, self._views[hold.worker]
        del view.holds[hold.partition]
        if why == "released":
            view.leases[hold.partition] = (hold.version, hold.lease)
        else:
            view.leases.pop(hold.partition, None)
            self._look_now = True
        what = "lease_released" if why == "released" else "lease_lost"
        self._observe(Fact(what, view.worker, detail={"partition": hold.partition, "why": why}))
        view.holder.lost(hold.partition, why)
        self._wake.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._group is not None, "acquired before run()"
        return self._group.create_task(work)
