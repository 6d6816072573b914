"""What becomes of claimed messages, in whatever transaction the caller has.

Each kind of outcome is one statement for all messages of a queue, and each begins by deleting the claims: who deletes
a claim has it, and whoever comes later, or with another nonce, finds none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any, TypeAlias

from tidemill.adapters.postgres.ddl_queue import Tables, tables
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.names import Names, literal
from tidemill.adapters.postgres.sending import until
from tidemill.adapters.postgres.session import Session
from tidemill.errors import ConfigurationError
from tidemill.model import Dead, Done, Later, Outcome, Statement

Claim: TypeAlias = tuple[int, str]

MANY = "unnest($1::bigint[], $2::text[])"
ONE = "(SELECT $1::bigint, $2::text)"

GONE = """
gone AS (
    DELETE FROM {claim} WHERE ctid = ANY (ARRAY(
        SELECT held.at FROM {named} AS o (seq, nonce) CROSS JOIN LATERAL (
            SELECT c.ctid AS at FROM {claim} c WHERE c.seq = o.seq AND c.nonce = o.nonce LIMIT 1 FOR UPDATE) held))
    RETURNING *)
"""
"""The claims that still are those asked for. Each by a seek in the index: these tables grow and shrink faster than the
planner hears of it, so no statement here leaves it another way."""

REMOVED = """
removed AS (DELETE FROM {message} WHERE seq = ANY (ARRAY(SELECT seq FROM gone)) RETURNING {kept}),
-- from now on the dedup keys are taken for the window only
ended AS (
    UPDATE {dedup} SET until = statement_timestamp() + {window} * interval '1 second'
    WHERE ctid = ANY (ARRAY(
        SELECT taken.at FROM removed m CROSS JOIN LATERAL (
            SELECT d.ctid AS at FROM {dedup} d WHERE d.queue = {queue} AND d.dedup = m.dedup AND d.id = m.id
            LIMIT 1 FOR UPDATE) taken
        WHERE m.dedup IS NOT NULL)))
"""

CLAIMS = "string_agg(seq || '.' || nonce, ' ')"
"""One row for all of them."""

DONE = "WITH {gone},\n{removed}\nSELECT {claims} FROM gone"

LATER = """
WITH {gone},
verdict AS (
    SELECT gone.*, o.delay, o.reason, o.attempt FROM gone JOIN unnest($1::bigint[], $2::text[], $3::float8[],
        $4::text[], $5::int[]) AS o (seq, nonce, delay, reason, attempt) USING (seq, nonce)),
counted AS (
    UPDATE {message} m SET attempt = m.attempt + v.attempt, reason = v.reason FROM verdict v WHERE m.seq = v.seq),
back AS (
    INSERT INTO {ready} SELECT priority, statement_timestamp() + delay * interval '1 second', seq, 0 FROM verdict)
SELECT {claims}, max({number}) FROM gone
"""

BACK = """
WITH {gone},
back AS (INSERT INTO {ready} SELECT priority, due, seq, deliveries - 1 FROM gone)
SELECT {claims}, max({number}) FROM gone
"""
"""As if they had never been handed out."""

DEAD = """
WITH {gone},
{removed},
buried AS (
    INSERT INTO {letter} (source, id, key, ord, body, attempts, reason, error, at, headers, meta)
    SELECT 'queue/' || {queue}, m.id, m.key, m.seq, m.body, m.attempt + 1, o.reason, o.error,
        extract(epoch FROM statement_timestamp()), coalesce(nullif(m.headers, ''), '{{}}')::json,
        json_build_object('priority', gone.priority, 'sent_at', m.sent_at, 'dedup', m.dedup)
    FROM removed m JOIN gone USING (seq) JOIN unnest($1::bigint[], $2::text[], $3::text[], $4::text[])
        AS o (seq, nonce, reason, error) USING (seq, nonce) ON CONFLICT DO NOTHING)
SELECT {claims} FROM gone
"""

FREE = """
WITH gone AS (DELETE FROM {claim} WHERE owner = ANY ($1::text[]) RETURNING *),
back AS (INSERT INTO {ready} SELECT priority, due, seq, deliveries FROM gone)
SELECT count({number}) FROM gone
"""

OWNERS = """
WITH RECURSIVE step (owner) AS (
    SELECT min(owner) FROM {claim}
    UNION ALL
    SELECT (SELECT min(c.owner) FROM {claim} c WHERE c.owner > step.owner) FROM step WHERE step.owner IS NOT NULL)
