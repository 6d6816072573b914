"""The park index of a partition: which keys wait or are parked, and what is queued up behind each.

One record per partition, `park/<worker>/<partition>`. Bodies stand in the dead letters under (feed, partition, change),
written once. The order of writes is body → index → checkpoint: a crash between them re-reads the change, and
`order ≤ last` of its key then means "already queued". A claimer *seals* first: it rewrites the index with its own
epoch until that holds, so every index swap of the old owner is stale from then on.

A key is `waiting` (tried again at `due`), `parked` (until somebody decides) or `replaying` (being worked off now). In
all three, later changes of the key are appended behind: order per key is kept, and no other key waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Literal, TypeAlias

from tidemill.errors import FormatTooNew
from tidemill.model import FORMAT, Json, Logged, Value

State: TypeAlias = Literal["waiting", "parked", "replaying"]

MAX_KEYS = 1_000
MAX_BYTES = 64_000_000


@dataclass(frozen=True, slots=True)
class Parked:
    """One key: orders `first` (the head, next to be tried) to `last`, `count` bodies of `bytes` in all.

    `due` is seconds since the epoch, so that it survives a hand-over.
    """

    first: int
    last: int
    count: int
    bytes: int
    state: State
    due: float = 0.0
    attempts: int = 0
    error: str = ""
    extra: Value = field(default_factory=dict)
    """Fields that this release does not know. They stay."""


@dataclass(frozen=True, slots=True)
class Index:
    """All keys of a partition that go by the park, and the epoch of the owner that sealed it."""

    epoch: int = 0
    keys: Mapping[str, Parked] = field(default_factory=dict)
    extra: Value = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return sum(parked.bytes for parked in self.keys.values())

    def full(self) -> bool:
        """No key or body may be added: the partition halts until somebody decides. Never a drop."""
        return len(self.keys) >= MAX_KEYS or self.bytes >= MAX_BYTES

    def knows(self, change: Logged) -> bool:
        """The change is queued already (it was re-read after a crash)."""
        parked = self.keys.get(change.key)
        return parked is not None and change.order <= parked.last

    def due(self, now: float) -> list[str]:
        """Keys whose head may be tried now, longest due first."""
        ready = [
            (parked.due, key)
            for key, parked in self.keys.items()
            if parked.state == "replaying" or (parked.state == "waiting" and parked.due <= now)
        ]
        return [key for _, key in sorted(ready)]

    def next_due(self) -> float | None:
        """When the next waiting key is due, seconds since the epoch."""
        return min((p.due for p in self.keys.values() if p.state == "waiting"), default=None)


def seal(index: Index, epoch: int) -> Index:
    """The index under a new owner."""
    return replace(index, epoch=epoch)


def append(index: Index, change: Logged, size: int) -> Index:
    """Queue a change behind its key, which is in the index."""
    parked = index.keys[change.key]
    if change.order <= parked.last:
        return index
    grown = replace(parked, last=change.order, count=parked.count + 1, bytes=parked.bytes + size)
    return _with(index, change.key, grown)


def admit(index: Index, change: Logged, size: int, state: State, *, due: float, attempts: int, error: str) -> Index:
    """Take a key into the index, with this change as its head."""
    order = change.order
    return _with(index, change.key, Parked(order, order, 1, size, state, due, attempts, error[:500]))


def failed(index: Index, key: str, state: State, *, due: float, attempts: int, error: str) -> Index:
    """The head of a key was tried and did not succeed."""
    parked = index.keys[key]
    return _with(index, key, replace(parked, state=state, due=due, attempts=attempts, error=error[:500]))


def worked(index: Index, key: str, next_order: int | None, size: int) -> Index:
    """The head of a key is done: the next body is the head; the key leaves when there is none.

    A waiting or replaying key works off the rest at once, with fresh attempts.
    """
    parked = index.keys[key]
    if next_order is None:
        return _without(index, key)
    rest = replace(
        parked,
        first=next_order,
        count=max(parked.count - 1, 1),
        bytes=max(parked.bytes - size, 0),
        state="replaying",
        due=0.0,
        attempts=0,
        error="",
    )
    return _with(index, key, rest)


def replay(index: Index, key: str) -> Index:
    """Somebody decided: try the key's bodies again, in order, with fresh attempts."""
    parked = index.keys.get(key)
    return index if parked is None else _with(index, key, replace(parked, state="replaying", due=0.0, attempts=0))


def drop(index: Index, key: str) -> Index:
    """Somebody decided: forget the key and all its bodies."""
    return _without(index, key)


_KNOWN = frozenset({"format", "write", "epoch", "keys"})
_KNOWN_OF_KEY = frozenset(one.name for one in fields(Parked)) - {"extra"}


def to_value(index: Index, write: str) -> dict[str, Json]:
    """The record's value; `write` recognises a swap of our own whose reply was lost."""
    return {
        **index.extra,
        "format": FORMAT,
        "write": write,
        "epoch": index.epoch,
        "keys": {
            key: {
                **p.extra,
                "first": p.first,
                "last": p.last,
                "count": p.count,
                "bytes": p.bytes,
                "state": p.state,
                "due": p.due,
                "attempts": p.attempts,
                "error": p.error,
            }
            for key, p in index.keys.items()
        },
    }


def from_value(value: Value) -> Index:
    """The index of a record. Raises `FormatTooNew` for one that a newer release wrote."""
    version, keys, epoch = value.get("format", 1), value.get("keys"), value.get("epoch")
    if isinstance(version, int) and version > FORMAT:
        raise FormatTooNew(f"a park record has format {version}, this release reads up to {FORMAT}")
    assert isinstance(keys, Mapping)
    assert isinstance(epoch, int)
    parked = {key: _parked(one) for key, one in keys.items() if isinstance(one, Mapping)}
    return Index(epoch, parked, {name: item for name, item in value.items() if name not in _KNOWN})


def _parked(value: Mapping[str, Json]) -> Parked:
    state = value["state"]
    known: State = state if state in ("waiting", "parked", "replaying") else "parked"  # type: ignore[assignment]
    return Parked(
        first=_int(value["first"]),
        last=_int(value["last"]),
        count=_int(value["count"]),
        bytes=_int(value["bytes"]),
        state=known,
        due=float(str(value["due"])),
        attempts=_int(value["attempts"]),
        error=str(value["error"]),
        extra={name: item for name, item in value.items() if name not in _KNOWN_OF_KEY},
    )


def _int(value: Json) -> int:
    assert isinstance(value, int)
    return value


def _with(index: Index, key: str, parked: Parked) -> Index:
    return replace(index, keys={**index.keys, key: parked})


def _without(index: Index, key: str) -> Index:
    return replace(index, keys={k: p for k, p in index.keys.items() if k != key})
