"""Four processes share sixty-four partitions on a server: joined by others, told to end one by one, killed.

Each round writes one change into every partition, in one call, and each change carries the moment before that call:
the longest wait of a partition's changes is the gap it had while one owner was gone and the next had not begun.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
import pytest

from tests.acceptance.deliveries import doubles, in_order, item
from tests.acceptance.journal import Line
from tests.acceptance.processes import Fleet, Replica, percentile, until
from tests.servers.postgres import Postgres
from tidemill.errors import TidemillError

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]

PARTITIONS = 64
PAUSE = 0.1
"""Seconds between two rounds."""
CHECKPOINT = 1.0
EVEN = [16, 16, 16, 16]

OWNERS = "SELECT split_part(key, '/', 3) AS part, value->>'owner' FROM tidemill.record WHERE key LIKE 'lease/watch/%'"
MEMBERS = (
    "SELECT value->>'name', substr(key, 8) FROM tidemill.record"
    " WHERE key LIKE 'member/%' AND value->>'state' IS DISTINCT FROM 'buried'"
)
COVER = (
    "SELECT DISTINCT ON (p) p, 'k' || i FROM (SELECT i, tidemill.part('k' || i, $1) AS p"
    " FROM generate_series(1, $1 * 20) i) x ORDER BY p, i"
)


class Division:
    """The fleet, and what a writer writes beside it."""

    def __init__(self, fleet: Fleet, server: Postgres, link: asyncpg.Connection) -> None:
        self.fleet = fleet
        self.server = server
        self.written: dict[tuple[str, int], float] = {}
        self.partition: dict[str, int] = {}
        self._link = link
        self._writing = True

    async def owners(self) -> dict[int, str]:
        return {int(part): owner for part, owner in await self._link.fetch(OWNERS) if owner}

    async def shares(self) -> list[int]:
        return sorted(Counter((await self.owners()).values()).values())

    async def owned_by(self, replica: Replica) -> set[int]:
        """The partitions that this replica holds now."""
        members = {id for name, id in await self._link.fetch(MEMBERS) if name == replica.name}
        return {part for part, owner in (await self.owners()).items() if owner in members}

    async def balanced(self, shares: list[int], limit: float) -> float:
        """Wait for these shares; the seconds that took."""
        began = time.monotonic()
        while (now := await self.shares()) != shares:
            if time.monotonic() - began > limit:
                raise TimeoutError(f"shares after {limit:g} s: {now}")
            await asyncio.sleep(0.05)
        return time.monotonic() - began

    async def cover(self) -> None:
        """A key for each partition."""
        self.partition = {key: part for part, key in await self._link.fetch(COVER, PARTITIONS)}
        assert len(self.partition) == PARTITIONS

    async def write(self) -> None:
        """One round after the other, evenly."""
        from tests.acceptance.postgres_apps.dividing import app, things

        async with app.client(database=self.fleet.database):
            n, began = 0, time.monotonic()
            while self._writing:
                now = time.monotonic()
                self.written |= {(key, n): now for key in self.partition}
                await things.put_many([{"id": key, "key": key, "n": n} for key in self.partition])
                n += 1
                await asyncio.sleep(max(began + n * PAUSE - time.monotonic(), 0.0))

    async def finish(self, writing: asyncio.Task[None]) -> list[Line]:
        """Write no more, and wait until all is handled; the journal."""
        self._writing = False
        await writing
        await until(lambda: not self.missing(), 30.0, lambda: f"lost: {sorted(self.missing())[:5]}")
        return self.fleet.journal.lines()

    def missing(self) -> set[tuple[str, int]]:
        return self.written.keys() - {item(line) for line in self.fleet.journal.lines("end")}

    def gaps(self, since: float, to: float) -> dict[int, float]:
        """For each partition: the longest wait, from the write to the first start, of what was written then."""
        first: dict[tuple[str, int], float] = {}
        for line in self.fleet.journal.lines("start"):
            first.setdefault(item(line), line.at)
        longest: dict[int, float] = {}
        for (key, n), at in self.written.items():
            if since <= at <= to and (key, n) in first:
                part = self.partition[key]
                longest[part] = max(longest.get(part, 0.0), first[key, n] - at)
        return longest


@asynccontextmanager
async def division(
    folder: Path, server: Postgres, url: str, monkeypatch: pytest.MonkeyPatch, replicas: int
) -> AsyncIterator[tuple[Division, asyncio.Task[None]]]:
    """So many replicas that share the work evenly, and a writer."""
    with Fleet(folder, "tests.acceptance.postgres_apps.dividing:app") as fleet:
        fleet.database = url
        monkeypatch.setenv("JOURNAL", str(fleet.journal.path))
        importlib.invalidate_caches()
        link = await asyncpg.connect(url)
        made = Division(fleet, server, link)
        writing: asyncio.Task[None] | None = None
        try:
            begun = [fleet.start(f"r{n}") for n in range(replicas)]
            await asyncio.gather(*(replica.ready() for replica in begun))
            await made.balanced([PARTITIONS // replicas] * replicas, 15.0)
            await made.cover()
            writing = asyncio.create_task(made.write())
            await asyncio.sleep(3.0)
            yield made, writing
        finally:
            if writing is not None:
                writing.cancel()
                with suppress(TidemillError):
                    await asyncio.wait([writing])
            await link.close()


async def test_who_joins_has_its_share_within_five_seconds_and_nothing_comes_twice(
    tmp_path: Path, postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with division(tmp_path, postgres, postgres_url, monkeypatch, 1) as (made, writing):
        second = made.fleet.start("r1")
        await second.ready()
        took = [await made.balanced([32, 32], 10.0)]
        await asyncio.sleep(3.0)
        third, fourth = made.fleet.start("r2"), made.fleet.start("r3")
        await asyncio.gather(third.ready(), fourth.ready())
        took.append(await made.balanced(EVEN, 10.0))
        await asyncio.sleep(3.0)
        lines = await made.finish(writing)
        twice = doubles(lines)
        codes = await asyncio.gather(*(replica.stop() for replica in made.fleet.replicas))
    print(f"balanced {took[0]:.2f} s and {took[1]:.2f} s after the newcomers were ready; {len(made.written)} changes")
    assert max(took) <= 5.0
    assert twice == []
    assert in_order(lines)
    assert codes == [0] * 4


async def test_who_is_told_to_end_leaves_gaps_below_half_a_second(
    tmp_path: Path, postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gaps: list[float] = []
    async with division(tmp_path, postgres, postgres_url, monkeypatch, 4) as (made, writing):
        for turn in range(6):
            leaving = made.fleet.replicas[turn]
            had = await made.owned_by(leaving)
            assert len(had) == 16
            told = time.monotonic()
            assert await leaving.stop() == 0
            await made.balanced([21, 21, 22], 10.0)
            ended = time.monotonic()
            await asyncio.sleep(2.0)
            found = made.gaps(told - 1.0, ended)
            gaps += [found[part] for part in had]
            comer = made.fleet.start(f"next{turn}")
            await comer.ready()
            await made.balanced(EVEN, 10.0)
            await asyncio.sleep(1.0)
        lines = await made.finish(writing)
    p50, p99 = percentile(gaps, 0.5), percentile(gaps, 0.99)
    print(f"{len(gaps)} hand-overs: gap p50 {p50:.3f} s, p99 {p99:.3f} s, longest {max(gaps):.3f} s")
    assert p99 <= 0.5
    assert doubles(lines) == []
    assert in_order(lines)


async def test_who_is_killed_is_followed_within_sixteen_seconds(
    tmp_path: Path, postgres: Postgres, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with division(tmp_path, postgres, postgres_url, monkeypatch, 4) as (made, writing):
        killed_one = made.fleet.replicas[0]
        had = await made.owned_by(killed_one)
        assert len(had) == 16
        killed_one.kill()
        killed = time.monotonic()
        await asyncio.sleep(18.0)
        lines = await made.finish(writing)
        gaps = made.gaps(killed - 1.0, killed + 18.0)
        others = max(gap for part, gap in gaps.items() if part not in had)
        codes = await asyncio.gather(*(replica.stop() for replica in made.fleet.replicas[1:]))
    longest = max(gaps[part] for part in had)
    again = doubles(lines)
    print(f"followed after {longest:.2f} s at most; {len(again)} came twice; others waited {others:.2f} s at most")
    assert 5.0 < longest <= 16.0
    assert all(first.at >= killed - CHECKPOINT - 0.5 for first, _ in again)
    assert in_order(lines)
    assert codes == [0] * 3
