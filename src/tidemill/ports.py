"""What a backend must be able to do: narrow protocols in our words. Each docstring is a contract.

For every call of every port: it may commit and raise (the outcome is then unknown, and every algorithm above
asks again); it is not cancelled by its caller if it takes something; it raises only errors of
`tidemill.errors` (`Unavailable` when the backend did not answer). Results stand in the order of the arguments.
Adapters contain no retry, span, metric or policy. `tidemill.testing.conformance` holds each line of this to the test.
"""

from __future__ import annotations

from asyncio import Event
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from tidemill.model import (
    Commit,
    CommitResult,
    DeadLetter,
    Delivery,
    Depth,
    Expired,
    Lag,
    Limits,
    Lost,
    Message,
    Moved,
    Outcome,
    Page,
    Query,
    QueueSpec,
    Record,
    Rows,
    Settled,
    Source,
    Start,
    Stored,
    Swap,
    Swapped,
    Waiting,
    Write,
    Written,
)


class Clock(Protocol):
    """Time and waiting, as an argument. Waits may end late, never early."""

    def now(self) -> float:
        """Seconds since the epoch. May jump; used only for what people and schedules see."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never jumps and counts suspended time where the system has one that does."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait this long. Zero yields once."""
        ...

    async def wait(self, event: Event, timeout: float) -> bool:
        """Wait until the event is set (True) or the time is over (False)."""
        ...


class Store(Protocol):
    """Small records under compare-and-swap.

    Only `swap` is linearizable: `get` and `scan` may return older records. Values are JSON objects; unknown
    fields are kept as they are. Keys are text without NUL, ordered by code point.
    """

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        """The records, None where there is none."""
        ...

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        """Records whose key starts with `prefix` and is greater than `after`, by key, at most `limit`.

        Every record that existed during the whole scan is in it; no common moment is promised.
        """
        ...

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        """Each swap by itself (not one transaction): the new `Record`, `Gone` for a delete, or `Stale`.

        A delete with version None is `Gone` if there is no record. A new version was never used for that key.
        """
        ...


class Feed(Protocol):
    """The ordered log of changes of one collection or table, split into partitions by key.

    Order within a partition is such that two changes of one key stand in the order of their commits. A cursor
    never passes a change that may still become visible. Reading takes nothing: it may be repeated and cancelled.
    """

    async def partitions(self) -> Sequence[str]:
        """The names of the partitions that can be read now, sorted."""
        ...

    async def start(self, partition: str, at: Start) -> str:
        """A cursor to begin from: everything kept ("beginning"), only what comes from now on, or since a time."""
        ...

    async def read(self, cursors: Mapping[str, str], limit: int, wait: float) -> Mapping[str, Page | Moved | Expired]:
        """For each partition what follows its cursor: at most `limit` changes a partition.

        If there is nothing for any of them, waits up to `wait` seconds for something. May return early with
        nothing; must not return late by more than a fraction of a second.
        """
        ...

    async def lag(self, cursors: Mapping[str, str]) -> Mapping[str, Lag]:
        """How far each cursor is behind. May be a second old."""
        ...

    async def trim(self, before: Mapping[str, str], retention: float) -> int:
        """Remove changes that lie before the given cursors, and all that are older than `retention` seconds.

        A partition that is not named is trimmed by retention only. Bounded work: returns how many were removed;
        call again while it returns more than 0. Reading from a cursor whose following changes were removed by
        retention gives `Expired`.
        """
        ...


class Queue(Protocol):
    """Messages that are claimed, worked on and settled."""

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        """Durable when it returns. The ids; for a duplicate (`dedup`) the id of the first, which is a success.

        A message whose *id* is in the queue already is a duplicate too, so an unknown send may be repeated. Feature
        `unique`; where it is missing, a send that is repeated may bring a message twice.
        """
        ...

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        """Claim up to `limit` messages that are due, strictly by priority, then by due time, for `owner`.

        If none is due, waits up to `wait` seconds. Where claims belong to members, `owner` is the member's id
        and the deadline is infinite. Never cancelled by the caller.
        """
        ...

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        """Keep claims that have deadlines: the new one each (monotonic, counted from before the call), or `Lost`."""
        ...

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        """Give each outcome effect if its claim is still the one in the queue. Idempotent.

        `Done` removes the message. `Later` makes it due after the delay, with `attempt` + 1 if it says so and
        its reason kept. `Dead` moves it to the dead letters (source `queue/<name>`) in the same step.
        `started=False` returns it as if it had never been handed out.
        """
        ...

    async def free(self, owners: Sequence[str]) -> Sequence[str]:
        """End every claim of these owners (they are buried): the messages are due at once, their count of
        deliveries without a verdict stays. Returns all owners that still hold claims, these excluded.
        Backends whose claims end by a deadline of their own return nothing."""
        ...

    async def depth(self) -> Depth:
        """About how much waits; may be cached for a second, but counts what was sent through this object before."""
        ...

    async def peek(self, after: str, limit: int) -> Sequence[Waiting]:
        """At most `limit` of the messages that are ready or delayed, in the order in which they would be claimed if all
        were due (by priority, then by due time), from behind the place `after` ("" for the first). Nothing is claimed.

        What waits during all pages and is not put back meanwhile is on exactly one of them. Raises `BadOption` for an
        `after` that is no place. Feature `peek`.
        """
        ...

    async def purge(self) -> int:
        """Remove messages that are ready or delayed, for good and without dead letters; claimed ones stay.

        Bounded work: returns how many were removed; call again while it returns more than 0. Their `dedup` keys are
        free at once, for nothing was done with them. Durable when it returns. Feature `purge`.
        """
        ...


