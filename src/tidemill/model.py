"""The values that cross every border: frozen, without behaviour, in the words of the field.

Times of day are seconds since the epoch, UTC (`at`, `sent_at`, `due`); durations are seconds as float; bodies
are the user's JSON as bytes; versions, etags, claims and cursors are opaque strings, compared for equality only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Literal, NamedTuple, TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Value: TypeAlias = "Mapping[str, Json]"

FORMAT = 1
"""The format number written with everything that is stored by this release."""

MAX_WAIT = 1.0
"""No `wait` given to a port is longer, in seconds: a drain awaits its receives instead of cancelling them."""


# --- store --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """One small record of a store. `version` is never used twice for a key, even after a delete."""

    key: str
    version: str
    value: Value


@dataclass(frozen=True, slots=True)
class Swap:
    """Write `value` (None: delete) if the record still has `version` (None: if there is no such record)."""

    key: str
    version: str | None
    value: Value | None


@dataclass(frozen=True, slots=True)
class Gone:
    """The record or document was deleted by this call, or was not there to delete."""

    key: str


@dataclass(frozen=True, slots=True)
class Stale:
    """The version was not the expected one; nothing was written. `current` is what stands there now."""

    key: str
    current: Record | None


Swapped: TypeAlias = Record | Gone | Stale


# --- verdicts -----------------------------------------------------------------------------------------------


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


# --- queue --------------------------------------------------------------------------------------------------


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


# --- feed ---------------------------------------------------------------------------------------------------

Kind: TypeAlias = Literal["put", "delete", "truncate"]
Start: TypeAlias = 'Literal["beginning", "now"] | float'
"""Where a feed worker begins: the two words, or seconds since the epoch."""


class Logged(NamedTuple):
    """One change as it stands in the log of a partition. (A named tuple, as `Delivery`.)

    `id` is unique in the feed and the same at each reading; `order` rises within the partition. `cursor` resumes
    *after* this change where the backend can do that, else it is None and only the page's cursor resumes.
    """

    id: str
    partition: str
    order: int
    cursor: str | None
    kind: Kind
    document: str
    key: str
    body: bytes | None
    before: bytes | None
    at: float


@dataclass(frozen=True, slots=True)
class Page:
    """Changes in order; `cursor` resumes after all of them; `more` when the next read need not wait."""

    changes: tuple[Logged, ...]
    cursor: str
    more: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """The partition was split or merged: its children, each with the cursor to go on from."""

    children: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Expired:
    """The cursor lies before the trimmed part; `cursor` is the oldest that still reads."""

    cursor: str


@dataclass(frozen=True, slots=True)
class Lag:
    """What lies between a cursor and the end of its partition: changes, and seconds since the oldest of them."""

    items: int
    seconds: float


# --- documents ----------------------------------------------------------------------------------------------


class Expect(Enum):
    """What a write expects to find when no etag is given."""

    ANYTHING = "anything"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Stored:
    """A document as stored; `etag` names this version of it."""

    id: str
    key: str
    etag: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Put:
    """Create or replace one document. `expect` is an etag, or what to find."""

    collection: str
    id: str
    key: str
    body: bytes
    expect: Expect | str = Expect.ANYTHING


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one document. A document that is not there is no error unless an etag is expected."""

    collection: str
    id: str
    key: str | None = None
    expect: Expect | str = Expect.ANYTHING


Write: TypeAlias = Put | Delete


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The document was not as expected; nothing was written. `current` is what stands there now."""

    id: str
    current: Stored | None


Written: TypeAlias = Stored | Gone | Mismatch


@dataclass(frozen=True, slots=True)
class Filter:
    """A condition on one declared field: `=`, `<`, `<=`, `>`, `>=` against a JSON scalar."""

    field: str
    op: Literal["=", "<", "<=", ">", ">="]
    value: str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Query:
    """Documents with all `filters`, by `order` (a declared field; else by id), from `continuation` on."""

    key: str | None = None
    filters: tuple[Filter, ...] = ()
    order: str | None = None
    descending: bool = False
    limit: int = 100
    continuation: str | None = None


@dataclass(frozen=True, slots=True)
class Rows:
    """One page of a query; `continuation` asks for the next, None when there is none."""

    documents: tuple[Stored, ...]
    continuation: str | None


# --- dead letters -------------------------------------------------------------------------------------------


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


# --- commit -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finished:
    """A change whose effects stand in this commit: it holds only while the lease has this epoch and nonce."""

    lease: str
    epoch: int
    nonce: str
    change: str


@dataclass(frozen=True, slots=True)
class Commit:
    """What takes effect together or not at all."""

    writes: tuple[Write, ...] = ()
    messages: tuple[Message, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    swaps: tuple[Swap, ...] = ()
    finished: tuple[Finished, ...] = ()


@dataclass(frozen=True, slots=True)
class Committed:
    """All of it took effect; one result for each write, the id of each message (an earlier one's if a duplicate).

    `repeated` when a `finished` row was there already: nothing was applied a second time.
    """

    written: tuple[Stored | Gone, ...] = ()
    sent: tuple[str, ...] = ()
    swapped: tuple[Record | Gone, ...] = ()
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Conflicted:
    """A write or a swap met another version; nothing took effect."""

    at: Mismatch | Stale


@dataclass(frozen=True, slots=True)
class Fenced:
    """A claim or a lease was no longer ours; nothing took effect."""


CommitResult: TypeAlias = Committed | Conflicted | Fenced


# --- declarations as the adapters see them ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CollectionSpec:
    """A collection of ours: documents and their feed. `fields` are indexed and may be filtered and ordered by."""

    name: str
    partitions: int = 16
    fields: tuple[str, ...] = ()
    before: bool = False


@dataclass(frozen=True, slots=True)
class TableSpec:
    """A table that is there already and whose changes are captured by triggers: its columns for id and key."""

    name: str
    table: str
    id: str
    key: str
    partitions: int = 16
    before: bool = False


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue. `dedup_window` in seconds after the message was settled."""

    name: str
    dedup_window: float = 600.0


Source: TypeAlias = CollectionSpec | TableSpec


@dataclass(frozen=True, slots=True)
class Limits:
    """What a backend takes at most: items in a call, bytes in a body, seconds of delay."""

    batch: int = 1000
    body: int = 1 << 28
    delay: float = float("inf")


# --- facts for observers ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that happened, for observers: what, to which worker, and the rest as fields."""

    name: str
    worker: str = ""
    count: int = 1
    seconds: float = 0.0
    detail: Value = field(default_factory=dict)


Observer: TypeAlias = Callable[[Fact], None]
