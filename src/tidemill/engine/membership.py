"""Membership: that we live, for others to see. `census` sees who else does, `bells` wake who waits.

State: `out` (no record of ours), `live`, `fenced` (we may still be a member, but must not act like one), `left`.
Trust: from the *send* of a good renewal until `profile.fence` later. Everybody else waits longer than that before a
burial, and counts from a later moment. The deadline is compared at each look at it, and by the reply of a renewal
before that extends it: after a freeze the late reply may be the first thing that runs.

Failure cases. *No renewal is answered*: listeners hear `fenced`. *One is answered too late*: they hear `fenced` first,
then `resumed`, for the record is still there. *We were buried*: the fence drops, they hear `buried`, and we come back
under a new id, which `resumed` announces; ids never return.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Literal, Protocol, TypeAlias

from tidemill.core.fence import Fence
from tidemill.core.member import Behind, Identity, Member
from tidemill.engine.bells import Bells
from tidemill.engine.census import Census, Free
from tidemill.engine.own_record import OwnRecord
from tidemill.engine.work import Profile
from tidemill.errors import Unavailable
from tidemill.model import Fact, Observer
from tidemill.ports import Clock, Presence, Store

State: TypeAlias = Literal["out", "live", "fenced", "left"]

LISTEN = 0.2
FREE_EVERY = 5.0
RETRY = 1.0
TOLD_WITHIN = 1.0


class Listener(Protocol):
    """Who holds something by the grace of this membership. Called on the engine's loop; returns at once."""

    def fenced(self) -> None:
        """Trust has ended for now: stop, and write nothing."""
        ...

    def resumed(self) -> None:
        """We may act again, as the same member: nobody has taken anything from us."""
        ...

    def buried(self) -> None:
        """We were buried: what we held is not ours. We come back under a new id, and `resumed` says so."""
        ...


