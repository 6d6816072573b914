"""Messages, deliveries, what becomes of them, and dead letters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from tidemill.model.common import Value


@dataclass(frozen=True, slots=True)
class Done:
    """The work is done; the delivery leaves the queue."""


@dataclass(frozen=True, slots=True)
class Later:
    """The delivery comes again after `delay` seconds; `attempt` says whether this counts as a failure."""

    delay: float = 0.0
    reason: str = ""
    attempt: bool = True


@dataclass(frozen=True, slots=True)
class Dead:
    """The delivery goes to the dead letters with its body and `reason`."""

    reason: str


Verdict: TypeAlias = Done | Later | Dead


@dataclass(frozen=True, slots=True)
class Message:
    """One message to send. `delay` in seconds; a higher `priority` goes first; `dedup` is unique while the
    message lives and for a window after it was settled."""

    queue: str
    id: str
    body: bytes
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    priority: int = 0
    delay: float = 0.0
    dedup: str | None = None


class Delivery(NamedTuple):
    """One message as claimed. (A named tuple: a frozen dataclass takes four times as long to make, measured.)

    `attempt` counts failures recorded before this delivery (0 at first); `deliveries` counts the times it was
    handed out without any verdict coming back, this one included (1 at first). `reason` is that of the last
    `Later`. `claim` names this claim and no other; `deadline` is on the monotonic clock of this process,
    infinite where the claim lives as long as its member.
    """

    queue: str
    id: str
    body: bytes
    key: str | None
    headers: Mapping[str, str]
    priority: int
    sent_at: float
    attempt: int
    deliveries: int
    reason: str
    claim: str
    deadline: float = float("inf")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of one claimed delivery.

    `started=False` gives a delivery back that no handler has seen: it is due at once and its delivery does not
    count. Any other verdict sets the count of deliveries without a verdict back to 0. `error` is text for
    people (a traceback, shortened), kept with a dead letter.
    """

    delivery: Delivery
    verdict: Verdict
    started: bool = True
    error: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """The outcome took effect (now, or by an earlier call with the same outcome whose reply was lost)."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The claim is no longer ours; nothing was written."""


@dataclass(frozen=True, slots=True)
class Depth:
    """About how much waits: `ready` now, `delayed`, `claimed`; `oldest` seconds since the oldest ready was due."""

    ready: int
    delayed: int
    claimed: int
    oldest: float


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that waits, as seen without claiming it.

    `due`: when it may be claimed, seconds since the epoch. `attempt` counts the failures recorded, `reason` is that of
    the last `Later`. `place` is where it stands: the `after` of the page that follows it.
    """

    id: str
    body: bytes
    key: str | None
    headers: Mapping[str, str]
    priority: int
    sent_at: float
    due: float
    attempt: int
    reason: str
    place: str


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A body that is kept, with why.

    `source` is `queue/<queue>` or `feed/<worker>/<partition>`; `id` is unique within it (the message's or the
    change's). `order` sorts within the source; `meta` holds what is needed to bring it back.
    """

    source: str
    id: str
    key: str | None
    order: int
    body: bytes | None
    attempts: int
    reason: str
    error: str
    at: float
    headers: Mapping[str, str] = field(default_factory=dict)
    meta: Value = field(default_factory=dict)
