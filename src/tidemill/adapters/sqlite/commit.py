"""The commit that spans the parts, applied by the writer.

Each commit runs in a savepoint of the group's transaction: a mismatch undoes this commit only. The order inside:
the fence (leases of `finished`, then the finished rows), claims, writes, messages, swaps. An unknown commit may
be repeated: with `finished` rows the second finds them and is `repeated`; with outcomes alone the handle knows
its own claims again; a commit of neither applies again like any write.
"""

from __future__ import annotations

from sqlite3 import Connection

from tidemill.adapters.sqlite.documents import write_one
from tidemill.adapters.sqlite.queue import apply, comes_back, insert
from tidemill.adapters.sqlite.session import Session
from tidemill.adapters.sqlite.store import MEMBERS, find, swap_one, write
from tidemill.errors import ConfigurationError
from tidemill.model import (
    Commit,
    CommitResult,
    Committed,
    Conflicted,
    Delete,
    Fenced,
    Finished,
    Gone,
    Mismatch,
    Record,
    Stale,
    Stored,
)


def check(session: Session, commit: Commit) -> None:
    """Raise what can be known before any I/O."""
    for body in (item.body for item in (*commit.writes, *commit.messages) if not isinstance(item, Delete)):
        session.check_body(body)
    for item in commit.writes:
        session.source(item.collection)
    for message in commit.messages:
        session.queue(message.queue)
    if any(swap.key.startswith(MEMBERS) for swap in commit.swaps):
        raise ConfigurationError("sqlite: records of members are in a file of their own and in no commit")


def topics_of(commit: Commit) -> set[str]:
    """What rings when this took effect."""
    feeds = {f"feed/{write.collection}" for write in commit.writes}
    sent = {f"queue/{message.queue}" for message in commit.messages}
    back = {f"queue/{outcome.delivery.queue}" for outcome in commit.outcomes if comes_back(outcome)}
    return feeds | sent | back


def commit_one(connection: Connection, session: Session, commit: Commit, now: float) -> CommitResult:
    """Apply one commit inside the writer's transaction, all or nothing."""
    connection.execute("SAVEPOINT tidemill_commit")
    result = steps(connection, session, commit, now)
    if not isinstance(result, Committed) or result.repeated:
        connection.execute("ROLLBACK TO tidemill_commit")
    connection.execute("RELEASE tidemill_commit")
    return result


def steps(connection: Connection, session: Session, commit: Commit, now: float) -> CommitResult:
    for finished in commit.finished:
        if not fence_holds(connection, finished):
            return Fenced()
    if commit.finished and not finish(connection, commit.finished):
        return Committed(repeated=True)
    hits = apply(connection, session, commit.outcomes, now)
    missed = [outcome for outcome in commit.outcomes if outcome.delivery.claim not in hits]
    if missed:
        ours = not hits and all(session.settled.repeated(outcome) for outcome in missed)
        return Committed(repeated=True) if ours else Fenced()
    written: list[Stored | Gone] = []
    for item in commit.writes:
        result = write_one(connection, session.source(item.collection), item, now)
        if isinstance(result, Mismatch):
            return Conflicted(result)
        written.append(result)
    sent = insert(connection, session, commit.messages, now)
    swapped: list[Record | Gone] = []
    for swap in commit.swaps:
        record = swap_one(connection, swap)
        if isinstance(record, Stale):
            return Conflicted(record)
        swapped.append(record)
    return Committed(tuple(written), tuple(sent), tuple(swapped))


def fence_holds(connection: Connection, finished: Finished) -> bool:
    lease = find(connection, finished.lease)
    return (
        lease is not None and lease.value.get("epoch") == finished.epoch and lease.value.get("nonce") == finished.nonce
    )


def finish(connection: Connection, rows: tuple[Finished, ...]) -> bool:
    """Write the finished rows; False if one was there already."""
    for finished in rows:
        key = finished_key(finished)
        if find(connection, key) is not None:
            return False
        write(connection, key, {"epoch": finished.epoch})
    return True


def finished_key(finished: Finished) -> str:
    return f"finished/{finished.lease}/{finished.change}"
