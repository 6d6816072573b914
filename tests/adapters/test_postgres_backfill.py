"""Rows that a captured table had before, under PostgreSQL: they come once, beside whoever writes."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.adapters.postgres_load import connected, opened
from tests.adapters.postgres_shop import CREATE, SHOP, Shop, body, shop_at
from tidemill.adapters.postgres import Postgres, backfill
from tidemill.errors import TidemillError
from tidemill.model import Logged, Page, TableSpec

FILL = "INSERT INTO parcels SELECT n, 'o' || n % 50, 'old' FROM generate_series(1, {}) n"


@pytest.fixture
async def shop(postgres_url: str) -> AsyncIterator[Shop]:
    async with shop_at(postgres_url) as found:
        await found.run(CREATE)
        yield found


async def begin(database: Postgres, spec: TableSpec = SHOP) -> dict[str, str]:
    feed = database.feed(spec)
    return {name: await feed.start(name, "beginning") for name in await feed.partitions()}


async def test_the_last_of_each_row_is_what_the_table_has(shop: Shop) -> None:
    await shop.run(FILL.format(5000))
    await shop.open(SHOP)
    until = time.monotonic() + 3
    writers = [asyncio.create_task(write(shop.url, until, seed)) for seed in range(4)]
    await asyncio.sleep(0.1)
    cursors, found = await begin(shop.database), list[Logged]()
    while not all(writer.done() for writer in writers):
        pages = await shop.database.feed(SHOP).read(cursors, 300, 0.2)
        for name, page in pages.items():
            assert isinstance(page, Page)
            cursors[name] = page.cursor
            found += page.changes
    await asyncio.gather(*writers)
    found += await shop.read_on(cursors)
    last = {change.document: change for change in found}
    there = {f"{row[0]}": row[1] for row in await shop.link.fetch("SELECT nr, note FROM parcels")}
    assert {id: body(change)["note"] for id, change in last.items() if change.kind == "put"} == there
    assert len({change.id for change in found}) == len(found)


async def write(url: str, until: float, seed: int) -> None:
    chance = random.Random(seed)
    async with connected(url) as link:
        while time.monotonic() < until:
            nr = chance.randrange(1, 5200)
            sql = chance.choice([
                "UPDATE parcels SET note = $2 WHERE nr = $1",
                "INSERT INTO parcels SELECT $1, 'o' || $1 % 50, $2 ON CONFLICT (nr) DO UPDATE SET note = excluded.note",
                "DELETE FROM parcels WHERE nr = $1 AND note <> $2",
            ])  # fmt: skip
            transaction = link.transaction()
            await transaction.start()
            await link.execute(sql, nr, f"{seed}/{time.monotonic()}")
            await asyncio.sleep(chance.random() * 0.005)
            await (transaction.commit() if chance.random() < 0.8 else transaction.rollback())


@pytest.mark.parametrize(
    ("columns", "filled"),
    [
        ("a int, b text, c int, PRIMARY KEY (a, b)", "SELECT n % 7, 'it''s ' || n, n"),
        ("b text PRIMARY KEY, c int", "SELECT 'ä ' || n, n"),
        ("c int, b uuid PRIMARY KEY", "SELECT n, gen_random_uuid()"),
        (
            "at timestamptz, c int, b numeric, PRIMARY KEY (at,b)",
            "SELECT 'epoch'::timestamptz + n * interval '1us', n, n",
        ),
        ("c int, b text, PRIMARY KEY (b) INCLUDE (c)", "SELECT n, n::text"),
        ("c int PRIMARY KEY, b text GENERATED ALWAYS AS ('x' || c::text) STORED", "SELECT n"),
        ('"C" bytea PRIMARY KEY, b int, c int', "SELECT decode(lpad(to_hex(n), 8, '0'), 'hex'), n, n"),
    ],
)
async def test_keys_of_all_kinds(shop: Shop, monkeypatch: pytest.MonkeyPatch, columns: str, filled: str) -> None:
    monkeypatch.setattr(backfill, "CHUNK", 100)
    spec = TableSpec("t", "t", id="b", key="c", partitions=2)
    await shop.run(f"CREATE TABLE t ({columns})", f"INSERT INTO t {filled} FROM generate_series(1, 777) n")
    await shop.open(spec)
    found = await shop.read_on(await begin(shop.database, spec), spec)
    assert Counter(change.key for change in found) == Counter(f"{n}" for n in range(1, 778))


@pytest.mark.parametrize("count", [0, 99, 100, 101, 200])
async def test_as_many_as_there_are(shop: Shop, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(backfill, "CHUNK", 100)
    await shop.run(FILL.format(count))
    await shop.open(SHOP)
    cursors = await begin(shop.database)
    assert len(await shop.read_on(cursors)) == count
    await shop.run("INSERT INTO parcels VALUES (1000, 'ann', 'new')")
    assert [change.document for change in await shop.read_on(cursors)] == ["1000"]


async def test_from_now_on_no_old_row_is_seen(shop: Shop) -> None:
    await shop.run(FILL.format(10))
    await shop.open(SHOP)
    await shop.read_on(await begin(shop.database))  # another reader has them copied
    await shop.run("INSERT INTO parcels VALUES (1000, 'ann', 'new')")
    assert await shop.short() == [("put", "1000", "ann")]


async def test_new_rows_above_the_old_come_once(shop: Shop) -> None:
    await shop.run(FILL.format(1500))
    await shop.open(SHOP)
    cursors = await begin(shop.database)
    await shop.run("INSERT INTO parcels VALUES (2000, 'ann', 'new')")
    found = Counter(change.document for change in await shop.read_on(cursors))
    assert found == Counter([*map(str, range(1, 1501)), "2000"])


async def test_a_crash_in_the_middle(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who copied is gone, with its connections; another goes on where it was."""
    monkeypatch.setattr(backfill, "CHUNK", 50)
    await shop.run(FILL.format(1000))
    found = list[Logged]()
    cursors: dict[str, str] = {}
    for _ in range(6):
        async with opened(shop.url, SHOP) as database:
            cursors = cursors or await begin(database)
            reading = asyncio.create_task(read_until_lost(database, cursors, found))
            await asyncio.sleep(random.uniform(0.05, 0.15))
            await shop.run(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'tidemill%'"
            )
            await asyncio.wait_for(reading, 20)
    await shop.open(SHOP)
    found += await shop.read_on(cursors)
    assert Counter(change.document for change in found) == Counter(map(str, range(1, 1001)))


async def read_until_lost(database: Postgres, cursors: dict[str, str], found: list[Logged]) -> None:
    try:
        while True:
            for name, page in (await database.feed(SHOP).read(cursors, 40, 0.3)).items():
                assert isinstance(page, Page)
                cursors[name] = page.cursor
                found += page.changes
    except TidemillError:
        return


async def test_several_copy_at_once(postgres_url: str, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "CHUNK", 50)
    await shop.run(FILL.format(1000))
    async with opened(postgres_url, SHOP) as one, opened(postgres_url, SHOP) as two:
        places = [await begin(one), await begin(two)]

        async def read(database: Postgres, cursors: dict[str, str]) -> list[Logged]:
            found = list[Logged]()
            while len(found) < 1000:
                for name, page in (await database.feed(SHOP).read(cursors, 70, 0.5)).items():
                    assert isinstance(page, Page)
                    cursors[name] = page.cursor
                    found += page.changes
            return found

        for found in await asyncio.gather(read(one, places[0]), read(two, places[1])):
            assert Counter(change.document for change in found) == Counter(map(str, range(1, 1001)))
    assert json.loads(await shop.link.fetchval("SELECT backfill FROM tidemill.source")) == "done"
