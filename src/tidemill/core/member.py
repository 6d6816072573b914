"""Members: who is alive, as records; and who may be buried, as seen by one observer.

A member is one record per process start, `member/<id>`; its id is random and never returns. It is renewed
by its owner and by nobody else. **Death is a write**: a tombstone swapped over the version that was seen
last. If the renewal came first the burial is stale and the member lives; if the burial came first every
renewal is stale.

Trust window: a member stops trusting its record `fence` seconds after it *sent* the last good renewal; an
observer buries after it has seen one version for the longer `bury_after`, counted from when it *received*
that version first to when it *asked* last, on its own monotonic clock. No two clocks are ever compared.
A read may be old: then a burial may be tried too early, and its swap is stale.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import TypeAlias

from tidemill.errors import FormatTooNew
from tidemill.model import FORMAT, Json, Value

Behind: TypeAlias = Mapping[str, Mapping[str, int]]

PREFIX = "member/"

GAP = 3.0
"""Seconds between two good reads after which nothing seen before counts: it was the observer that was
away."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a process knows of itself before it joins. `pod_uid` and `container` only where a container
    holds one process of ours at a time: a second one with both the same means that the first has
    ended."""

    name: str
    groups: tuple[str, ...]
    pod_uid: str = ""
    container: str = ""
    weight: int = 1


@dataclass(frozen=True, slots=True)
class Member:
    """A live process. `weight` 0 takes no share; `started_at` is for people; `extra` are fields we do not
    know. `behind`: by feed worker and partition, changes that were not done when this was written; partitions
    without any are left out."""

    id: str
    name: str
    groups: tuple[str, ...]
    pod_uid: str = ""
    container: str = ""
    weight: int = 1
    draining: bool = False
    profile: str = "normal"
    started_at: float = 0.0
    write: str = ""
    extra: Value = field(default_factory=dict)
    behind: Behind = field(default_factory=dict)

    def to_value(self) -> Value:
        noted: Value = {"behind": {worker: dict(parts) for worker, parts in self.behind.items()}} if self.behind else {}
        return {
            **self.extra,
            **noted,
            "format": FORMAT,
            "state": "live",
            "id": self.id,
            "name": self.name,
            "groups": list(self.groups),
            "pod_uid": self.pod_uid,
            "container": self.container,
            "weight": self.weight,
            "draining": self.draining,
            "profile": self.profile,
            "started_at": self.started_at,
            "write": self.write,
        }


@dataclass(frozen=True, slots=True)
class Tombstone:
    """A member that is dead for ever. `by` buried it; `at` (seconds since the epoch) is for housekeeping
    only."""

    id: str
    by: str
    at: float
    write: str = ""
    extra: Value = field(default_factory=dict)

    def to_value(self) -> Value:
        return {
            **self.extra,
            "format": FORMAT,
            "state": "buried",
            "id": self.id,
            "by": self.by,
            "at": self.at,
            "write": self.write,
        }


Entry: TypeAlias = Member | Tombstone


def key_of(member: str) -> str:
    """Where the record of a member stands."""
    return PREFIX + member


def from_value(value: Value) -> Entry:
    """A record as it was stored. Raises `FormatTooNew` for one that a newer release wrote."""
    version = _number(value.get("format", 1))
    if version > FORMAT:
        raise FormatTooNew(f"a member record has format {version:g}, this release reads up to {FORMAT}")
    if value.get("state") == "buried":
        return Tombstone(
            id=str(value["id"]),
            by=str(value.get("by", "")),
            at=_number(value.get("at", 0.0)),
            write=str(value.get("write", "")),
            extra=_rest(value, _names(Tombstone)),
        )
    groups = value.get("groups", ())
    return Member(
        id=str(value["id"]),
        name=str(value.get("name", "")),
        groups=tuple(str(g) for g in groups) if isinstance(groups, list | tuple) else (),
        pod_uid=str(value.get("pod_uid", "")),
        container=str(value.get("container", "")),
        weight=int(_number(value.get("weight", 1))),
        draining=value.get("draining") is True,
        profile=str(value.get("profile", "normal")),
        started_at=_number(value.get("started_at", 0.0)),
        write=str(value.get("write", "")),
        extra=_rest(value, _names(Member)),
        behind=_behind(value.get("behind")),
    )


def replaced(mine: Member, others: Collection[Member]) -> list[str]:
    """Members that ended for certain, because this process runs in their container now."""
    if not (mine.pod_uid and mine.container):
        return []
    place = (mine.pod_uid, mine.container)
    return [m.id for m in others if m.id != mine.id and (m.pod_uid, m.container) == place]


def mismatched(mine: Member, others: Collection[Member]) -> list[Member]:
    """Members of my groups whose clockwork is not mine: they would trust longer than I wait, or the
    reverse."""
    shared = set(mine.groups)
    return [m for m in others if m.profile != mine.profile and not shared.isdisjoint(m.groups)]


class Watch:
    """One observer's patience. Fed with each read of all members; tells which of them may be buried.

    `bury_after` in seconds. A read that failed is simply not fed: the gap it leaves starts every wait
    anew, so that the first observer back after an outage does not bury everybody.
    """

    def __init__(self, bury_after: float) -> None:
        self._bury_after = bury_after
        self._since: dict[str, tuple[str, float]] = {}
        self._last = float("-inf")

    def saw(
        self, versions: Mapping[str, str], gone: Collection[str] = (), *, sent: float, received: float
    ) -> list[tuple[str, str]]:
        """The members (id, version) that may be buried now: unchanged long enough, or certainly `gone`.

        `versions` are those of all live members by id, asked for at `sent`, known at `received` (monotonic).
        """
        before = self._since if received - self._last <= GAP else {}
        self._last = received
        self._since = {
            member: seen if (seen := before.get(member)) is not None and seen[0] == version else (version, received)
            for member, version in versions.items()
        }
        return [
            (member, version)
            for member, (version, since) in self._since.items()
            if sent - since >= self._bury_after or member in gone
        ]

    def silence(self, member: str, now: float) -> float:
        """For how many seconds its record has been seen unchanged; 0 for one that was not seen."""
        return now - self._since.get(member, ("", now))[1]


def _behind(value: Json) -> Behind:
    """What makes no sense is passed over: it is a note for autoscalers."""
    if not isinstance(value, Mapping):
        return {}
    return {
        worker: {name: items for name, items in parts.items() if isinstance(items, int)}
        for worker, parts in value.items()
        if isinstance(parts, Mapping)
    }


def _number(value: Json) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _names(kind: type[Member] | type[Tombstone]) -> set[str]:
    return {f.name for f in fields(kind)} | {"format", "state"}


def _rest(value: Value, known: Collection[str]) -> Value:
    return {name: item for name, item in value.items() if name not in known}
