"""Our leases as items of .NET's change feed processor, both ways. Pure.

`P..<token>`, where P is the processor's name, the account's host, and the `_rid` of database and container. A
partition's name is the token: the id of a physical partition (`version` 0) or bounds (`version` 1). What .NET has no
field for stands in `properties` as texts named `tidemill.…`: .NET keeps these when it replaces an item, and drops what
it does not know itself. All that we do not know, in `properties` or beside it, comes back as it was.

.NET copies `properties`: at each of its own writes, and to the children of a split. So ours say for which lease they
are (`tidemill.lease`), who we think is the owner (`tidemill.owner`), and where the lease stood (`tidemill.at`):

- Of another lease: they were copied at a split, and say nothing.
- Another owner stands in `Owner`: the lease is a stranger's, or one has given it back. Its nonce is not shown, or our
  next write would take that of the stranger for its own lost reply.
- It stands elsewhere: somebody else has worked it. What we noted of crashes and halts is over.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tidemill.adapters.cosmos import cursor as cursors
from tidemill.adapters.cosmos.cursor import BEGINNING, NOW, Cursor
from tidemill.adapters.cosmos.items import SYSTEM
from tidemill.adapters.cosmos.ranges import Range, whole
from tidemill.errors import ConfigurationError
from tidemill.model import FORMAT, Json, Value

INCREMENTAL, FULL_FIDELITY = "Incremental Feed", "Full-Fidelity Feed"

OURS = "tidemill."
RAW = "dotnet"
"""The field of a value that holds what else is in the item."""

_TRANSLATED = ("id", "LeaseToken", "Owner", "ContinuationToken", "properties", "timestamp", *SYSTEM)
_TEXTS = ("nonce", "state", "next_owner", "write")
_NUMBERS = ("epoch", "crashes", "running_one", "suspect")
_FIELDS = ("format", "owner", "cursor", "parents", "source", "since", "notes", "foreign", "renewed_at", RAW)
_OF_THE_PLACE = ("crashes", "running_one", "suspect", "state", "cursor")

Item = Mapping[str, Any]
Bounds = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the leases of one feed worker stand: `prefix` is P, `source` the collection, `mode` as .NET names it."""

    worker: str
    source: str
    prefix: str
    mode: str

    @property
    def leases(self) -> str:
        return f"{self.prefix}.."

    @property
    def info(self) -> str:
        """The id of the item that says that all leases were created."""
        return f"{self.prefix}.info"

    @property
    def lock(self) -> str:
        """The id of the item that somebody holds who creates them."""
        return f"{self.prefix}.lock"


@dataclass(frozen=True, slots=True)
class Around:
    """What is known beside a lease: the physical partitions, the bounds of the place's leases, and when `.info` was
    written (0: there is none)."""

    ranges: Sequence[Range]
    bounds: Mapping[str, Bounds]
    info_at: float = 0.0


# --- reading ------------------------------------------------------------------------------------------------


def from_item(item: Item, place: Place, around: Around) -> Value:
    """The lease as the engine knows it. Raises `ConfigurationError` for one that no process of ours may touch."""
    partition = str(item["id"]).removeprefix(place.leases)
    token = item.get("ContinuationToken") or None
    refuse(item, place)
    notes: Mapping[str, Any] = item.get("properties") or {}
    own = _own(notes, partition, token)
    owner = item.get("Owner") or None
    same = owner == own.get("owner")
    bounds = bounds_of(item, partition, around.ranges)
    cursor = _cursor(item, token, own, bounds)
    written = float(item.get("_ts") or 0)
    born = min(around.info_at or written, written)  # a lease older than .info: whoever created it died before that
    since = max(born - 1.0, 0.0) if not cursor and place.mode == INCREMENTAL else 0.0
    value: dict[str, Json] = {
        **json.loads(own.get("extra", "{}")),
        "format": int(own.get("format", FORMAT)),
        "owner": owner,
        "cursor": cursor,
        "parents": sorted({*_inherited(own), *_parents(partition, bounds, around)}),
        "source": place.source,
        "foreign": owner is not None and not same,
        "renewed_at": _renewed_at(item),
        "notes": {name: note for name, note in notes.items() if not name.startswith(OURS)},
        RAW: {name: found for name, found in item.items() if name not in _TRANSLATED},
    }
    value |= {name: int(own[name]) for name in _NUMBERS if name in own}
    value |= {name: own[name] for name in _TEXTS if name in own}
    value.setdefault("epoch", 1 if token else 0)
    return value | ({"since": since} if since else {}) | ({} if same else {"nonce": ""})


def refuse(item: Item, place: Place) -> None:
    """Raise `ConfigurationError` for a lease of Java's processor, or of another mode."""
    token, mode = item.get("ContinuationToken"), item.get("Mode")
    if token and not str(token).startswith('"'):
        raise ConfigurationError(
            f"lease {item['id']}: its continuation is that of Java's processor, which cannot share leases with .NET's"
            f" or ours; give worker {place.worker!r} another processor (processors={place.worker}:NAME), or store="
        )
    if mode and str(mode).lower() != place.mode.lower():
        said = "all" if place.mode == FULL_FIDELITY else "latest"
        raise ConfigurationError(
            f"lease {item['id']}: it is in mode {mode!r}, and mode={said} is {place.mode!r}; say mode="
            f"{'latest' if said == 'all' else 'all'}, or give worker {place.worker!r} another processor (processors=)"
        )


