"""Who should work which partition: a pure function of live members and current owners, the same for
everybody.

Each feed by itself: the floor of its fair share to every member, by weight; what remains is one *extra*
partition for some members. Extras stay with those who hold them, and go on to others only when that makes
the total load more even, so that many small feeds do not all end in one place. Each such move strictly
lessens the sum of load (load + 1) per weight, and nothing else moves: hence it ends. A partition that was released
counts for the member that was named, so that the way there changes nothing: a result that was carried out is a fixed
point, and a stable fleet stands still.

Owners keep up to their quota. Free partitions go to the member that was named by who released them, else by
rendezvous rank, among those under quota. Who is above quota releases; nobody takes from the living.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b


@dataclass(frozen=True, slots=True)
class Slot:
    """A partition as it stands: its owner, None when it is free or its owner is buried. `next_owner` is a
    hint."""

    owner: str | None = None
    next_owner: str | None = None


@dataclass(frozen=True, slots=True)
class Division:
    """One feed: its partitions, and the weight (at least 1) of each member that may work them."""

    weights: Mapping[str, int]
    slots: Mapping[str, Slot]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one member does now. `claims` and `releases` per feed; a release names who should take over."""

    quotas: Mapping[str, Mapping[str, int]]
    claims: Mapping[str, Sequence[str]] = field(default_factory=dict)
    releases: Mapping[str, Sequence[tuple[str, str | None]]] = field(default_factory=dict)


def plan(
    me: str,
    feeds: Mapping[str, Division],
    *,
    cost: Callable[[str, str], float] = lambda _feed, _partition: 0.0,
) -> Plan:
    """What `me` should claim and release. Of those it could release the ones with the least `cost` go
    first."""
    shared = quotas(feeds)
    claims, releases = {}, {}
    for name, feed in feeds.items():
        targets = place(name, feed, shared[name])
        claims[name] = [p for p, member in targets.items() if member == me and feed.slots[p].owner is None]
        mine = sorted((cost(name, p), p) for p, slot in feed.slots.items() if slot.owner == me)
        room = _my_room(me, feed, shared[name], targets)
        releases[name] = _onward(name, [p for _, p in mine[: room.total()]], room)
    return Plan(shared, claims, releases)


def place(name: str, feed: Division, quota: Mapping[str, int]) -> dict[str, str]:
    """Who should claim each free partition of a feed."""
    room = _room(feed, quota, {})
    free = sorted(p for p, slot in feed.slots.items() if slot.owner is None)
    targets = {}
    for hinted in (True, False):
        for partition in free:
            member = feed.slots[partition].next_owner if hinted else _first(name, partition, room)
            if partition not in targets and member is not None and room.get(member, 0) > 0:
                room[member] -= 1
                targets[partition] = member
    return targets


def quotas(feeds: Mapping[str, Division]) -> dict[str, dict[str, int]]:
    """How many partitions of each feed each of its members should hold: floor or ceiling of its share."""
    shares = {name: _Share(feeds[name]) for name in sorted(feeds)}
    loads = _Loads()
    for share in shares.values():
        for member, floor in share.floors.items():
            loads.add(member, floor, share.weights[member])
    for takers in (_holders, _others):  # a free partition goes where it is light when all that is held has been counted
        for share in shares.values():
            for member in takers(share, loads):
                share.extras.add(member)
                loads.add(member, 1)
    while (move := _better(shares.values(), loads)) is not None:
        share, giver, taker = move
        share.extras ^= {giver, taker}
        loads.add(giver, -1)
        loads.add(taker, 1)
    return {name: shares[name].quotas() for name in feeds}