class Documents(Protocol):
    """The documents of one collection. Each write appends one change to the collection's feed, in one step."""

    async def get(self, ids: Sequence[str]) -> Sequence[Stored | None]:
        """The documents, None where there is none. Reads its own process's writes."""
        ...

    async def write(self, writes: Sequence[Write]) -> Sequence[Written]:
        """Each write by itself: the document with its new etag, `Gone` for a delete, or `Mismatch`.

        Durable when it returns. Later writes of one call to one document see the earlier ones.
        """
        ...

    async def query(self, query: Query) -> Rows:
        """One page. A document that is there during all pages is on exactly one of them."""
        ...


class DeadLetters(Protocol):
    """Bodies that are kept until somebody decides. Written once: a `put` of an id that is there changes nothing."""

    async def put(self, letters: Sequence[DeadLetter]) -> None:
        """Durable when it returns."""
        ...

    async def page(self, source: str, after: int, limit: int, key: str | None = None) -> Sequence[DeadLetter]:
        """Letters of a source (of one key, if given) with `order` greater than `after`, by order."""
        ...

    async def count(self, prefix: str) -> Mapping[str, int]:
        """How many there are for each source that starts with `prefix`; sources without any are left out."""
        ...

    async def release(self, source: str, ids: Sequence[str]) -> int:
        """Put messages back into their queue with attempt 0 and the same id, in one step with their removal.

        Only for sources `queue/…`. Returns how many there were; unknown ids are passed over.
        """
        ...

    async def drop(self, source: str, ids: Sequence[str]) -> int:
        """Remove letters for good. Returns how many there were; unknown ids are passed over."""
        ...


class Presence(Protocol):
    """Who is certainly gone, where a backend can tell (a lock file that the kernel frees at the process's end)."""

    async def hold(self, member: str) -> None:
        """Show that this member lives, until `drop` or the end of the process, however it ends."""
        ...

    async def drop(self, member: str) -> None:
        """End the show."""
        ...

    async def gone(self, members: Sequence[str]) -> Sequence[str]:
        """Those of the members that held a presence *on this host* and certainly live no more."""
        ...


class Database(Protocol):
    """One backend, opened by its URL: what it offers, and the commit that spans its parts.

    `features` names what it can do, `limits` what it takes. The parts: `store feed queue documents dead_letters commit
    presence`; asking for one that is not there raises `ConfigurationError`. Parts are handles on the same connection;
    asking twice is cheap. Of queues: `delay dedup unique priority peek purge`, and

    - `order`: oldest first;
    - `key_order`: of the messages with one key one at a time, each after the ones sent before it. Such a queue is read
      as a feed (`StreamSpec`) or, with `sessions`, hands its messages out in that way.

    Of feeds: `deletes before`, and

    - `versions`: each version of a document is a change, not only what it is when it is read;
    - `trim`: the log is ours to trim;
    - `now_only`: a feed can begin now only.

    Of stores: `foreign`, leases may be held by hosts that are no members (see `core.foreign`). Where there is no
    `commit`: `key_commit`, commits of document writes of one collection and one key only; others raise
    `ConfigurationError` or `BadOption` before anything is written.
    """

    @property
    def features(self) -> frozenset[str]: ...

    @property
    def limits(self) -> Limits: ...

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        """Connect and make ready what is missing for these (tables, triggers). Idempotent, also when other
        processes do the same at once. Must be called on the loop that will make all other calls."""
        ...

    async def close(self) -> None:
        """Finish what was begun and disconnect. Idempotent, and legal before `open`."""
        ...

    def store(self) -> Store: ...

    def feed(self, source: Source) -> Feed: ...

    def queue(self, queue: QueueSpec) -> Queue: ...

    def documents(self, source: Source) -> Documents: ...

    def dead_letters(self) -> DeadLetters: ...

    def presence(self) -> Presence | None: ...

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        """Each commit all or nothing, independent of its neighbours. Durable when it returns.

        An outcome whose claim is not ours, or a `finished` whose lease record has another epoch or nonce, makes
        the commit `Fenced`. A `finished` creates the record `finished/<lease>/<change>`; if it is there already
        nothing is applied and the result is `Committed(repeated=True)`. A mismatch of a write or a stale swap
        makes it `Conflicted`.
        """
        ...


@runtime_checkable
class Metered(Protocol):
    """What a backend charges by the request, where it does: a `Database` may have this, too."""

    def charged(self) -> Mapping[str, float]:
        """What all requests so far have cost, by container, in the backend's own unit. Only grows; asks nobody."""
        ...