def bounds_of(item: Item, partition: str, ranges: Sequence[Range]) -> Bounds | None:
    """What a lease covers: by its name, as the service lists it, as the lease says, or as its children cover it."""
    if not whole(partition):
        low, _, high = partition.partition("-")
        return low, high
    listed = next(((one.low, one.high) for one in ranges if one.id == partition), None)
    if listed is not None:
        return listed
    said = (item.get("FeedRange") or {}).get("Range") or {}
    if "min" in said and "max" in said:
        return str(said["min"]), str(said["max"])
    children = [one for one in ranges if partition in one.parents]
    return (min(one.low for one in children), max(one.high for one in children)) if children else None


def covered(ranges: Sequence[Range], bounds: Iterable[Bounds]) -> bool:
    """Whether these bounds together leave no gap in the physical partitions."""
    known = sorted(bounds)
    for one in ranges:
        reached = one.low
        for low, high in known:
            if low <= reached < high:
                reached = high
        if reached < one.high:
            return False
    return True


def _own(notes: Mapping[str, Any], partition: str, token: str | None) -> dict[str, str]:
    """Our properties, as far as they are still true of this lease."""
    own = {name.removeprefix(OURS): str(note) for name, note in notes.items() if name.startswith(OURS)}
    if own.get("lease") != partition:
        return {}
    if own.get("at", "") != (token or ""):
        own = {name: note for name, note in own.items() if name not in _OF_THE_PLACE}
    return own


def _cursor(item: Item, token: str | None, own: Mapping[str, str], bounds: Bounds | None) -> str:
    if token is None:
        return own.get("cursor", "")
    if bounds is None:
        raise ConfigurationError(
            f"lease {item['id']}: its range is no longer there and it has no FeedRange; what it covers is not known:"
            " let .NET's processor run once more, or delete it"
        )
    return str(Cursor(*bounds, str(token), float(own.get("from", 0))))


def _inherited(own: Mapping[str, str]) -> list[str]:
    return [str(parent) for parent in json.loads(own.get("parents", "[]"))]


def _parents(partition: str, bounds: Bounds | None, around: Around) -> set[str]:
    """Those it comes from: as the service lists them, and leases whose bounds hold its own."""
    found = {parent for one in around.ranges if one.id == partition for parent in one.parents}
    for other, (low, high) in around.bounds.items() if bounds is not None else ():
        within = bounds is not None and low <= bounds[0] and bounds[1] <= high
        equal = bounds == (low, high)
        if other != partition and within and (not equal or (whole(other) and not whole(partition))):
            found.add(other)
    return found


def _renewed_at(item: Item) -> float:
    try:
        at = datetime.fromisoformat(str(item.get("timestamp") or ""))
    except ValueError:
        return float(item.get("_ts") or 0)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


# --- writing ------------------------------------------------------------------------------------------------


def to_item(value: Value, place: Place, partition: str, now: float) -> dict[str, Any]:
    """The item of a lease that is written at `now` (seconds since the epoch)."""
    text = value.get("cursor")
    cursor = cursors.parse(text) if isinstance(text, str) and text else None
    token = cursor.etag if cursor is not None and cursor.etag not in (BEGINNING, NOW) else None
    raw, notes = _mapping(value.get(RAW)), _mapping(value.get("notes"))
    covers = {"Range": {"min": cursor.low, "max": cursor.high}} if cursor is not None else None
    return {
        "id": place.leases + partition,
        "version": 0 if whole(partition) else 1,
        **raw,
        "LeaseToken": partition,
        "FeedRange": raw.get("FeedRange") or covers,
        "Owner": value.get("owner"),
        "ContinuationToken": token,
        "properties": {**notes, **{OURS + name: note for name, note in _texts(value, partition, token, cursor)}},
        "timestamp": stamp(now),
        "Mode": raw.get("Mode") or place.mode,
    }


def stamp(now: float) -> str:
    """A moment as .NET writes it."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _texts(value: Value, partition: str, token: str | None, cursor: Cursor | None) -> Iterable[tuple[str, str]]:
    """What .NET has no field for. Nothing is written for what is not set."""
    yield "lease", partition
    yield "format", str(value.get("format", FORMAT))
    if token is not None:
        yield "at", token
    elif cursor is not None:
        yield "cursor", str(cursor)
    if cursor is not None and cursor.since:
        yield "from", f"{cursor.since:.3f}"
    for name in ("owner", *_TEXTS, *_NUMBERS):
        if (found := value.get(name)) not in (None, ""):
            yield name, str(found)
    if parents := value.get("parents"):
        yield "parents", json.dumps(parents)
    rest = {name: found for name, found in value.items() if name not in (*_FIELDS, *_TEXTS, *_NUMBERS)}
    if rest:
        yield "extra", json.dumps(rest)


def _mapping(found: Json) -> Mapping[str, Any]:
    return found if isinstance(found, Mapping) else {}