class _Share:
    """The arithmetic of one feed: floors, who may take an extra, who does."""

    __slots__ = ("eligible", "extras", "floors", "held", "left", "name", "weights")

    def __init__(self, feed: Division) -> None:
        total, count = sum(feed.weights.values()), len(feed.slots)
        self.weights = {m: feed.weights[m] for m in sorted(feed.weights)}
        self.floors = {m: count * w // total for m, w in self.weights.items()}
        self.left = count - sum(self.floors.values()) if total else 0
        self.eligible = [m for m, w in self.weights.items() if count * w % total]
        self.extras: set[str] = set()
        self.held = dict.fromkeys(self.weights, 0)
        for slot in feed.slots.values():
            holder = slot.next_owner if slot.owner is None else slot.owner  # what is on its way counts as arrived
            if holder in self.held:
                self.held[holder] += 1

    def quotas(self) -> dict[str, int]:
        return {m: floor + (m in self.extras) for m, floor in self.floors.items()}


class _Loads:
    """Partitions per member over all feeds."""

    __slots__ = ("_count", "_weight")

    def __init__(self) -> None:
        self._count: dict[str, int] = {}
        self._weight: dict[str, int] = {}

    def add(self, member: str, count: int, weight: int | None = None) -> None:
        self._count[member] = self._count.get(member, 0) + count
        if weight is not None:
            self._weight[member] = weight

    def of(self, member: str) -> float:
        """Load per weight."""
        return self._count[member] / self._weight[member]

    def after(self, member: str) -> float:
        """Load per weight with one partition more."""
        return (self._count[member] + 1) / self._weight[member]

    def eases(self, giver: str, taker: str) -> bool:
        """Whether one partition less here and one more there is more even. In whole numbers: no rounding."""
        return self._count[giver] * self._weight[taker] > (self._count[taker] + 1) * self._weight[giver]


def _holders(share: _Share, loads: _Loads) -> list[str]:
    """Who gets an extra at first: who holds one already."""
    holders = [m for m in share.eligible if share.held[m] > share.floors[m]]
    return sorted(holders, key=lambda m: (loads.of(m), m))[: share.left]


def _others(share: _Share, loads: _Loads) -> list[str]:
    """Who gets an extra that nobody holds: whom it burdens least. Weighed as `_better` does, or the next look would
    move what this one gave."""
    others = [m for m in share.eligible if m not in share.extras]
    return sorted(others, key=lambda m: (loads.after(m), m))[: share.left - len(share.extras)]


def _better(shares: Iterable[_Share], loads: _Loads) -> tuple[_Share, str, str] | None:
    """An extra that would ease the load of its holder if another had it; the largest difference first."""
    best: tuple[_Share, str, str] | None = None
    most = 0.0
    for share in shares:
        if not share.extras:
            continue
        takers = [m for m in share.eligible if m not in share.extras]
        if not takers:
            continue
        giver = max(sorted(share.extras), key=loads.of)
        taker = min(takers, key=loads.after)
        gain = loads.of(giver) - loads.after(taker)
        if loads.eases(giver, taker) and gain > most:
            best, most = (share, giver, taker), gain
    return best


def _room(feed: Division, quota: Mapping[str, int], targets: Mapping[str, str]) -> dict[str, int]:
    """How many more each member may take, counting what it holds and what is meant for it."""
    room = dict(quota)
    for member in [slot.owner for slot in feed.slots.values()] + list(targets.values()):
        if member in room:
            room[member] -= 1
    return room


def _my_room(me: str, feed: Division, quota: Mapping[str, int], targets: Mapping[str, str]) -> Counter[str]:
    """To whom I may send my surplus: all who release divide the room in one order, and nobody is named too often."""
    room = _room(feed, quota, targets)
    takers = [member for member in sorted(room) for _ in range(room[member])]
    held = Counter(slot.owner for slot in feed.slots.values() if slot.owner is not None)
    for owner in sorted(held):
        surplus = max(held[owner] - quota.get(owner, 0), 0)
        if owner == me:
            return Counter(takers[:surplus])
        takers = takers[surplus:]
    return Counter()


def _onward(name: str, partitions: Sequence[str], room: Counter[str]) -> list[tuple[str, str | None]]:
    """Whom each released partition should go to."""
    onward = []
    for partition in partitions:
        taker = _first(name, partition, room)
        if taker is not None:
            room[taker] -= 1
        onward.append((partition, taker))
    return onward


def _first(name: str, partition: str, room: Mapping[str, int]) -> str | None:
    """The member with room that ranks first for a partition."""
    return max((m for m, left in room.items() if left > 0), key=lambda m: (rank(m, name, partition), m), default=None)


def rank(member: str, name: str, partition: str) -> int:
    """Rendezvous: each partition has its own order of members, and one member more changes few of them."""
    text = f"{member}\0{name}\0{partition}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest())
