"""The store: small records under compare-and-swap. Versions are drawn from one sequence, so none comes twice.

Every swap waits for the disk: a lease that a crash forgets would have two owners. The records of a call are locked in
the order of their keys, so that two calls cannot wait for each other.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import TypeVar

from tidemill.adapters.postgres.link import Link
from tidemill.adapters.postgres.session import Session
from tidemill.model import Gone, Record, Stale, Swap, Swapped, Value

T = TypeVar("T")

GET = "SELECT key, version, value FROM {s}.record WHERE key = ANY ($1)"

SCAN = """
SELECT key, version, value FROM {s}.record
WHERE key > $1 AND key >= $2 AND starts_with(key, $2) AND ($3::text IS NULL OR key < $3) ORDER BY key LIMIT $4
"""

SWAP = """
WITH wanted AS (SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[]) AS w (key, version, value)),
locked AS (SELECT key FROM {s}.record WHERE key = ANY ($1) ORDER BY key FOR UPDATE),
gone AS (
    DELETE FROM {s}.record r USING wanted w
    WHERE r.key = w.key AND r.version = w.version AND w.value IS NULL AND (SELECT count(*) FROM locked) >= 0
    RETURNING r.key),
changed AS (
    UPDATE {s}.record r SET version = nextval('{s}.version_seq'), value = w.value::json FROM wanted w
    WHERE r.key = w.key AND r.version = w.version AND w.value IS NOT NULL AND (SELECT count(*) FROM locked) >= 0
    RETURNING r.key, r.version),
made AS (
    INSERT INTO {s}.record SELECT w.key, nextval('{s}.version_seq'), w.value::json FROM wanted w
    WHERE w.version IS NULL AND w.value IS NOT NULL ORDER BY w.key ON CONFLICT DO NOTHING
    RETURNING key, version)
SELECT key, 0 FROM gone UNION ALL SELECT * FROM changed UNION ALL SELECT * FROM made
"""
"""What took effect, with the new version. `locked` is asked for only so that it is read first."""


SIGNALS = ("bell/", "control/")
"""Every replica reads these many times a second, and they seldom change. The watch sees whether one has, and who writes
one has the others look at once; so what was read of them counts until then."""


class Store:
    """`ports.Store` in one table."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        if not all(key.startswith(SIGNALS) for key in keys):
            return await self._get(keys)
        return await self._signals(tuple(keys), lambda: self._get(keys))

    async def _get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        if not keys:
            return []
        rows = await self._session.control.fetch(sql(self._session, GET), list(keys))
        found = {row[0]: record(*row) for row in rows}
        return [found.get(key) for key in keys]

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        if not prefix.startswith(SIGNALS):
            return await self._scan(prefix, after, limit)
        return await self._signals((prefix, after, limit), lambda: self._scan(prefix, after, limit))

    async def _signals(self, asked: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """What was read before, if nothing of the kind has changed since."""
        version, heard = self._session.watch.signals, self._session.heard
        if version is None:
            return await read()
        known = heard.get(asked)
        if known is None or known[0] != version:
            known = heard[asked] = version, await read()
        found: T = known[1]
        return found

    async def _scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        args = (after, prefix, successor(prefix), limit)
        rows = await self._session.control.fetch(sql(self._session, SCAN), *args)
        return [record(*row) for row in rows]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        found: list[Swapped] = []
        rest = list(swaps)
        while rest:  # several swaps of one key are made one after the other
            now = rest[: first_repeat(rest)]
            async with self._session.control.one() as link:
                found += await swap_all(link, self._session, now)
            rest = rest[len(now) :]
        if any(swap.key.startswith(SIGNALS) for swap in swaps):
            self._session.heard.clear()
            self._session.watch.poke()
        return found


def first_repeat(swaps: Sequence[Swap]) -> int:
    """How many swaps there are before a key comes again."""
    seen: set[str] = set()
    for place, swap in enumerate(swaps):
        if swap.key in seen:
            return place
        seen.add(swap.key)
    return len(swaps)


async def swap_all(link: Link, session: Session, swaps: Sequence[Swap]) -> list[Swapped]:
    """Swaps of different keys, on a connection that may be in a transaction."""
    keys = [swap.key for swap in swaps]
    values = [None if swap.value is None else dumps(swap.value) for swap in swaps]
    hits = dict(await link.fetch(sql(session, SWAP), keys, [version_of(swap) for swap in swaps], values))
    missed = [swap.key for swap in swaps if swap.key not in hits]
    current: dict[str, Record] = {}
    if missed:
        current = {row[0]: record(*row) for row in await link.fetch(sql(session, GET), missed)}
    found: list[Swapped] = []
    for swap in swaps:
        if swap.key not in hits:
            there = current.get(swap.key)
            nothing = swap.value is None and swap.version is None and there is None
            found.append(Gone(swap.key) if nothing else Stale(swap.key, there))
        elif swap.value is None:
            found.append(Gone(swap.key))
        else:
            found.append(Record(swap.key, str(hits[swap.key]), swap.value))
    return found


def sql(session: Session, text: str) -> str:
    return text.format(s=session.names.schema)


def version_of(swap: Swap) -> int | None:
    """As a number; a text that was never a version of ours fits no record."""
    if swap.version is None:
        return None
    return int(swap.version) if swap.version.isdecimal() and len(swap.version) < 19 else -1


def successor(prefix: str) -> str | None:
    """A text above all that start with the prefix, for the index; None if there is none."""
    if not prefix or ord(prefix[-1]) >= 0xD7FF:
        return None
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def record(key: str, version: int, value: str) -> Record:
    found: Value = json.loads(value)
    return Record(key, str(version), found)


def dumps(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