class Membership:
    """This process as a member in one store. `join()`, then `run()` until `leave()`.

    `member` is our id, `fence` what everything that depends on this store compares with.
    """

    def __init__(
        self,
        store: Store,
        presence: Presence | None,
        *,
        clock: Clock,
        random: Random,
        profile: Profile,
        identity: Identity,
        observer: Observer,
    ) -> None:
        self.fence: Fence = Fence()
        self._presence = presence
        self._clock = clock
        self._random = random
        self._profile = profile
        self._observe = observer
        self._state: State = "out"
        self._weight = identity.weight
        self._former: list[str] = []
        member = Member(
            self._hex(96),
            identity.name,
            identity.groups,
            identity.pod_uid,
            identity.container,
            identity.weight,
            profile=profile.name,
            started_at=clock.now(),
        )
        self._notes: dict[str, Callable[[], Mapping[str, int]]] = {}
        self._own = OwnRecord(
            store,
            member,
            clock=clock,
            random=random,
            profile=profile,
            replied=self._replied,
            behind=self._behind,
        )
        self._bells = Bells(store, random)
        self._census = Census(
            store,
            presence,
            clock=clock,
            random=random,
            profile=profile,
            observer=observer,
            mine=lambda: self._own.member,
        )
        self._census.on_burial(self._someone_died)
        for group in identity.groups:
            self._bells.on_ring(group, self._look_soon)
        self._listeners: list[Listener] = []
        self._changes: list[Callable[[], None]] = []
        self._shown: object = None
        self._look_now = asyncio.Event()
        self._free_now = asyncio.Event()
        self._stopping = asyncio.Event()

    # --- what others ask ------------------------------------------------------------------------------------

    @property
    def member(self) -> str:
        """Our id. It changes when we had to come back after a burial, and never returns."""
        return self._own.member.id

    @property
    def state(self) -> State:
        return self._state

    @property
    def warnings(self) -> Sequence[str]:
        """What is wrong with the fleet, a line each."""
        return self._census.warnings

    def members(self, group: str | None = None) -> Sequence[Member]:
        """Living members that are not draining (of one group), by id; we ourselves as we want to be seen."""
        found = {m.id: m for m in self._census.living()}
        if self._state in ("live", "fenced"):
            found[self.member] = self._own.member
        return [m for _, m in sorted(found.items()) if not m.draining and (group is None or group in m.groups)]

    def living(self) -> Sequence[Member]:
        """All members that were not buried, those that drain as well."""
        return self._census.living()

    def check(self) -> bool:
        """Whether trust holds now. If it has just ended, listeners are told before this returns."""
        if self.fence.holds(self._clock.monotonic()):
            return True
        if self._state == "live":
            self._state = "fenced"
            self._tell("fenced")
            for listener in self._listeners:
                listener.fenced()
        return False

    def is_buried(self, member: str) -> bool:
        """Its tombstone was seen. True is for ever; False may be old."""
        return self._census.is_buried(member)

    async def certainly_buried(self, member: str) -> bool:
        """Buried, or without any record and buried now. False if it lives. Raises `Unavailable`."""
        return await self._census.certainly_buried(member)

    async def bury(self, member: str, version: str | None) -> bool:
        """Write its tombstone over this version. False if it lives. Raises `Unavailable`."""
        return await self._census.bury(member, version)

    async def ring(self, *groups: str) -> None:
        """Wake the replicas of these groups; soon again, if the store does not answer."""
        await self._bells.ring(*groups)

    # --- registering ----------------------------------------------------------------------------------------

    def listen(self, listener: Listener) -> None:
        """Tell this one of fence, resume and burial."""
        self._listeners.append(listener)

    def on_ring(self, group: str, callback: Callable[[], None]) -> None:
        """Call this when another replica has rung the bell of the group."""
        self._bells.on_ring(group, callback)

    def on_burial(self, callback: Callable[[str], None]) -> None:
        """Call this when a member is known to be buried, by whomever."""
        self._census.on_burial(callback)

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call this when `members()` has changed."""
        self._changes.append(callback)

    def frees(self, free: Free) -> None:
        """End the claims of the dead with this (`Queue.free`), after each burial and every 5 s."""
        self._census.frees(free)

    def notes(self, worker: str, behind: Callable[[], Mapping[str, int]]) -> None:
        """Note with each renewal how far behind the partitions of this feed worker are that we hold."""
        self._notes[worker] = behind

    def naming(self, names: Callable[[], Iterable[str]]) -> None:
        """Members that something still names: their tombstones are kept."""
        self._census.naming(names)

    # --- life -----------------------------------------------------------------------------------------------

    async def join(self) -> None:
        """Become a member, however long the store takes to answer."""
        while not await self._enter():
            await self._clock.sleep(RETRY)

    async def run(self) -> None:
        """Stay one, until `leave()`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renewing(group))
            group.create_task(self._watching())
            group.create_task(self._listening())
            group.create_task(self._freeing())

    async def draining(self) -> None:
        """Take nothing new: tell the others, and wait a moment until that is written."""
        await self._adjust(replace(self._own.member, draining=True))

    async def weigh(self, weight: int | None) -> None:
        """Take another share of the work: 0 for none, None for the one we came with."""
        await self._adjust(replace(self._own.member, weight=self._weight if weight is None else weight))

    async def leave(self) -> None:
        """Delete our record: the last call to the store. Tried until it is answered. Idempotent."""
        self._state = "left"
        self._stopping.set()
        for event in (self._own.wake, self._look_now, self._free_now):
            event.set()
        self.fence.drop()
        await self._own.delete()
        if self._presence is not None:
            await self._presence.drop(self.member)

    async def _enter(self) -> bool:
        try:
            if self._presence is not None:
                await self._presence.hold(self.member)
                while self._former:
                    await self._presence.drop(self._former.pop())
            if not await self._own.create():
                return False
        except Unavailable:
            return False
        self._look_now.set()
        await self.ring(*self._own.member.groups)
        return True

    async def _renewing(self, group: asyncio.TaskGroup) -> None:
        while not self._stopping.is_set():
            if self._state == "out":
                await self.join()
                continue
            self.check()
            pause = self._own.wait()
            if pause <= 0:
                group.create_task(self._own.renew())
                await self._clock.sleep(0)
                continue
            if self._state == "live":
                pause = min(pause, self.fence.deadline - self._clock.monotonic())
            wake = self._own.wake
            await self._clock.wait(wake, pause)
            wake.clear()

    def _replied(self, sent: float | None) -> None:
        """Our record stands since then; or not at all."""
        self.check()  # before the reply extends the deadline: it must not hide that we were late
        if self._state == "left":
            return
        if sent is None:
            self._lost()
            return
        self.fence.extend(sent, self._profile.fence)
        before, holds = self._state, self.fence.holds(self._clock.monotonic())
        self._state = "live" if holds else "fenced"
        if holds and before != "live":
            self._tell("resumed" if before == "fenced" else "member_joined")
            for listener in self._listeners:
                listener.resumed()

    def _behind(self) -> Behind:
        """What is noted in our record: only what is behind at all."""
        told = {
            worker: {name: items for name, items in note().items() if items} for worker, note in self._notes.items()
        }
        return {worker: parts for worker, parts in told.items() if parts}

    def _lost(self) -> None:
        """Somebody has buried us. We come back as somebody else."""
        self._tell("buried")
        self.fence.drop()
        self._state = "out"
        self._former.append(self.member)
        self._own.wake.set()
        self._own.restart(replace(self._own.member, id=self._hex(96)))
        for listener in self._listeners:
            listener.buried()

    async def _adjust(self, member: Member) -> None:
        self._own.member = member
        self._own.wake.set()
        deadline = self._clock.monotonic() + TOLD_WITHIN
        while self._own.stored is not member and self._state == "live" and self._clock.monotonic() < deadline:
            await self._clock.sleep(0.05)
        self._show()
        await self.ring(*member.groups)

    def _tell(self, what: str) -> None:
        self._observe(Fact(what, detail={"member": self.member, "name": self._own.member.name}))

    # --- the others -----------------------------------------------------------------------------------------

    async def _watching(self) -> None:
        while not self._stopping.is_set():
            try:
                groups = await self._census.look()
                if self._census.is_buried(self.member) and self._state != "left":
                    self._lost()
                self._show()
                await self.ring(*groups)
            except Unavailable:
                pass  # the gap that this leaves starts every wait anew
            await self._clock.wait(self._look_now, self._profile.observe)
            self._look_now.clear()

    async def _listening(self) -> None:
        while not self._stopping.is_set():
            try:
                await self._bells.look()
            except Unavailable:
                pass  # bells only shorten waits
            await self._clock.wait(self._stopping, LISTEN)

    async def _freeing(self) -> None:
        while not self._stopping.is_set():
            try:
                if await self._census.free():
                    continue
            except Unavailable:
                pass  # tried again with the next round
            await self._clock.wait(self._free_now, FREE_EVERY)
            self._free_now.clear()

    def _show(self) -> None:
        shown = [(m.id, m.weight, m.groups) for m in self.members()]
        if shown != self._shown:
            self._shown = shown
            for callback in self._changes:
                callback()

    def _someone_died(self, _member: str) -> None:
        self._free_now.set()

    def _look_soon(self) -> None:
        self._look_now.set()

    def _hex(self, bits: int) -> str:
        return f"{self._random.getrandbits(bits):0{bits // 4}x}"
