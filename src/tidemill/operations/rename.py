"""A feed worker has a new name: move its cursors, its park and its dead letters from the old name to the new one.

Nobody may work on either name meanwhile, and a crash in the middle must lose nothing. So, in this order:

1. *freeze* the old leases: their epoch rises, and each names itself as the parent that must go first, which keeps
   every replica of every release from claiming it;
2. *reserve* the new ones, frozen in the same way, with the old cursors;
3. partition by partition carry over what hangs on it (letters, park index, finished rows, wishes), remove the old
   lease, and *thaw* the new one.

Each write is a swap over what was seen, and each step finds out whether it was done: the same command goes on where
a crash has left it. Before step 3 everything is undone if somebody else was quicker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias

from tidemill.app.worker import Worker
from tidemill.core import lease, member, park
from tidemill.core.lease import Lease
from tidemill.engine.controls import FEED, PAUSE
from tidemill.engine.places import Places
from tidemill.errors import Refused
from tidemill.model import Record, Stale, Swap, Swapped, Value
from tidemill.operations.feeds import source_of
from tidemill.operations.records import PAGE, RENAMED, scan
from tidemill.ports import DeadLetters, Store

Known: TypeAlias = tuple[str, Lease]
"""A lease and the version it was seen at."""


@dataclass(frozen=True, slots=True)
class Renamed:
    """What was moved: partitions with their cursors, parked keys, dead letters and parked changes. `again`: an earlier
    rename was interrupted, and this one goes on with it."""

    partitions: int
    keys: int
    letters: int
    again: bool = False


async def rename_feed(
    places: Places, old: str, worker: Worker, *, random: Random, now: float, dry_run: bool = False
) -> Renamed:
    """Move all that hangs on `old` to `worker`. Raises `Refused` where somebody works `old`, where `worker` has begun,
    or where there is nothing to move."""
    source = source_of(worker)
    letters, gone = places.letters_of_feed(source), await _gone(places)
    mover = _Mover(places.shared_store(), letters, old, worker.name, gone=gone, random=random, now=now)
    found = await mover.leases(old)
    mine = {name: known for name, known in (await mover.leases(worker.name)).items() if _came(known[1], old)}
    mover.again = bool(mine) or any(_goes(known[1], worker.name) for _, known in found.items())
    await mover.check(found, source)
    plan = await mover.count(sorted({*found, *mine}))
    if dry_run:
        return plan
    await mover.freeze(found)
    await mover.reserve()
    await mover.carry(PAUSE + old, PAUSE + worker.name)
    for partition in sorted({*mover.frozen, *mine}):
        await mover.move(partition)
    return plan


class _Mover:
    """One rename. State: the old leases that are frozen, by partition."""

    def __init__(
        self,
        store: Store,
        letters: DeadLetters,
        old: str,
        new: str,
        *,
        gone: frozenset[str],
        random: Random,
        now: float,
    ) -> None:
        self.frozen: dict[str, Known] = {}
        self.again = False
        self._store = store
        self._letters = letters
        self._old = old
        self._new = new
        self._gone = gone
        self._random = random
        self._now = now

    async def leases(self, worker: str) -> dict[str, Known]:
        prefix = lease.prefix_of(worker)
        records = [record async for record in scan(self._store, prefix)]
        return {r.key.removeprefix(prefix): (r.version, lease.from_value(r.value)) for r in records}

    async def check(self, found: Mapping[str, Known], source: str) -> None:
        """Raise `Refused` for what can be seen before anything is written."""
        old, new = self._old, self._new
        if not found and not self.again:
            raise Refused(f"nothing is known of a feed worker {old!r}: there is nothing to rename")
        other = next((one.source for _, one in found.values() if one.source not in ("", source)), None)
        if other is not None:
            raise Refused(
                f"{old!r} worked {other!r} and {new!r} works {source!r}: a cursor of one is none of the other"
            )
        for partition, (_, one) in (await self.leases(new)).items():
            if not self.again and not _came(one, old):
                raise Refused(
                    f"{new!r} has begun (partition {partition}): what it has done cannot be joined with {old!r}"
                )
        for partition, (_, one) in sorted(found.items()):
            await self._ended(one.owner, partition, bury=False)

    async def count(self, partitions: Sequence[str]) -> Renamed:
        keys = letters = 0
        for partition in partitions:
            [record] = await self._store.get([f"park/{self._old}/{partition}"])
            keys += len(park.from_value(record.value).keys) if record else 0
            for source in _sources(self._old, partition):
                letters += (await self._letters.count(source)).get(source, 0)
        return Renamed(len(partitions), keys, letters, self.again)

    # --- 1 and 2: nobody else works it any more ---------------------------------------------------------------

    async def freeze(self, found: Mapping[str, Known]) -> None:
        """Keep everybody from claiming the old leases. Undone if one of them is held."""
        try:
            for partition, (version, one) in sorted(found.items()):
                if not _goes(one, self._new):
                    await self._ended(one.owner, partition, bury=True)
                    one = _freeze(one, partition, {"to": self._new}, self._nonce())
                    version = await self._put(lease.key_of(self._old, partition), version, one)
                self.frozen[partition] = (version, one)
        except Refused:
            await self._undo()
            raise

    async def reserve(self) -> None:
        """Create the new leases. Undone if one is there that is none of ours."""
        for partition, (_, one) in self.frozen.items():
            origin = _thaw(one)
            wanted = _freeze(origin, partition, {"from": self._old}, self._nonce())
            [reply] = await self._swap(lease.key_of(self._new, partition), None, wanted)
            current = reply.current if isinstance(reply, Stale) else None
            if current is not None and not _came(lease.from_value(current.value), self._old):
                await self._undo()
                raise Refused(
                    f"{self._new!r} has begun (partition {partition}) while it was renamed; nothing was moved"
                )

    async def _undo(self) -> None:
        for partition, (version, one) in self.frozen.items():
            [new] = await self._store.get([lease.key_of(self._new, partition)])
            if new is not None and _came(lease.from_value(new.value), self._old):
                await self._store.swap([Swap(new.key, new.version, None)])
            await self._swap(lease.key_of(self._old, partition), version, _thaw(one))

    async def _ended(self, owner: str | None, partition: str, *, bury: bool) -> None:
        """Raise `Refused` unless the owner is dead for certain; then `bury` it, as any replica would do it."""
        if owner is None:
            return
        [record] = await self._store.get([member.key_of(owner)])
        entry = member.from_value(record.value) if record else None
        if isinstance(entry, member.Tombstone):
            return
        if entry is None or owner in self._gone:
            stone = member.Tombstone(owner, "rename", self._now, self._nonce())
            swap = Swap(member.key_of(owner), record.version if record else None, stone.to_value())
            if not bury or isinstance((await self._store.swap([swap]))[0], Record):
                return
        name = entry.name if entry else owner
        raise Refused(
            f"{name} holds partition {partition} of {self._old!r}: stop it first; if it was killed, start a replica of"
            f" a release with {self._old!r}, which takes over within 20 s, and stop that"
        )

    # --- 3: move ----------------------------------------------------------------------------------------------

    async def move(self, partition: str) -> None:
        """One partition, whatever of it was moved before."""
        old, new = self._old, self._new
        if partition in self.frozen:
            for before, after in zip(_sources(old, partition), _sources(new, partition), strict=True):
                await self._move_letters(before, after)
            await self._move_park(partition, self.frozen[partition][1].epoch)
            for prefix in ("finished/lease/{}/{}/", FEED + "{}/{}/"):
                await self.carry(prefix.format(old, partition), prefix.format(new, partition))
            version, _ = self.frozen[partition]
            [reply] = await self._store.swap([Swap(lease.key_of(old, partition), version, None)])
            if isinstance(reply, Stale) and reply.current is not None:
                raise Refused(f"partition {partition} of {old!r} was written by somebody else; run the command again")
        [record] = await self._store.get([lease.key_of(new, partition)])
        if record is not None and _came(one := lease.from_value(record.value), old):
            await self._swap(record.key, record.version, _thaw(one))

    async def carry(self, before: str, after: str) -> None:
        """Move every record whose key starts with `before`, or is it."""
        records = [record async for record in scan(self._store, before) if _below(record.key, before)]
        for record in records:
            key = after + record.key.removeprefix(before)
            await self._store.swap([Swap(key, None, record.value)])  # stale: it was moved before
            await self._store.swap([Swap(record.key, record.version, None)])

    async def _move_letters(self, before: str, after: str) -> None:
        while page := await self._letters.page(before, -1, PAGE):
            await self._letters.put([replace(letter, source=after) for letter in page])
            await self._letters.drop(before, [letter.id for letter in page])

    async def _move_park(self, partition: str, epoch: int) -> None:
        """Seal the old index, so that a stale owner's swap is refused; then write it under the new name."""
        before, after = f"park/{self._old}/{partition}", f"park/{self._new}/{partition}"
        while True:
            [record] = await self._store.get([before])
            if record is None:
                return
            index = park.seal(park.from_value(record.value), epoch)
            [reply] = await self._store.swap([Swap(before, record.version, park.to_value(index, self._nonce()))])
            if isinstance(reply, Record):
                break
        [new] = await self._store.get([after])
        while True:
            [written] = await self._store.swap([Swap(after, new.version if new else None, reply.value)])
            if isinstance(written, Record):
                break
            new = written.current if isinstance(written, Stale) else None
        await self._store.swap([Swap(before, reply.version, None)])

    # --- writes -----------------------------------------------------------------------------------------------

    async def _put(self, key: str, version: str | None, wanted: Lease) -> str:
        [reply] = await self._swap(key, version, wanted)
        if isinstance(reply, Record):
            return reply.version
        raise Refused(f"somebody has taken {key.removeprefix(lease.PREFIX)} just now: stop it first")

    async def _swap(self, key: str, version: str | None, wanted: Lease) -> Sequence[Swapped]:
        return await self._store.swap([Swap(key, version, replace(wanted, write=self._nonce()).to_value())])

    def _nonce(self) -> str:
        return f"{self._random.getrandbits(64):016x}"


