"""Writers on a few hot rows, and what a reader of their changes must find."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import asyncpg

from tidemill.adapters.postgres import Postgres
from tidemill.adapters.postgres.windows import RANKS
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Commit, Logged, Page, Put, Source, TableSpec

TABLE = TableSpec("rows", "hot", id="id", key="grp", partitions=4)
COLLECTION = CollectionSpec("notes", partitions=4)
ROWS, GROUPS = 15, 4
LOST = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)

CREATE = f"""
CREATE TABLE hot (id int PRIMARY KEY, grp text NOT NULL, n int NOT NULL);
CREATE TABLE counted (id int PRIMARY KEY, n int NOT NULL);
INSERT INTO hot SELECT i, 'g' || i % {GROUPS}, 0 FROM generate_series(1, {ROWS}) i;
INSERT INTO counted SELECT i, 0 FROM generate_series(1, {ROWS}) i;
"""


@asynccontextmanager
async def opened(url: str, *sources: Source) -> AsyncIterator[Postgres]:
    database = Postgres.from_url(url, SystemClock())
    await database.open(sources, [])
    try:
        yield database
    finally:
        await database.close()


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A program of somebody else's."""
    link = await asyncpg.connect(url)
    try:
        yield link
    finally:
        await link.close(timeout=5)


@dataclass
class Change:
    """Before `asked` it was not written, after `committed` it was there."""

    asked: float
    committed: float = 0.0


@dataclass
class Written:
    """The changes that were committed, by row (`hot/1`) and number."""

    changes: dict[str, dict[int, Change]] = field(default_factory=lambda: defaultdict(dict))

    @property
    def count(self) -> int:
        return sum(map(len, self.changes.values()))


async def write(url: str, database: Postgres, until: float, seed: int, written: Written) -> None:
    """Transactions on hot rows of the table and of the collection, each row with a counter raised under its lock."""
    chance = random.Random(seed)
    async with connected(url) as link:
        while time.monotonic() < until:
            made: list[tuple[str, int, Change]] = []
            transaction = link.transaction()
            await transaction.start()
            if chance.random() < 0.3:
                await link.execute("SELECT pg_current_xact_id()")  # older than its turn at any row
                await asyncio.sleep(chance.random() * 0.01)
            for id in sorted(chance.sample(range(1, ROWS + 1), chance.choice([1, 1, 2, 4]))):
                saved = link.transaction()
                await saved.start()
                change = Change(time.monotonic())
                row, n = await _touch(link, database, id, table=chance.random() < 0.6)
                if chance.random() < 0.15:
                    await saved.rollback()
                else:
                    await saved.commit()
                    made.append((row, n, change))
            if chance.random() < 0.2:
                await transaction.rollback()
                continue
            await transaction.commit()
            now = time.monotonic()
            for row, n, change in made:
                assert n not in written.changes[row]
                change.committed = now
                written.changes[row][n] = change


async def _touch(link: asyncpg.Connection, database: Postgres, id: int, *, table: bool) -> tuple[str, int]:
    if table:
        return f"hot/{id}", await link.fetchval("UPDATE hot SET n = n + 1 WHERE id = $1 RETURNING n", id)
    n = await link.fetchval("UPDATE counted SET n = n + 1 WHERE id = $1 RETURNING n", id)
    write = Put(COLLECTION.name, f"{id}", f"{id}", json.dumps({"n": n}).encode())
    for statement in database.statements(Commit(writes=(write,))):
        await link.execute(statement.sql, *statement.args)
    return f"note/{id}", n


@dataclass
class Found:
    """What a reader was given: by partition in order, and when each change came first."""

    changes: dict[str, list[Logged]] = field(default_factory=lambda: defaultdict(list))
    at: dict[tuple[str, int], float] = field(default_factory=dict)


def row_of(source: Source, change: Logged) -> tuple[str, int]:
    word = "hot" if source is TABLE else "note"
    return f"{word}/{change.document}", json.loads(change.body or b"")["n"]


