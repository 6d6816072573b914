"""Leases that hosts of another kind hold beside us: they are no members, cannot be buried, and take without asking.

Such a host shows that it lives by writing its leases: a version that changes. It is respected for as long as it does.
A lease is taken from it only when its version has not changed for `patience` seconds on our monotonic clock *and* the
moment it was written last is as old by the wall clock; the first keeps us from taking from the living when a wall clock
is wrong, the second from counting an old read. They judge ours by the moment of its last write alone, so each
of ours is written at least every `renew` seconds and trusted for `fence` seconds from the send of a good write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rules:
    """The numbers, in seconds: how often leases are read, how old a write of ours may get before the next, how long it
    is trusted, how long a host of another kind must be silent. A gap between two good reads that is longer than `gap`
    starts the wait anew."""

    look: float = 5.0
    renew: float = 15.0
    fence: float = 45.0
    patience: float = 60.0
    gap: float = 15.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease of another's as it was read: the version, who holds it, when it was written last (wall clock)."""

    version: str
    owner: str
    renewed_at: float


class Vigil:
    """One observer's patience with the leases of one feed worker. Fed with each good read of all of them; a read that
    failed is not fed, and the gap it leaves starts every wait anew."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._since: dict[str, tuple[str, float]] = {}
        self._owners: dict[str, str] = {}
        self._last = float("-inf")

    def saw(self, found: Mapping[str, Seen], *, sent: float, received: float, now: float) -> frozenset[str]:
        """The partitions whose holder has been silent for long enough. `found` are those that others hold, asked for
        at `sent`, known at `received` (monotonic); `now` is the wall clock."""
        before = self._since if received - self._last <= self._rules.gap else {}
        self._last = received
        self._since = {
            name: known
            if (known := before.get(name)) is not None and known[0] == one.version
            else (one.version, received)
            for name, one in found.items()
        }
        patience = self._rules.patience
        return frozenset(
            name
            for name, (_, since) in self._since.items()
            if sent - since >= patience and now - found[name].renewed_at >= patience
        )

    def news(self, found: Mapping[str, Seen]) -> list[tuple[str, str]]:
        """Partitions and holders that were not told before: each change of hands once."""
        owners = {name: one.owner for name, one in found.items()}
        told = [(name, owner) for name, owner in sorted(owners.items()) if self._owners.get(name) != owner]
        self._owners = owners
        return told
