"""Leases: who works a partition, and from where. The record and its transitions; `engine.leases` writes them.

A lease, `lease/<worker>/<partition>`, is written by its owner only, or by a claimer when it is free or
its owner is buried. So each write of an owner meets the version it wrote last; another version with its
own *nonce* is its own lost reply, and anything else means that the lease is lost.

The fencing token is (epoch, nonce). The epoch rises with each claim, each resume after a fence, each
reset; it never falls, and the cursor goes back with a reset only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias

from tidemill.errors import FormatTooNew
from tidemill.model import FORMAT, Value

State: TypeAlias = Literal["running", "halted", "paused"]


SINGLE_AFTER = 3
"""Crashes of owners in a row, none of which moved the mark, after which changes run one by one, each named in the
lease before it starts."""

CONDEMN_AFTER = SINGLE_AFTER + 3
"""Crashes after which the suspect is parked: it was alone in it three times running, with nothing done between. Kills
from outside hit somebody in the middle too; one that hits nobody counts for nobody."""


@dataclass(frozen=True, slots=True)
class Lease:
    """One partition of one worker. `source` is the collection or table that it is a partition of.

    `crashes` counts claims from buried owners since the cursor moved last; `running_one` is the order of
    the change that is being run alone because of them, `suspect` that of the one that was when its process ended.
    `next_owner` is a hint for the next claim. A lease
    with `parents` (the partitions it was split from) may be claimed only when none of them has a lease
    any more.

    Where hosts of another kind share the leases: `foreign` says that the owner is one of them, and `renewed_at` when
    the lease was written last (seconds since the epoch). A `cursor` of "" was never worked: what came after the time
    `since` must not be skipped. `notes` are theirs, kept as they are and handed on at a split.
    """

    cursor: str
    owner: str | None = None
    epoch: int = 0
    nonce: str = ""
    crashes: int = 0
    state: State = "running"
    next_owner: str | None = None
    running_one: int | None = None
    suspect: int | None = None
    parents: tuple[str, ...] = ()
    source: str = ""
    write: str = field(default="", compare=False)
    extra: Value = field(default_factory=dict)
    since: float = 0.0
    notes: Value = field(default_factory=dict)
    foreign: bool = field(default=False, compare=False)
    renewed_at: float = field(default=0.0, compare=False)

    def to_value(self) -> Value:
        return {
            **self.extra,
            "format": FORMAT,
            "owner": self.owner,
            "epoch": self.epoch,
            "nonce": self.nonce,
            "cursor": self.cursor,
            "crashes": self.crashes,
            "state": self.state,
            "next_owner": self.next_owner,
            "running_one": self.running_one,
            "suspect": self.suspect,
            "parents": list(self.parents),
            "source": self.source,
            **({"since": self.since} if self.since else {}),
            **({"notes": self.notes} if self.notes else {}),
            "write": self.write,
        }


PREFIX = "lease/"


def prefix_of(worker: str) -> str:
    """Where the leases of a worker stand."""
    return f"{PREFIX}{worker}/"


def key_of(worker: str, partition: str) -> str:
    """Where the lease of a partition stands."""
    return prefix_of(worker) + partition


def from_value(value: Value) -> Lease:
    """A record as it was stored. Raises `FormatTooNew` for one that a newer release wrote."""
    version = _integer(value, "format", 1)
    if version > FORMAT:
        raise FormatTooNew(f"a lease record has format {version}, this release reads up to {FORMAT}")
    parents, state, notes = value.get("parents"), value.get("state"), value.get("notes")
    known = {f.name for f in fields(Lease)} | {"format"}
    return Lease(
        cursor=_text(value, "cursor") or "",
        owner=_text(value, "owner"),
        epoch=_integer(value, "epoch", 0),
        nonce=_text(value, "nonce") or "",
        crashes=_integer(value, "crashes", 0),
        state="halted" if state == "halted" else "paused" if state == "paused" else "running",
        next_owner=_text(value, "next_owner"),
        running_one=_order(value, "running_one"),
        suspect=_order(value, "suspect"),
        parents=tuple(str(p) for p in parents) if isinstance(parents, list | tuple) else (),
        source=_text(value, "source") or "",
        since=_seconds(value, "since"),
        notes=notes if isinstance(notes, Mapping) else {},
        foreign=value.get("foreign") is True,
        renewed_at=_seconds(value, "renewed_at"),
        write=_text(value, "write") or "",
        extra={name: item for name, item in value.items() if name not in known},
    )


def created(cursor: str, *, source: str = "", parents: tuple[str, ...] = (), notes: Value | None = None) -> Lease:
    """A partition that was never worked."""
    return Lease(cursor=cursor, source=source, parents=parents, notes=notes or {})


def claim(lease: Lease, member: str, nonce: str, *, buried: bool) -> Lease:
    """Take a lease that is free, or whose owner is `buried`: then it may be the change that killed it."""
    taken = replace(lease, owner=member, epoch=lease.epoch + 1, nonce=nonce, next_owner=None, since=0.0, foreign=False)
    return _crashed(taken) if buried else taken


def _crashed(lease: Lease) -> Lease:
    """The owner's process ended. Once changes run one by one, only the one that was running may be blamed."""
    if lease.crashes < SINGLE_AFTER:
        return replace(lease, crashes=lease.crashes + 1)
    if lease.running_one is None:
        return lease
    again = lease.suspect in (None, lease.running_one)
    crashes = lease.crashes + 1 if again else SINGLE_AFTER + 1
    return replace(lease, crashes=crashes, suspect=lease.running_one, running_one=None)


def condemned(lease: Lease) -> int | None:
    """The order of the change that must not run again."""
    return lease.suspect if lease.crashes >= CONDEMN_AFTER else None


def checkpoint(lease: Lease, cursor: str, *, running_one: int | None = None, calm: bool = False) -> Lease:
    """The mark stands at `cursor`. Progress is proof that what was passed does not kill.

    After `SINGLE_AFTER` crashes in a row somebody further on is the likely cause: progress only clears what came
    after these, until the partition is found `calm`.
    """
    crashes, suspect = lease.crashes, lease.suspect
    if calm or cursor != lease.cursor:
        crashes, suspect = 0 if calm or crashes < SINGLE_AFTER else SINGLE_AFTER, None
    return replace(lease, cursor=cursor, crashes=crashes, running_one=running_one, suspect=suspect)


def release(lease: Lease, next_owner: str | None) -> Lease:
    """Give it up, cursor and all, in one write. The nonce stays, so that a lost reply is known as our own."""
    return replace(lease, owner=None, next_owner=next_owner, running_one=None)


def resume(lease: Lease, nonce: str) -> Lease:
    """Go on after a fence: it is still ours, but nothing that was begun before may count."""
    return replace(lease, epoch=lease.epoch + 1, nonce=nonce)


def reset(lease: Lease, cursor: str, nonce: str) -> Lease:
    """Somebody decided to read again, or to pass over: the only way a cursor goes back."""
    return replace(
        lease,
        cursor=cursor,
        epoch=lease.epoch + 1,
        nonce=nonce,
        crashes=0,
        running_one=None,
        suspect=None,
        state="running",
    )


def _text(value: Value, name: str) -> str | None:
    found = value.get(name)
    return found if isinstance(found, str) else None


def _order(value: Value, name: str) -> int | None:
    found = value.get(name)
    return found if isinstance(found, int) else None


def _seconds(value: Value, name: str) -> float:
    found = value.get(name)
    return float(found) if isinstance(found, int | float) else 0.0


def _integer(value: Value, name: str, default: int) -> int:
    found = value.get(name)
    return found if isinstance(found, int) else default