async def read(database: Postgres, source: Source, found: Found, stop: asyncio.Event, limit: int) -> None:
    """Read until the writers have stopped and there is nothing left."""
    feed = database.feed(source)
    cursors = {name: await feed.start(name, "now") for name in await feed.partitions()}
    while True:
        last = stop.is_set()
        pages = await feed.read(cursors, limit, 0.0 if last else 0.5)
        now = time.monotonic()
        more = False
        for name, page in pages.items():
            assert isinstance(page, Page), page
            cursors[name] = page.cursor
            found.changes[f"{source.name}/{name}"] += page.changes
            more = more or bool(page.changes)
            for change in page.changes:
                found.at.setdefault(row_of(source, change), now)
        if last and not more:
            return


def check(written: Written, found: Found) -> None:
    """Nothing lost, nothing twice, no row's change out of turn; and keys of several rows as far as it is promised."""
    for name, changes in found.changes.items():
        source = TABLE if name.startswith("rows/") else COLLECTION
        assert len({change.id for change in changes}) == len(changes), "nothing comes twice"
        assert [change.order for change in changes] == sorted({change.order for change in changes})
        came: dict[str, list[int]] = defaultdict(list)
        for change in changes:
            row, n = row_of(source, change)
            came[row].append(n)
        for row, numbers in came.items():
            assert numbers == sorted(written.changes[row]), f"{row}: lost or out of order"
        if source is TABLE:
            for group in {change.key for change in changes}:
                _check_key(written, [change for change in changes if change.key == group])
    assert len(found.at) == written.count, "nothing is lost"


def _check_key(written: Written, changes: Sequence[Logged]) -> None:
    """Of one key, in the order of their numbers within a window; and what was committed before another was written
    comes before it."""
    latest = float("-inf")  # the last moment at which one of those that came already was not yet written
    for change in changes:
        row, n = row_of(TABLE, change)
        one = written.changes[row][n]
        assert one.committed >= latest
        latest = max(latest, one.asked)
    for before, after in pairwise(changes):
        assert before.order >> RANKS < after.order >> RANKS or int(before.id) < int(after.id)


def delays(written: Written, found: Found) -> list[float]:
    """Seconds from each commit to the change's delivery, sorted."""
    return sorted(
        found.at[row, n] - change.committed for row, numbers in written.changes.items() for n, change in numbers.items()
    )


async def run(url: str, *, writers: int, seconds: float, idle: float, limit: int = 200) -> tuple[Written, list[float]]:
    """Two processes read the table and the collection while so many write; what was written, and the delays.

    Meanwhile one transaction that has written a row, and one that has only its number, do nothing for `idle` seconds.
    """
    written, found, stop = Written(), Found(), asyncio.Event()
    async with connected(url) as link, connected(url) as numbered, connected(url) as lazy:
        await link.execute(CREATE)
        async with opened(url, TABLE, COLLECTION) as one, opened(url, TABLE, COLLECTION) as two:
            readers = [
                asyncio.create_task(read(database, source, found, stop, limit))
                for database, source in ((one, TABLE), (two, COLLECTION))
            ]
            await asyncio.sleep(0.3)
            await numbered.execute("BEGIN; SELECT pg_current_xact_id()")
            await lazy.execute("BEGIN")
            late = Change(time.monotonic())
            await lazy.execute("INSERT INTO hot VALUES (99, 'g1', 1)")
            until = time.monotonic() + seconds
            tasks = [asyncio.create_task(write(url, one, until, seed, written)) for seed in range(writers)]
            await asyncio.sleep(idle)
            before = len(found.at)
            await lazy.execute("COMMIT")
            await numbered.execute("COMMIT")
            late.committed = time.monotonic()
            written.changes["hot/99"][1] = late
            await asyncio.gather(*tasks)
            await asyncio.sleep(0.1)
            stop.set()
            await asyncio.gather(*readers)
    assert before > 0.8 * min(1.0, idle / seconds) * written.count, "nobody waits for the idle ones"
    check(written, found)
    return written, delays(written, found)
