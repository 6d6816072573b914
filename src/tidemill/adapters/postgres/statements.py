"""A commit as SQL for a user's own connection, so that it is part of his transaction. No I/O here.

It runs on asyncpg, psycopg and SQLAlchemy alike (`Statement.pyformat`, `Statement.named`): every value is a single one
of a plain type, and its type is said in the SQL. Who waits for messages or changes finds them without being told.
"""

from __future__ import annotations

from tidemill.adapters.postgres.commit import check, finished_key
from tidemill.adapters.postgres.documents import DELETE, DELETE_ONE, LOCK_ONE, PUT, PUT_ONE, expect_of, text
from tidemill.adapters.postgres.queue import message_statements, outcome_statements
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.store import dumps, version_of
from tidemill.adapters.postgres.stream import stream_statements
from tidemill.errors import ConfigurationError
from tidemill.model import CollectionSpec, Commit, Done, Expect, Put, Statement, Swap, Write

FENCE = """
SELECT 1 FROM {s}.record WHERE key = $1::text AND (value->>'epoch')::bigint = $2::bigint
    AND value->>'nonce' = $3::text FOR SHARE
"""


def statements(session: Session, commit: Commit) -> list[Statement]:
    """The commit as SQL, to be run in this order inside a transaction of the user's.

    Outcomes must be `Done`. A message whose dedup key is taken changes no row, which is a success.
    """
    check(session, commit)
    s = session.names.schema
    found: list[Statement] = []
    for finished in commit.finished:
        found.append(Statement(FENCE.format(s=s), (finished.lease, finished.epoch, finished.nonce)))
        found += record_statements(s, Swap(finished_key(finished), None, {"epoch": finished.epoch}))
    for outcome in commit.outcomes:
        if not outcome.started or not isinstance(outcome.verdict, Done):
            raise ConfigurationError("postgresql: only Done can be part of a transaction of yours")
        found += outcome_statements(session, outcome)
    for item in commit.writes:
        found += write_statements(session, item)
    for message in commit.messages:
        spec = session.queue(message.queue)
        ordered = spec.key is not None
        found += stream_statements(session, spec, message) if ordered else message_statements(session, message)
    for swap in commit.swaps:
        found += record_statements(s, swap)
    return found


def write_statements(session: Session, item: Write) -> list[Statement]:
    spec = session.source(item.collection).spec
    if not isinstance(spec, CollectionSpec):
        raise ConfigurationError(f"{item.collection}: an existing table has no documents; write it yourself")
    rows = None if item.expect is Expect.ANYTHING else 1
    found = [Statement(LOCK_ONE, (f"{spec.name}/{item.id}",), None)] if spec.before else []
    if isinstance(item, Put):
        args: tuple[object, ...] = (item.id, item.key, item.body, expect_of(item))
        return [*found, Statement(text(session, spec, PUT, PUT_ONE), args, rows)]
    if item.expect is Expect.NOTHING:
        raise ConfigurationError("postgresql: a delete of what must not be there is no statement")
    return [*found, Statement(text(session, spec, DELETE, DELETE_ONE), (item.id, expect_of(item)), rows)]


def record_statements(s: str, swap: Swap) -> list[Statement]:
    version = version_of(swap)
    if swap.value is None:
        if version is None:
            raise ConfigurationError("postgresql: a delete of a record that must not exist is no statement")
        sql = f"DELETE FROM {s}.record WHERE key = $1::text AND version = $2::bigint"
        return [Statement(sql, (swap.key, version))]
    number = f"nextval('{s}.version_seq')"
    if version is None:
        sql = f"INSERT INTO {s}.record VALUES ($1::text, {number}, $2::text::json) ON CONFLICT DO NOTHING"
        return [Statement(sql, (swap.key, dumps(swap.value)))]
    there = "key = $1::text AND version = $2::bigint"
    sql = f"UPDATE {s}.record SET version = {number}, value = $3::text::json WHERE {there}"
    return [Statement(sql, (swap.key, version, dumps(swap.value)))]
