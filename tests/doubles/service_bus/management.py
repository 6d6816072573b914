"""What is asked of `$management`: locks, looks, schedules, sessions, and dispositions beside a link."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from tests.doubles.service_bus.codec import Array, Millis, text
from tests.doubles.service_bus.state import DEAD, LOCK_LOST, Entity, Refused

SESSION_LOST = "com.microsoft:session-lock-lost"
ROOM = 200_000
"""No answer to a peek is larger, in bytes."""

Body = Mapping[bytes, Any]
Answer = tuple[int, Mapping[str, Any] | None]


def answer(entity: Entity, operation: str, body: Body, holds: Callable[[str], bool]) -> Answer:
    """The status and the value. `holds`: whether the connection that asks holds this session. Raises `Refused`."""
    known: Mapping[str, Callable[[Entity, Body, Callable[[str], bool]], Answer]] = {
        "renew-lock": _renew,
        "renew-session-lock": _renew_session,
        "peek-message": _peek,
        "schedule-message": _schedule,
        "cancel-scheduled-message": _cancel,
        "get-session-state": _get_state,
        "set-session-state": _set_state,
        "update-disposition": _dispose,
        "receive-by-sequence-number": _by_number,
    }
    name = operation.removeprefix("com.microsoft:")
    if name not in known:
        raise Refused("amqp:not-implemented", operation)
    return known[name](entity, body, holds)


def _renew(entity: Entity, body: Body, _: object) -> Answer:
    return 200, {"expirations": Array([Millis(int(entity.renew(token) * 1000)) for token in body[b"lock-tokens"]])}


def _session(body: Body, holds: Callable[[str], bool]) -> str:
    name = text(body[b"session-id"])
    if not holds(name):
        raise Refused(SESSION_LOST, "The session lock has expired on the MessageSession.")
    return name


def _renew_session(entity: Entity, body: Body, holds: Callable[[str], bool]) -> Answer:
    name = _session(body, holds)
    return 200, {"expiration": Millis(int(entity.hold(name, entity.sessions[name].holder).locked_until * 1000))}


def _get_state(entity: Entity, body: Body, holds: Callable[[str], bool]) -> Answer:
    return 200, {"session-state": entity.sessions[_session(body, holds)].state}


def _set_state(entity: Entity, body: Body, holds: Callable[[str], bool]) -> Answer:
    state = body[b"session-state"]
    entity.sessions[_session(body, holds)].state = None if state is None else bytes(state)
    return 200, {}


def _peek(entity: Entity, body: Body, _: object) -> Answer:
    found: list[Mapping[str, Any]] = []
    room = ROOM
    for entry in entity.peek(body[b"from-sequence-number"], body[b"message-count"]):
        payload = entry.payload()
        room -= len(payload)
        if room < 0 and found:
            break
        found.append({"message": payload})
    return (200, {"messages": found}) if found else (204, None)


def _schedule(entity: Entity, body: Body, _: object) -> Answer:
    return 200, {"sequence-numbers": Array([entity.accept(bytes(item[b"message"])) for item in body[b"messages"]])}


def _cancel(entity: Entity, body: Body, _: object) -> Answer:
    for sequence in body[b"sequence-numbers"]:
        entity.cancel(sequence)
    return 200, {}


def _dispose(entity: Entity, body: Body, _: object) -> Answer:
    status = text(body[b"disposition-status"])
    for token in body[b"lock-tokens"]:
        match status:
            case "completed":
                entity.complete(token)
            case "abandoned":
                entity.give_back(token, counts=True)
            case "defered":
                entity.defer(token)
            case "suspended":
                entity.bury(token, text(body[b"deadletter-reason"]), text(body[b"deadletter-description"]))
            case _:
                raise Refused("com.microsoft:argument-error", status)
    return 200, {}


def _by_number(entity: Entity, body: Body, _: object) -> Answer:
    found = []
    for sequence in body[b"sequence-numbers"]:
        entry = entity.entries.get(sequence)
        if entry is None or not entry.deferred or entry.token:
            raise Refused("com.microsoft:message-not-found", f"there is no deferred message {sequence}")
        entity.lock(entry)
        token = entry.token
        assert isinstance(token, UUID)
        found.append({"message": entry.payload(), "lock-token": token})
    return 200, {"messages": found}


def status_of(refused: Refused) -> int:
    """The number that stands for a condition."""
    return {
        LOCK_LOST: 410,
        SESSION_LOST: 410,
        "com.microsoft:message-not-found": 404,
        "com.microsoft:server-busy": 503,
        "amqp:unauthorized-access": 401,
        "amqp:not-found": 404,
        "amqp:not-implemented": 501,
    }.get(refused.condition, 400)


def entity_path(address: str) -> tuple[str, bool]:
    """`jobs` or `jobs/$DeadLetterQueue` of an address, and whether it is that entity's `$management`."""
    path = address.partition("://")[2].partition("/")[2] if "://" in address else address
    name, _, rest = path.strip("/").partition("/")
    managed = rest.endswith("$management")
    dead = rest.lower().startswith(DEAD.lower())
    return (f"{name}/{DEAD}" if dead else name), managed
