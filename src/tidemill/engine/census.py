"""The census: who lives, as one member sees it, and the burial of who does not.

State: what the last good read of all members showed, and since when. Reads only propose: they may be old.
A burial is a swap over the version that was seen; if the member has renewed it meanwhile, the swap is
stale and it lives. Failure cases. *The store was away for all*: the gap in our reads starts every wait
anew, so nobody is buried for it. *A burial is not answered*: the next read shows whether it took effect,
else it is tried again. *An owner has no record at all*: its tombstone is created if there is none; a
living member whom we had not seen makes that fail. A tombstone is needed while something names the dead;
one that is removed too early is created again in that way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from random import Random
from typing import TypeAlias

from tidemill.core.member import (
    PREFIX,
    Entry,
    Member,
    Tombstone,
    Watch,
    from_value,
    key_of,
    mismatched,
    replaced,
)
from tidemill.engine.work import Profile
from tidemill.errors import FormatTooNew, Unavailable
from tidemill.model import Fact, Observer, Record, Stale, Swap
from tidemill.ports import Clock, Presence, Store

Free: TypeAlias = Callable[[Sequence[str]], Awaitable[Sequence[str]]]

PAGE = 1_000
TIDY_EVERY = 60.0
KEEP_TOMBSTONES = 3_600.0
SILENT = 1.5
"""Renewals that must be missing before somebody is told that a member is silent."""


class Census:
    """Everybody in one store. `mine` gives our own record as we want it to be."""

    def __init__(
        self,
        store: Store,
        presence: Presence | None,
        *,
        clock: Clock,
        random: Random,
        profile: Profile,
        observer: Observer,
        mine: Callable[[], Member],
    ) -> None:
        self.warnings: Sequence[str] = ()
        self._store = store
        self._presence = presence
        self._clock = clock
        self._random = random
        self._observe = observer
        self._mine = mine
        self._profile = profile
        self._watch = Watch(profile.bury_after)
        self._waiting: set[str] = set()
        self._seen: Mapping[str, tuple[str, Entry]] = {}
        self._buried: dict[str, float] = {}
        self._claimants: dict[int, Sequence[str]] = {}
        self._burials: list[Callable[[str], None]] = []
        self._frees: list[Free] = []
        self._names: list[Callable[[], Iterable[str]]] = []
        self._tidied = clock.monotonic()

    # --- asking ---------------------------------------------------------------------------------------------

    def living(self) -> list[Member]:
        """All members that were not buried, as of the last good read and the burials since."""
        return [m for _, m in self._seen.values() if isinstance(m, Member) and m.id not in self._buried]

    def is_buried(self, member: str) -> bool:
        """Its tombstone was seen. True is for ever; False may be old."""
        return member in self._buried

    async def certainly_buried(self, member: str) -> bool:
        """Buried, or without any record and buried now. False if it lives. Raises `Unavailable`."""
        if self.is_buried(member):
            return True
        return member not in self._seen and await self.bury(member, None)

    async def bury(self, member: str, version: str | None) -> bool:
        """Write its tombstone over this version (None: over nothing). False if it lives. Raises
        `Unavailable`."""
        mine = self._mine()
        if member == mine.id:
            return False
        write = f"{self._random.getrandbits(64):016x}"
        stone = Tombstone(member, mine.id, self._clock.now(), write)
        [result] = await self._store.swap([Swap(key_of(member), version, stone.to_value())])
        if isinstance(result, Stale) and (result.current is None or not _is_stone(result.current)):
            return False
        if isinstance(result, Record):
            self._observe(Fact("member_buried", detail={"member": member, "by": mine.id}))
        self._note(member)
        return True

    # --- registering ----------------------------------------------------------------------------------------

    def on_burial(self, callback: Callable[[str], None]) -> None:
        self._burials.append(callback)

    def frees(self, free: Free) -> None:
        self._frees.append(free)

    def naming(self, names: Callable[[], Iterable[str]]) -> None:
        self._names.append(names)

    # --- looking --------------------------------------------------------------------------------------------

    async def look(self) -> list[str]:
        """Read all members and bury who may be buried. The groups of those we buried. Raises
        `Unavailable`."""
        sent = self._clock.monotonic()
        records = await self._scan()
        received = self._clock.monotonic()
        self._take(records, received)
        mine, others = self._mine(), [m for m in self.living() if m.id != self._mine().id]
        gone = {*replaced(mine, others), *await self._gone(others)}
        versions = {m.id: self._seen[m.id][0] for m in others}
        groups: set[str] = set()
        for member, version in self._watch.saw(versions, gone, sent=sent, received=received):
            if await self.bury(member, version):
                groups |= {g for m in others if m.id == member for g in m.groups}
        self._tell_waits(received)
        if received - self._tidied >= TIDY_EVERY:
            self._tidied = received
            await self._tidy()
        return sorted(groups)

    async def free(self) -> bool:
        """End the claims of the dead in every queue. True if owners without a record were buried: free
        again."""
        again = False
        for number, free in enumerate(self._frees):
            owners = self._claimants[number] = await free(list(self._buried))
            for owner in owners:
                if not self.is_buried(owner) and owner != self._mine().id:
                    again |= await self.certainly_buried(owner)
        return again

    async def _scan(self) -> list[Record]:
        records: list[Record] = []
        after = ""
        while True:
            page = await self._store.scan(PREFIX, after, PAGE)
            records += page
            if len(page) < PAGE:
                return records
            after = page[-1].key

    async def _gone(self, others: Sequence[Member]) -> Sequence[str]:
        if self._presence is None or not others:
            return ()
        try:
            return await self._presence.gone([m.id for m in others])
        except Unavailable:
            return ()  # it only shortens the wait

    def _take(self, records: Sequence[Record], now: float) -> None:
        before, seen = self._seen, {}
        for record in records:
            member = record.key.removeprefix(PREFIX)
            known = before.get(member)
            same = known is not None and known[0] == record.version
            seen[member] = known if known is not None and same else (record.version, _entry(member, record))
        self._seen = seen
        self._buried = {m: t for m, t in self._buried.items() if now - t < TIDY_EVERY}
        for member, (_, entry) in seen.items():
            if isinstance(entry, Tombstone):
                self._note(member)
        self._warn()

    def _note(self, member: str) -> None:
        new = member not in self._buried
        self._buried[member] = self._clock.monotonic()
        if new:
            for callback in self._burials:
                callback(member)

    def _tell_waits(self, now: float) -> None:
        """Say once of each who is silent, and for how long what it holds must wait."""
        silent = {m.id: m for m in self.living() if self._watch.silence(m.id, now) > SILENT * self._profile.renew}
        for member in silent.keys() - self._waiting:
            left = max(self._profile.bury_after - self._watch.silence(member, now), 0.0)
            self._observe(Fact("waiting", detail={"replica": silent[member].name, "seconds": round(left)}))
        self._waiting = set(silent)

    def _warn(self) -> None:
        mine = self._mine()
        warnings = tuple(
            f"{m.name} runs member profile {m.profile!r}, this replica {mine.profile!r}: set the same for all"
            for m in mismatched(mine, self.living())
        )
        for warning in set(warnings) - set(self.warnings):
            self._observe(Fact("profile_mismatch", detail={"warning": warning}))
        self.warnings = warnings

    async def _tidy(self) -> None:
        """Remove tombstones that are old and named by nothing that we know of."""
        named = {name for names in self._names for name in names()}
        named |= {owner for owners in self._claimants.values() for owner in owners}
        before = self._clock.now() - KEEP_TOMBSTONES
        swaps = [
            Swap(key_of(member), version, None)
            for member, (version, entry) in self._seen.items()
            if isinstance(entry, Tombstone) and entry.at < before and member not in named
        ]
        if swaps:
            await self._store.swap(swaps)


def _entry(member: str, record: Record) -> Entry:
    """What a record says. One of a newer release is a member all the same: it lives, and it may die."""
    try:
        return from_value(record.value)
    except FormatTooNew:
        return Member(member, "?", ())


def _is_stone(record: Record) -> bool:
    return record.value.get("state") == "buried"