def _sources(worker: str, partition: str) -> tuple[str, str]:
    """Where the letters of a partition stand: parked ones, and those that were skipped."""
    return f"feed/{worker}/{partition}", f"feed/{worker}/{partition}/skipped"


def _below(key: str, prefix: str) -> bool:
    return prefix.endswith("/") or key == prefix


def _freeze(one: Lease, partition: str, mark: Mapping[str, str], nonce: str) -> Lease:
    """Nobody may claim it: it waits for itself to be gone. A new token, so that its last owner writes nothing more."""
    extra: Value = {**one.extra, RENAMED: {**mark, "parents": list(one.parents)}}
    released = lease.release(replace(one, epoch=one.epoch + 1, nonce=nonce), None)
    return replace(released, parents=(partition,), extra=extra)


def _thaw(one: Lease) -> Lease:
    """As it was, but for its token: it may be claimed."""
    mark = one.extra.get(RENAMED)
    parents = mark.get("parents") if isinstance(mark, Mapping) else None
    rest = {name: item for name, item in one.extra.items() if name != RENAMED}
    return replace(one, parents=tuple(map(str, parents)) if isinstance(parents, list | tuple) else (), extra=rest)


def _goes(one: Lease, new: str) -> bool:
    """Frozen by a rename to this name."""
    mark = one.extra.get(RENAMED)
    return isinstance(mark, Mapping) and mark.get("to") == new


def _came(one: Lease, old: str) -> bool:
    """Reserved by a rename from this name."""
    mark = one.extra.get(RENAMED)
    return isinstance(mark, Mapping) and mark.get("from") == old


async def _gone(places: Places) -> frozenset[str]:
    """Members that certainly live no more, where the store can tell."""
    presence = places.store.presence() if "presence" in places.store.features else None
    if presence is None:
        return frozenset()
    records = [record async for record in scan(places.shared_store(), member.PREFIX)]
    entries = [member.from_value(record.value) for record in records]
    return frozenset(await presence.gone([one.id for one in entries if isinstance(one, member.Member)]))
