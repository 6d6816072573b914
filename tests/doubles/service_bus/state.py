"""What a namespace holds: queues, their messages, locks and sessions. Nothing here knows of the wire but its
sections.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any
from uuid import UUID, uuid4

from tests.doubles.service_bus import codec
from tests.doubles.service_bus.codec import Described, Int, Millis, Symbol, Ubyte, Uint

DEAD = "$DeadLetterQueue"
LOCK_LOST = "com.microsoft:message-lock-lost"


class Refused(Exception):
    """The service refuses this: the condition and what it says."""

    def __init__(self, condition: str, told: str = "") -> None:
        super().__init__(told)
        self.condition = condition
        self.told = told


@dataclass(slots=True)
class Settings:
    """How a queue was created. Times are seconds."""

    lock: float = 30.0
    deliveries: int = 10
    sessions: bool = False
    window: float = 0.0
    ttl: float = 0.0
    size: int = 256 * 1024


@dataclass(slots=True, eq=False)
class Entry:
    """One message. `count` are hand-outs that ended without success; `due` is set while it is scheduled."""

    sequence: int
    id: str
    session: str
    raw: dict[int, bytes]
    application: dict[Any, Any]
    enqueued: float
    due: float = 0.0
    expires: float = 0.0
    count: int = 0
    token: UUID | None = None
    locked_until: float = 0.0
    deferred: bool = False

    def payload(self) -> bytes:
        """As it goes over the wire."""
        ttl = Uint(int((self.expires - self.enqueued) * 1000)) if self.expires else None
        annotations: dict[Any, Any] = {
            Symbol(b"x-opt-enqueued-time"): Millis(int(self.enqueued * 1000)),
            Symbol(b"x-opt-sequence-number"): self.sequence,
            Symbol(b"x-opt-message-state"): Int(2 if self.due else int(self.deferred)),
        }
        if self.token:
            annotations[Symbol(b"x-opt-locked-until")] = Millis(int(self.locked_until * 1000))
        if self.due:
            annotations[Symbol(b"x-opt-scheduled-enqueue-time")] = Millis(int(self.due * 1000))
        header = codec.encode(Described(112, [True, Ubyte(4), ttl, False, Uint(self.count)]))
        middle = [self.raw.get(115, b""), self.raw.get(116, b"")]
        body = [self.raw[code] for code in (117, 118, 119) if code in self.raw]
        return header + codec.encode(Described(114, annotations)) + b"".join(middle + body)


@dataclass(slots=True)
class Session:
    """What a queue knows of one session: its state, and who holds it until when."""

    state: bytes | None = None
    holder: object = None
    locked_until: float = 0.0


class Entity:
    """A queue, or its dead letters."""

    def __init__(self, name: str, settings: Settings, clock: Clock, *, dead: Entity | None) -> None:
        self.name = name
        self.settings = settings
        self.dead = dead
        self.entries: dict[int, Entry] = {}
        self.locked: dict[UUID, Entry] = {}
        self.sessions: dict[str, Session] = {}
        self._clock = clock
        self._ready: dict[str, list[int]] = {}
        self._scheduled: list[tuple[float, int]] = []
        self._seen: dict[str, float] = {}
        self._last = 0

    # --- what comes in --------------------------------------------------------------------------------------

    def accept(self, payload: bytes) -> int:
        """Store a message; its sequence number, 0 for a duplicate. Raises `Refused`."""
        if len(payload) > self.settings.size:
            raise Refused("amqp:link:message-size-exceeded", f"the message of {len(payload)} bytes is too large")
        found = codec.sections(payload)
        properties = found[115][0][0] if 115 in found else []
        id = codec.text(properties[0]) if properties else ""
        session = codec.text(properties[10]) if len(properties) > 10 else ""
        if self.settings.sessions and not session:
            raise Refused("amqp:not-allowed", "The SessionId was not set on a message, and it cannot be sent")
        now = self._clock.now()
        if self.settings.window and id and self._seen.get(id, 0.0) > now:
            return 0
        if self.settings.window and id:
            self._seen[id] = now + self.settings.window
        header = found[112][0][0] if 112 in found else []
        annotations = found[114][0][0] if 114 in found else {}
        ttl = min(
            filter(None, (header[2] / 1000 if len(header) > 2 and header[2] else 0.0, self.settings.ttl)), default=0
        )
        due = annotations.get(b"x-opt-scheduled-enqueue-time", 0) / 1000
        raw = {code: b"".join(part for _, part in parts) for code, parts in found.items()}
        application = dict(found[116][0][0]) if 116 in found else {}
        entry = Entry(self._next(), id, session, raw, application, now, due if due > now else 0.0)
        entry.expires = (entry.due or now) + ttl if ttl else 0.0
        self._add(entry)
        return entry.sequence

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _add(self, entry: Entry) -> None:
        self.entries[entry.sequence] = entry
        if entry.due:
            heappush(self._scheduled, (entry.due, entry.sequence))
        else:
            self._offer(entry)

    def _offer(self, entry: Entry) -> None:
        key = entry.session if self.settings.sessions else ""
        heappush(self._ready.setdefault(key, []), entry.sequence)

    def cancel(self, sequence: int) -> None:
        """A scheduled message is removed. Raises `Refused`."""
        entry = self.entries.get(sequence)
        if entry is None or not entry.due:
            raise Refused("com.microsoft:message-not-found", "it is not scheduled")
        del self.entries[sequence]

    # --- what goes out --------------------------------------------------------------------------------------

    def take(self, session: str = "") -> Entry | None:
        """Lock the next message (of this session)."""
        ready = self._ready.get(session, [])
        while ready:
            entry = self.entries.get(heappop(ready))
            if entry is None or entry.token or entry.due or entry.deferred:
                continue
            self.lock(entry)
            return entry
        return None

    def lock(self, entry: Entry) -> None:
        """Give it to somebody."""
        entry.token = uuid4()
        entry.locked_until = self._clock.now() + self.settings.lock
        self.locked[entry.token] = entry

    def peek(self, after: int, limit: int) -> list[Entry]:
        """Messages of any state from this sequence number on."""
        return [self.entries[sequence] for sequence in sorted(self.entries) if sequence >= after][:limit]

    def _held(self, token: UUID) -> Entry:
        entry = self.locked.get(token)
        if entry is None:
            raise Refused(
                LOCK_LOST, "The lock supplied is invalid. Either the lock expired, or the message was removed"
            )
        return entry

    def _unlock(self, entry: Entry) -> None:
        if entry.token is not None:
            del self.locked[entry.token]
        entry.token = None

    def complete(self, token: UUID) -> None:
        entry = self._held(token)
        self._unlock(entry)
        del self.entries[entry.sequence]

    def give_back(self, token: UUID, *, counts: bool) -> None:
        """Abandoned or released, by whoever held it."""
        self._back(self._held(token), counts=counts)

    def defer(self, token: UUID) -> None:
        entry = self._held(token)
        self._unlock(entry)
        entry.deferred = True

    def bury(self, token: UUID, reason: str, told: str) -> None:
        entry = self._held(token)
        self._unlock(entry)
        self._die(entry, reason, told)

    def renew(self, token: UUID) -> float:
        """Until when the lock lasts now."""
        entry = self._held(token)
        entry.locked_until = self._clock.now() + self.settings.lock
        return entry.locked_until

    def _back(self, entry: Entry, *, counts: bool) -> None:
        self._unlock(entry)
        entry.count += counts
        if counts and self.dead is not None and entry.count >= self.settings.deliveries:
            told = f"Message could not be consumed after {entry.count} delivery attempts."
            self._die(entry, "MaxDeliveryCountExceeded", told)
        else:
            self._offer(entry)

    def _die(self, entry: Entry, reason: str, told: str) -> None:
        self.entries.pop(entry.sequence, None)
        if self.dead is None:
            return
        entry.application |= {b"DeadLetterReason": reason, b"DeadLetterErrorDescription": told}
        values = {codec.text(name): codec.plain(value) for name, value in entry.application.items()}
        entry.raw[116] = codec.encode(Described(116, values))
        entry.sequence, entry.expires, entry.due = self.dead._next(), 0.0, 0.0
        self.dead._add(entry)

    # --- sessions -------------------------------------------------------------------------------------------

    def free_session(self) -> str | None:
        """A session that has messages and that nobody holds, the one whose first message is oldest."""
        free = [(heap[0], name) for name, heap in self._ready.items() if self._trim(heap) and not self._holder(name)]
        return min(free)[1] if free else None

    def _trim(self, heap: list[int]) -> bool:
        while heap and ((entry := self.entries.get(heap[0])) is None or entry.token or entry.due or entry.deferred):
            heappop(heap)
        return bool(heap)

    def _holder(self, name: str) -> object:
        session = self.sessions.get(name)
        return session.holder if session else None

    def hold(self, name: str, holder: object) -> Session:
        """Lock a session for a link. Raises `Refused` if somebody holds it."""
        session = self.sessions.setdefault(name, Session())
        if session.holder is not None and session.holder is not holder:
            raise Refused("com.microsoft:session-cannot-be-locked", "The requested session cannot be accepted")
        session.holder, session.locked_until = holder, self._clock.now() + self.settings.lock
        return session

    def let_go(self, name: str, *, counts: bool) -> None:
        """The session is free; what was handed out of it comes back. It counts if its lock ran out."""
        self.sessions[name].holder = None
        for entry in [entry for entry in self.locked.values() if entry.session == name]:
            self._back(entry, counts=counts)

    # --- time -----------------------------------------------------------------------------------------------

    def tick(self) -> list[object]:
        """Let happen what is due; the holders that lost their sessions."""
        now = self._clock.now()
        while self._scheduled and self._scheduled[0][0] <= now:
            entry = self.entries.get(heappop(self._scheduled)[1])
            if entry is not None:
                entry.enqueued, entry.due = entry.due, 0.0
                self._offer(entry)
        for entry in [e for e in self.entries.values() if e.expires and e.expires <= now and not e.token and not e.due]:
            self._die(entry, "TTLExpiredException", "The message expired and was dead lettered.")
        if not self.settings.sessions:
            for entry in [entry for entry in self.locked.values() if entry.locked_until <= now]:
                self._back(entry, counts=True)
        lost = []
        for name, session in self.sessions.items():
            if session.holder is not None and session.locked_until <= now:
                lost.append(session.holder)
                self.let_go(name, counts=True)
        return lost


@dataclass(slots=True)
class Clock:
    """The service's clock: that of this machine, and what a test adds."""

    offset: float = 0.0

    def now(self) -> float:
        return time.time() + self.offset


@dataclass(slots=True)
class Namespace:
    """Queues by name, the policy's name and key, and whether tokens are checked."""

    policy: str = "RootManageSharedAccessKey"
    key: str = "c2VjcmV0LW9mLXRoZS1kb3VibGU="
    clock: Clock = field(default_factory=Clock)
    queues: dict[str, Entity] = field(default_factory=dict)

    def create(self, name: str, **settings: Any) -> Entity:
        """A queue; the settings are those of `Settings`."""
        how = Settings(**settings)
        dead = Entity(f"{name}/{DEAD}", Settings(lock=how.lock, size=how.size * 2), self.clock, dead=None)
        self.queues[name] = Entity(name, how, self.clock, dead=dead)
        return self.queues[name]

    def find(self, path: str) -> Entity:
        """The entity of a path. Raises `Refused`."""
        name, _, sub = path.partition("/")
        entity = self.queues.get(name)
        if entity is None:
            raise Refused("amqp:not-found", f"The messaging entity '{path}' could not be found.")
        if sub == DEAD and entity.dead is not None:
            return entity.dead
        return entity
