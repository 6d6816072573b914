"""A commit as SQL for a user's own connection to the file, so that it is part of his transaction. No I/O here."""

from __future__ import annotations

from tidemill.adapters.sqlite.commit import check, finished_key
from tidemill.adapters.sqlite.documents import INSERT, LOG, OVERWRITE
from tidemill.adapters.sqlite.queue import END_DEDUP, values
from tidemill.adapters.sqlite.session import OpenSource, Session
from tidemill.adapters.sqlite.store import dumps
from tidemill.errors import ConfigurationError
from tidemill.model import Commit, Delete, Done, Expect, Message, Outcome, Statement, Swap, Write

LOG_INTO = LOG[: LOG.index(" VALUES")]


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
        return [Statement("DELETE FROM tidemill_record WHERE key = ? AND version = ?", (swap.key, swap.version))]
    text = dumps(swap.value)
    if swap.version is None:
        sql = f"INSERT INTO tidemill_record SELECT ?, {VERSION}, ? WHERE true ON CONFLICT DO NOTHING"
        return [BUMP, Statement(sql, (swap.key, text))]
    sql = f"UPDATE tidemill_record SET version = {VERSION}, value = ? WHERE key = ? AND version = ?"
    return [BUMP, Statement(sql, (text, swap.key, swap.version))]


def outcome_statements(session: Session, outcome: Outcome, now: float) -> list[Statement]:
    if not outcome.started or not isinstance(outcome.verdict, Done):
        raise ConfigurationError("sqlite: only Done can be part of a transaction of yours")
    spec, _ = session.queue(outcome.delivery.queue)
    seq, _, nonce = outcome.delivery.claim.partition(".")
    return [
        Statement("DELETE FROM tidemill_claim WHERE seq = ? AND nonce = ?", (seq, nonce)),
        Statement(END_DEDUP, (now + spec.dedup_window, seq), None),
        Statement("DELETE FROM tidemill_message WHERE seq = ?", (seq,)),
    ]


def write_statements(session: Session, item: Write, now: float) -> list[Statement]:
    """The log row first: its number becomes the etag. The document's own row count guards the expectation."""
    source = session.source(item.collection)
    image = f"(SELECT body FROM {source.table} WHERE id = ?)" if source.spec.before else "NULL"
    images = (item.id,) if source.spec.before else ()
    if isinstance(item, Delete):
        return delete_statements(source, item, now)
    change = (source.number, source.part(item.key), item.id, item.key, now, item.body, *images)
    log = Statement(f"{LOG_INTO} SELECT ?, ?, 0, ?, ?, ?, ?, {image}", change)
    insert = INSERT.format(source.table).replace("(?, ?, ?, ?)", "(?, ?, last_insert_rowid(), ?)")
    document = (item.id, item.key, item.body)
    match item.expect:
        case Expect.ANYTHING:
            return [log, Statement(f"{insert} DO {OVERWRITE}", document)]
        case Expect.NOTHING:
            return [log, Statement(f"{insert} DO NOTHING", document)]
        case etag:
            sql = f"UPDATE {source.table} SET key = ?, etag = last_insert_rowid(), body = ? WHERE id = ? AND etag = ?"
            return [log, Statement(sql, (item.key, item.body, item.id, etag))]


def delete_statements(source: OpenSource, item: Delete, now: float) -> list[Statement]:
    if item.key is None or item.expect is Expect.NOTHING:
        raise ConfigurationError("sqlite: a delete in a transaction of yours needs the key")
    where, args, rows = "id = ?", [item.id], None
    if isinstance(item.expect, str):
        where, args, rows = "id = ? AND etag = ?", [item.id, item.expect], 1
    image = "body" if source.spec.before else "NULL"
    log = f"{LOG_INTO} SELECT ?, ?, 1, id, key, ?, NULL, {image} FROM {source.table} WHERE {where}"
    return [
        Statement(log, (source.number, source.part(item.key), now, *args), rows),
        Statement(f"DELETE FROM {source.table} WHERE {where}", tuple(args), rows),
    ]


def message_statements(session: Session, message: Message, now: float) -> list[Statement]:
    row = values(session, message, now)
    sql = "INSERT INTO tidemill_message (queue, id, priority, due, sent_at, key, dedup, headers, body)"
    end = "ON CONFLICT (queue, id) DO NOTHING"
    if message.dedup is None:
        return [Statement(f"{sql} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) {end}", row, None)]
    taken = (row[0], message.dedup)
    free = "WHERE NOT EXISTS (SELECT 1 FROM tidemill_dedup WHERE queue = ? AND dedup = ?)"
    return [
        Statement("DELETE FROM tidemill_dedup WHERE queue = ? AND dedup = ? AND until <= ?", (*taken, now), None),
        Statement(f"{sql} SELECT ?, ?, ?, ?, ?, ?, ?, ?, ? {free} {end}", (*row, *taken), None),
        Statement("INSERT OR IGNORE INTO tidemill_dedup VALUES (?, ?, ?, NULL)", (*taken, message.id), None),
    ]
