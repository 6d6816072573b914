"""The commit that spans the parts: one transaction each, all or nothing.

The order inside: the fence (leases of `finished`, locked so that nobody takes them meanwhile, then the finished rows),
claims, writes, messages, swaps. An unknown commit may be repeated: with `finished` rows the second finds them and is
`repeated`; with outcomes alone the handle knows its own claims again; a commit of neither applies again like any write.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from tidemill.adapters.postgres.documents import rounds, write_all
from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.queue import apply
from tidemill.adapters.postgres.session import Session
from tidemill.adapters.postgres.store import swap_all
from tidemill.adapters.postgres.stream import insert_all
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
    Swap,
)

FENCE = "SELECT value::text FROM {s}.record WHERE key = $1 FOR SHARE"


class _Undone(Exception):
    """Carries the result of a commit that must not take effect."""

    def __init__(self, result: CommitResult) -> None:
        self.result = result


def check(session: Session, commit: Commit) -> None:
    """Raise what can be known before any I/O."""
    for body in (item.body for item in (*commit.writes, *commit.messages) if not isinstance(item, Delete)):
        session.check_body(body)
    for item in commit.writes:
        session.source(item.collection)
    for message in commit.messages:
        session.queue(message.queue)


async def commit_one(session: Session, commit: Commit) -> CommitResult:
    """Apply one commit in a transaction of its own."""
    try:
        async with session.data.transaction() as link:
            result = await steps(link, session, commit)
            if not isinstance(result, Committed) or result.repeated:
                raise _Undone(result)
    except _Undone as undone:
        return undone.result
    session.settled.remember(commit.outcomes)
    return result


async def steps(link: Link, session: Session, commit: Commit) -> CommitResult:
    for finished in commit.finished:
        if not await fence_holds(link, session, finished):
            return Fenced()
    if commit.finished:
        rows = [Swap(finished_key(one), None, {"epoch": one.epoch}) for one in commit.finished]
        if not all(isinstance(made, Record) for made in await swap_all(link, session, rows)):
            return Committed(repeated=True)
    if commit.outcomes:
        hits = await apply(link, session, commit.outcomes)
        missed = [outcome for outcome in commit.outcomes if outcome.delivery.claim not in hits]
        if missed:
            ours = not hits and all(session.settled.repeated(outcome) for outcome in missed)
            return Committed(repeated=True) if ours else Fenced()
    written: list[Stored | Gone] = []
    for batch in rounds(commit.writes):
        for result in await write_all(link, session, session.source(batch[0].collection), batch):
            if isinstance(result, Mismatch):
                return Conflicted(result)
            written.append(result)
    sent = await insert_all(link, session, commit.messages) if commit.messages else ()
    swapped: list[Record | Gone] = []
    if commit.swaps:
        for record in await swap_all(link, session, commit.swaps):
            if isinstance(record, Stale):
                return Conflicted(record)
            swapped.append(record)
    return Committed(tuple(written), tuple(sent), tuple(swapped))


async def fence_holds(link: Link, session: Session, finished: Finished) -> bool:
    text = await link.fetchval(FENCE.format(s=session.names.schema), finished.lease)
    if text is None:
        return False
    lease = json.loads(text)
    return bool(lease.get("epoch") == finished.epoch and lease.get("nonce") == finished.nonce)


def finished_key(finished: Finished) -> str:
    return f"finished/{finished.lease}/{finished.change}"


def wakes(commits: Sequence[Commit]) -> bool:
    """Whether somebody else may have something to do now."""
    return any(commit.writes or commit.messages or commit.outcomes for commit in commits)
