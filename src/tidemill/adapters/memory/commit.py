"""The commit that spans all parts: first everything is looked at, then everything is done; nothing is undone.

Each step of the second half must succeed if the first half let it pass. A later write to the same document (or swap of
the same record) is judged by what the earlier one will have left: something under an etag that nobody can know yet, or
nothing.
"""

from __future__ import annotations

from tidemill.adapters.memory.documents import expected, write
from tidemill.adapters.memory.queue import claimed, repeated, send, settle
from tidemill.adapters.memory.state import State
from tidemill.adapters.memory.store import swap_one
from tidemill.model import (
    FORMAT,
    Commit,
    CommitResult,
    Committed,
    Conflicted,
    Expect,
    Fenced,
    Finished,
    Gone,
    Mismatch,
    Put,
    Record,
    Stale,
    Stored,
    Swap,
)


def check_names(state: State, commit: Commit) -> None:
    """Raise ConfigurationError for what was not opened, before anything is written."""
    for item in commit.writes:
        state.collection(item.collection)
    for message in commit.messages:
        state.queue(message.queue)
    for outcome in commit.outcomes:
        state.queue(outcome.delivery.queue)


def commit_one(state: State, commit: Commit) -> CommitResult:
    """All of it or nothing of it."""
    if any(finished_key(row) in state.records for row in commit.finished):
        return Committed(repeated=True)
    if not all(_lease_holds(state, row) for row in commit.finished):
        return Fenced()
    queues = [state.queue(outcome.delivery.queue) for outcome in commit.outcomes]
    pairs = list(zip(queues, commit.outcomes, strict=True))
    if pairs and all(repeated(queue, outcome) for queue, outcome in pairs):
        return Committed(repeated=True)
    if not all(claimed(queue, outcome.delivery) for queue, outcome in pairs):
        return Fenced()
    conflict = _mismatch(state, commit) or _stale(state, commit)
    return Conflicted(conflict) if conflict else _apply(state, commit)


def finished_key(row: Finished) -> str:
    return f"finished/{row.lease}/{row.change}"


def _lease_holds(state: State, row: Finished) -> bool:
    lease = state.records.get(row.lease)
    return lease is not None and lease.value.get("epoch") == row.epoch and lease.value.get("nonce") == row.nonce


def _mismatch(state: State, commit: Commit) -> Mismatch | None:
    left: dict[tuple[str, str], bool] = {}
    for item in commit.writes:
        place, found = (item.collection, item.id), state.collection(item.collection).documents.get(item.id)
        if place in left:
            holds = item.expect is Expect.ANYTHING or (item.expect is Expect.NOTHING and not left[place])
        else:
            holds = expected(item.expect, found)
        if not holds:
            return Mismatch(item.id, found)
        left[place] = isinstance(item, Put)
    return None


def _stale(state: State, commit: Commit) -> Stale | None:
    left: dict[str, bool] = {}
    for swap in commit.swaps:
        found = state.records.get(swap.key)
        if swap.key in left:
            holds = swap.version is None and not left[swap.key]
        else:
            holds = swap.version == (found.version if found else None)
        if not holds:
            return Stale(swap.key, found)
        left[swap.key] = swap.value is not None
    return None


def _apply(state: State, commit: Commit) -> Committed:
    replies = [write(state, state.collection(item.collection), item) for item in commit.writes]
    sent = [send(state, state.queue(message.queue), message) for message in commit.messages]
    for outcome in commit.outcomes:
        settle(state, state.queue(outcome.delivery.queue), outcome)
    swapped = [swap_one(state, swap) for swap in commit.swaps]
    for row in commit.finished:
        swap_one(state, Swap(finished_key(row), None, {"format": FORMAT}))
    _ring(state, commit)
    written = tuple(reply for reply in replies if isinstance(reply, Stored | Gone))
    return Committed(written, tuple(sent), tuple(reply for reply in swapped if isinstance(reply, Record | Gone)))


def _ring(state: State, commit: Commit) -> None:
    for name in {item.collection for item in commit.writes}:
        state.collection(name).bell.ring()
    for name in {m.queue for m in commit.messages} | {outcome.delivery.queue for outcome in commit.outcomes}:
        state.queue(name).bell.ring()
