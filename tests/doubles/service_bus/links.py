"""One link of a client, and what is done with what comes over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from tests.doubles.service_bus import codec
from tests.doubles.service_bus.codec import Described, Symbol, text
from tests.doubles.service_bus.management import entity_path
from tests.doubles.service_bus.state import Entity, Entry


class Line(Protocol):
    """The connection of a link, as the server uses it."""

    def deliver(self, link: Link, entry: Entry) -> None: ...

    def lose_session(self, link: Link) -> None: ...


@dataclass(slots=True, eq=False)
class Link:
    """`receives` is seen from the client: it takes messages from us. `session` is the one that it holds."""

    connection: Line
    channel: int
    name: str
    handle: int
    receives: bool
    address: str
    attach: Sequence[Any]
    entity: Entity | None = None
    credit: int = 0
    count: int = 0
    session: str = ""
    awaits: bool = False
    patience: float = 0.0
    unsettled: dict[int, UUID] = field(default_factory=dict)
    partial: bytearray = field(default_factory=bytearray)
    first: Sequence[Any] = ()

    @property
    def managed(self) -> bool:
        return self.address == "$cbs" or entity_path(self.address)[1]


def apply(entity: Entity, token: UUID, state: Mapping[str, Any]) -> Described:
    """Give a disposition its effect; what is told of it. Raises `Refused`."""
    ((outcome, value),) = state.items()
    match outcome:
        case "accepted":
            entity.complete(token)
            return Described(codec.ACCEPTED, [])
        case "released":
            entity.give_back(token, counts=False)
            return Described(codec.RELEASED, [])
        case "rejected":
            info = (value[0][2] if value and value[0] and len(value[0]) > 2 else None) or {}
            entity.bury(token, *(text(info.get(name)) for name in (b"DeadLetterReason", b"DeadLetterErrorDescription")))
            return Described(codec.REJECTED, [None])
    if value[1]:  # undeliverable here
        entity.defer(token)
    else:
        entity.give_back(token, counts=bool(value[0]))
    return Described(codec.MODIFIED, [value[0], value[1], None])


def padded(end: Sequence[Any] | None, size: int) -> list[Any]:
    """A source or target as it is sent back: the address, and the filter of a session."""
    fields = [*(end or []), *([None] * size)][:size]
    return [text(fields[0]), *[fields[n] if n == 7 and isinstance(fields[n], dict) and _own(fields[n]) else None
                               for n in range(1, size)]]  # fmt: skip


def _own(filters: Mapping[Any, Any]) -> bool:
    return any(isinstance(name, Symbol) for name in filters)