SELECT owner FROM step WHERE owner IS NOT NULL
"""
"""Each by one seek in the index."""

GIVE_BACK = """
WITH gone AS (DELETE FROM {claim} WHERE owner = $1::text AND nonce = $2::text RETURNING *),
back AS (INSERT INTO {ready} SELECT priority, due, seq, deliveries - 1 FROM gone)
SELECT count({number}) FROM gone
"""
"""All claims of one receive."""

HELD = """
SELECT string_agg(o.seq || '.' || o.nonce, ' ') FROM {named} AS o (seq, nonce) CROSS JOIN LATERAL (
    SELECT FROM {claim} c WHERE c.seq = o.seq AND c.nonce = o.nonce LIMIT 1) held
"""


def groups(outcomes: Sequence[Outcome]) -> list[tuple[str, str, list[Outcome]]]:
    """The outcomes by queue and statement. Of two for one claim in a call the last counts."""
    asked = {outcome.delivery.claim: outcome for outcome in outcomes}

    def of(outcome: Outcome) -> tuple[str, str]:
        return outcome.delivery.queue, kind(outcome)

    return [(queue, what, list(found)) for (queue, what), found in groupby(sorted(asked.values(), key=of), key=of)]


def kind(outcome: Outcome) -> str:
    if not outcome.started:
        return "back"
    match outcome.verdict:
        case Done():
            return "done"
        case Later():
            return "later"
        case Dead():
            return "dead"


async def apply(link: Link, session: Session, outcomes: Sequence[Outcome]) -> set[str]:
    """Give each outcome effect if its claim is the one in the queue, inside the transaction of `link`; the claims that
    were. One statement for each kind and queue."""
    hits: set[str] = set()
    for queue, what, some in groups(outcomes):
        hits |= await give(link, session, queue, what, some)
    return hits


async def give(link: Link, session: Session, queue: str, what: str, outcomes: Sequence[Outcome]) -> set[str]:
    """Outcomes of one kind for one queue; the claims that took effect."""
    named = [(claim, outcome) for outcome in outcomes if (claim := parsed(outcome.delivery.claim))]
    if not named:
        return set()
    args: list[list[Any]] = [[claim[0] for claim, _ in named], [claim[1] for claim, _ in named]]
    if what == "later":
        verdicts = [outcome.verdict for _, outcome in named if isinstance(outcome.verdict, Later)]
        args += [[until(v.delay) for v in verdicts], [clean(v.reason) for v in verdicts],
                 [int(v.attempt) for v in verdicts]]  # fmt: skip
    elif what == "dead":
        args += [[clean(outcome.verdict.reason) for _, outcome in named if isinstance(outcome.verdict, Dead)],
                 [clean(outcome.error) for _, outcome in named]]  # fmt: skip
    sql = texts(session.names, queue, session.queue(queue).dedup_window)[what]
    return set((await link.fetchval(sql, *args) or "").split())


def outcome_statements(session: Session, outcome: Outcome) -> list[Statement]:
    """The same for a connection of the user's; only `Done`. It must change one row, or the claim is lost."""
    claim = parsed(outcome.delivery.claim)
    if claim is None or kind(outcome) != "done":
        raise ConfigurationError(f"{session.address.shown}: only Done can be part of a transaction of yours")
    queue = outcome.delivery.queue
    return [Statement(texts(session.names, queue, session.queue(queue).dedup_window)["done one"], claim)]


def parsed(claim: str) -> Claim | None:
    """The seq and the nonce; None for what is no claim of ours."""
    seq, _, nonce = claim.partition(".")
    return (int(seq), nonce) if seq.isdecimal() and len(seq) < 19 else None


def clean(text: str) -> str:
    """What a text column takes: an error's words may hold anything."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()


def texts(names: Names, queue: str, window: float) -> Mapping[str, str]:
    """The statements of one queue."""
    return _texts(tables(names, queue), literal(queue), float(window))


@cache
def _texts(t: Tables, queue: str, window: float) -> Mapping[str, str]:
    def fill(text: str, named: str = MANY, kept: str = "id, dedup", claims: str = CLAIMS) -> str:
        gone = GONE.format(claim=t.claim, named=named).strip()
        removed = REMOVED.format(dedup=t.dedup, message=t.message, queue=queue, window=repr(window), kept=kept).strip()
        return text.format(
            claim=t.claim, ready=t.ready, message=t.message, letter=t.letter, number=t.number, queue=queue,
            named=named, gone=gone, removed=removed, claims=claims,
        ).strip()  # fmt: skip

    return {
        "done": fill(DONE),
        "done one": fill(DONE, ONE, claims="seq"),
        "later": fill(LATER),
        "back": fill(BACK),
        "dead": fill(DEAD, kept="*"),
        "free": fill(FREE),
        "owners": fill(OWNERS),
        "give back": fill(GIVE_BACK),
        "held": fill(HELD),
    }
