"""The commit that spans the parts: applied by the writer, or as statements for a user's own connection.

Each commit runs in a savepoint of the group's transaction: a mismatch undoes this commit only. The order inside:
the fence (leases of `finished`, then the finished rows), claims, writes, messages, swaps. An unknown commit may
be repeated: with `finished` rows the second finds them and is `repeated`; with outcomes alone the handle knows
its own claims again; a commit of neither applies again like any write.
"""

from __future__ import annotations

from dataclasses import dataclass
from sqlite3 import Connection
from typing import Any

from tidemill.adapters.sqlite.documents import LOG, UPSERT, partition_of, write_one
from tidemill.adapters.sqlite.queue import apply, comes_back, insert, parse, values
from tidemill.adapters.sqlite.session import Session
from tidemill.adapters.sqlite.store import MEMBERS, dumps, find, swap_one, write
from tidemill.errors import ConfigurationError
from tidemill.model import (
    Commit,
    CommitResult,
    Committed,
    Conflicted,
    Delete,
    Done,
    Expect,
    Fenced,
    Finished,
    Gone,
    Message,
    Mismatch,
    Outcome,
    Record,
    Stale,
    Stored,
    Swap,
    Write,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL for a user's own connection to the file; `rows` is what it must change, None: whatever it changes.

    Another count: roll back, the claim is lost (`ClaimLost`) or a document was changed by somebody else.
    """

    sql: str
    args: tuple[Any, ...]
    rows: int | None = 1


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
        ours = not hits and all(session.repeated(outcome) for outcome in missed)
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
        lease is not None
        and lease.value.get("epoch") == finished.epoch
        and lease.value.get("nonce") == finished.nonce
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


# --- as statements ------------------------------------------------------------------------------------------

BUMP = Statement("UPDATE tidemill_meta SET value = value + 1 WHERE name = 'version'", ())

VERSION = "(SELECT value FROM tidemill_meta WHERE name = 'version')"

FENCE = (
    "UPDATE tidemill_record SET version = version WHERE key = ?"
    " AND json_extract(value, '$.epoch') = ? AND json_extract(value, '$.nonce') = ?"
)


def statements(session: Session, commit: Commit, now: float) -> list[Statement]:
    """The commit as SQL for a connection of the user's, to be run in this order inside his transaction.

    Outcomes must be `Done`. A message whose dedup key is taken changes no row, which is a success.
    """
    check(session, commit)
    found: list[Statement] = []
    for finished in commit.finished:
        found.append(Statement(FENCE, (finished.lease, finished.epoch, finished.nonce)))
        found += record_statements(Swap(finished_key(finished), None, {"epoch": finished.epoch}))
    for outcome in commit.outcomes:
        found += outcome_statements(session, outcome, now)
    for item in commit.writes:
        found += write_statements(session, item, now)
    for message in commit.messages:
        found += message_statements(session, message, now)
    for swap in commit.swaps:
        found += record_statements(swap)
    return found


def record_statements(swap: Swap) -> list[Statement]:
    if swap.value is None:
        if swap.version is None:
            raise ConfigurationError("sqlite: a delete of a record that must not exist is no statement")
        return [
            Statement("DELETE FROM tidemill_record WHERE key = ? AND version = ?", (swap.key, swap.version))
        ]
    text = dumps(swap.value)
    if swap.version is None:
        sql = f"INSERT INTO tidemill_record SELECT ?, {VERSION}, ? WHERE true ON CONFLICT DO NOTHING"
        return [BUMP, Statement(sql, (swap.key, text))]
    sql = f"UPDATE tidemill_record SET version = {VERSION}, value = ? WHERE key = ? AND version = ?"
    return [BUMP, Statement(sql, (text, swap.key, swap.version))]


def outcome_statements(session: Session, outcome: Outcome, now: float) -> list[Statement]:
    if not outcome.started or not isinstance(outcome.verdict, Done):
        raise ConfigurationError("sqlite: only Done can be part of a transaction of yours")
    spec, queue = session.queue(outcome.delivery.queue)
    claim = parse(outcome.delivery.claim)
    window = (
        "UPDATE tidemill_dedup SET until = ? WHERE queue = ? AND dedup ="
        " (SELECT dedup FROM tidemill_message WHERE seq = ? AND nonce = ?)"
    )
    return [
        Statement(window, (now + spec.dedup_window, queue, *claim), None),
        Statement("DELETE FROM tidemill_message WHERE seq = ? AND nonce = ?", claim),
    ]


def write_statements(session: Session, item: Write, now: float) -> list[Statement]:
    """The log row first: its number becomes the etag. The document's own row count guards the expectation."""
    source = session.source(item.collection)
    where = "source = ? AND id = ?"
    mine = (source.number, item.id)
    before = f"(SELECT body FROM tidemill_document WHERE {where})" if source.spec.before else "NULL"
    images = mine if source.spec.before else ()
    if isinstance(item, Delete):
        if item.key is None or item.expect is Expect.NOTHING:
            raise ConfigurationError("sqlite: a delete in a transaction of yours needs the key")
        etag = " AND etag = ?" if isinstance(item.expect, str) else ""
        etags = (item.expect,) if isinstance(item.expect, str) else ()
        rows = 1 if etags else None
        select = (
            f"SELECT source, ?, 1, id, key, ?, NULL, {'body' if images else 'NULL'} FROM tidemill_document"
        )
        part = partition_of(item.key, source.spec.partitions)
        return [
            Statement(f"{LOG_SELECT} {select} WHERE {where}{etag}", (part, now, *mine, *etags), rows),
            Statement(f"DELETE FROM tidemill_document WHERE {where}{etag}", (*mine, *etags), rows),
        ]
    change = (
        source.number,
        partition_of(item.key, source.spec.partitions),
        item.id,
        item.key,
        now,
        item.body,
    )
    log = Statement(f"{LOG_SELECT} SELECT ?, ?, 0, ?, ?, ?, ?, {before}", (*change, *images))
    document = (source.number, item.id, item.key, item.body)
    match item.expect:
        case Expect.ANYTHING:
            return [log, Statement(PUT, document)]
        case Expect.NOTHING:
            return [log, Statement(CREATE, document)]
        case etag:
            return [log, Statement(REPLACE, (item.key, item.body, *mine, etag))]


LOG_SELECT = LOG[: LOG.index(" VALUES")]

CREATE = (
    "INSERT INTO tidemill_document (source, id, key, etag, body) SELECT ?, ?, ?, last_insert_rowid(), ?"
    " WHERE true ON CONFLICT (source, id) DO NOTHING"
)

PUT = CREATE.removesuffix("DO NOTHING") + UPSERT[UPSERT.index("DO UPDATE") :]

REPLACE = (
    "UPDATE tidemill_document SET etag = last_insert_rowid(), key = ?, body = ?"
    " WHERE source = ? AND id = ? AND etag = ?"
)


def message_statements(session: Session, message: Message, now: float) -> list[Statement]:
    row = values(session, message, now)
    sql = "INSERT INTO tidemill_message (queue, id, priority, due, sent_at, key, dedup, headers, body)"
    end = "ON CONFLICT (queue, id) DO NOTHING"
    if message.dedup is None:
        return [Statement(f"{sql} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) {end}", row, None)]
    taken = (row[0], message.dedup)
    free = "WHERE NOT EXISTS (SELECT 1 FROM tidemill_dedup WHERE queue = ? AND dedup = ?)"
    return [
        Statement(
            "DELETE FROM tidemill_dedup WHERE queue = ? AND dedup = ? AND until <= ?", (*taken, now), None
        ),
        Statement(f"{sql} SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? {free} {end}", (*row, *taken), None),
        Statement("INSERT OR IGNORE INTO tidemill_dedup VALUES (?, ?, ?, NULL)", (*taken, message.id), None),
    ]
