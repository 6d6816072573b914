"""The change feed of a PostgreSQL server where it could break: order, trimming, copies of the database, crashes."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from tests.adapters import postgres_load as load
from tests.adapters.postgres_load import COLLECTION, CREATE, TABLE, connected, opened
from tests.servers.fixtures import server_folder
from tests.servers.postgres import Postgres as Server
from tests.servers.process import environment
from tidemill.adapters.postgres import Postgres, feed, trimming
from tidemill.errors import TidemillError
from tidemill.model import Commit, Expired, Logged, Page, Put

LONG = 1e6


async def start(database: Postgres, at: str = "beginning") -> dict[str, str]:
    handle = database.feed(COLLECTION)
    return {name: await handle.start(name, "now" if at == "now" else "beginning") for name in await handle.partitions()}


async def put(database: Postgres, *ids: object) -> None:
    await database.documents(COLLECTION).write([Put("notes", f"{id}", f"{id}", b"{}") for id in ids])


async def read_on(database: Postgres, cursors: dict[str, str], limit: int = 100) -> list[Logged]:
    found: list[Logged] = []
    while True:
        pages = await database.feed(COLLECTION).read(cursors, limit, 0.0)
        for name, page in pages.items():
            assert isinstance(page, Page)
            cursors[name] = page.cursor
            found += page.changes
        if not any(isinstance(page, Page) and page.changes for page in pages.values()):
            return found


@pytest.fixture
async def database(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Postgres]:
    monkeypatch.setattr(trimming, "SETTLED", 0)
    monkeypatch.setattr(trimming, "ROTATE", 1)
    monkeypatch.setattr(feed, "MARKS", 0.0)
    async with opened(postgres_url, COLLECTION) as found:
        yield found


async def test_all_changes_in_order_beside_idle_transactions(postgres_url: str) -> None:
    written, delays = await load.run(postgres_url, writers=10, seconds=6, idle=6)
    assert written.count > 300
    assert delays[int(len(delays) * 0.99)] <= 1.0


# --- trimming ---------------------------------------------------------------------------------------------------


async def sizes(url: str) -> tuple[int, list[int]]:
    """The child that is written, and how many rows each has."""
    async with connected(url) as link:
        slot = await link.fetchval("SELECT slot FROM tidemill.source")
        return slot, [await link.fetchval(f"SELECT count(*) FROM tidemill.log_notes_{n}") for n in range(3)]


async def test_children_are_emptied_and_written_in_turn(database: Postgres, postgres_url: str) -> None:
    cursors = await start(database)
    slots: list[int] = []
    for n in range(7):
        await put(database, *range(20 * n, 20 * n + 20))
        assert len(await read_on(database, cursors)) == 20
        for _ in range(3):
            await database.feed(COLLECTION).trim(cursors, LONG)
        slot, counts = await sizes(postgres_url)
        slots.append(slot)
        assert sum(counts) <= 40
        assert counts[slot] == 0
    assert slots == [1, 2, 0, 1, 2, 0, 1]
    assert await read_on(database, await start(database)) == []


async def test_nothing_that_somebody_has_yet_to_read_is_emptied(database: Postgres, postgres_url: str) -> None:
    behind, ahead = await start(database), await start(database)
    for n in range(5):
        await put(database, *range(20 * n, 20 * n + 20))
        await read_on(database, ahead)
        for _ in range(3):
            await database.feed(COLLECTION).trim(behind, LONG)
    assert len(await read_on(database, behind, 7)) == 100


async def test_nobody_who_has_the_log_open_is_waited_for(database: Postgres, postgres_url: str) -> None:
    cursors = await start(database)
    await put(database, *range(20))
    async with connected(postgres_url) as writer, connected(postgres_url) as reader:
        await writer.execute("BEGIN")
        for statement in database.statements(Commit(writes=(Put("notes", "late", "late", b"{}"),))):
            await writer.execute(statement.sql, *statement.args)
        await reader.execute("BEGIN")
        await reader.fetch("SELECT * FROM tidemill.log_notes")
        await read_on(database, cursors)
        begun = time.monotonic()
        for _ in range(6):
            await database.feed(COLLECTION).trim(cursors, LONG)
        assert time.monotonic() - begun < 3
        await put(database, "beside")
        assert [change.document for change in await read_on(database, cursors)] == ["beside"]
        await writer.execute("COMMIT")
        await reader.execute("COMMIT")
    assert [change.document for change in await read_on(database, cursors)] == ["late"]
    for _ in range(6):
        await database.feed(COLLECTION).trim(cursors, LONG)
        await put(database, "more")
        await read_on(database, cursors)
    assert sum((await sizes(postgres_url))[1]) <= 4


async def test_only_who_is_behind_is_told(database: Postgres, postgres_url: str) -> None:
    behind, half, ahead = await start(database), await start(database), await start(database)
    await put(database, *range(40))
    pages = await database.feed(COLLECTION).read(half, 5, 0.0)
    half = {name: page.cursor for name, page in pages.items() if isinstance(page, Page)}
    await read_on(database, ahead)
    await asyncio.sleep(0.3)
    while await database.feed(COLLECTION).trim({}, 0.2):
        pass
    await put(database, *range(100, 140))
    for _ in range(4):
        await database.feed(COLLECTION).trim({}, LONG)
    for cursors in (behind, half):
        told = await database.feed(COLLECTION).read(cursors, 100, 0.0)
        assert all(isinstance(page, Expired) for page in told.values())
        new = {name: page.cursor for name, page in told.items() if isinstance(page, Expired)}
        assert len(await read_on(database, new)) == 40
    assert len(await read_on(database, ahead)) == 40


async def test_old_ticks_are_thinned(database: Postgres, postgres_url: str) -> None:
    behind, cursors = await start(database), await start(database)
    for n in range(30):
        await put(database, n)
        await read_on(database, cursors)
    async with connected(postgres_url) as link:
        await link.execute("UPDATE tidemill.tick SET at = at - interval '1 hour' WHERE id > 1")
        assert await link.fetchval("SELECT count(*) FROM tidemill.tick") > 20
        await database.feed(COLLECTION).trim(behind, LONG)
        assert await link.fetchval("SELECT count(*) FROM tidemill.tick") > 20, "a reader may need them"
        cursors = await start(database, "now")
        await database.feed(COLLECTION).trim(cursors, LONG)
        assert await link.fetchval("SELECT count(*) FROM tidemill.tick") <= 4
    await put(database, "new")
    assert [change.document for change in await read_on(database, cursors)] == ["new"]


# --- another cluster --------------------------------------------------------------------------------------------


@pytest.fixture
def second() -> Iterator[Server]:
    """A server that a test may stop, and fill with the dump of another."""
    with server_folder("second") as folder:
        server = Server.start_in(folder)
        try:
            yield server
        finally:
            server.stop()


class Rows:
    """A reader of the hot table; each row's counter tells what it must be given."""

    def __init__(self) -> None:
        self.cursors: dict[str, str] = {}
        self.came: dict[str, list[int]] = defaultdict(list)

    async def read(self, database: Postgres, limit: int, pages: int = 1_000_000) -> None:
        handle = database.feed(TABLE)
        if not self.cursors:
            self.cursors = {name: await handle.start(name, "now") for name in await handle.partitions()}
        for _ in range(pages):
            found = await handle.read(self.cursors, limit, 0.0)
            self.keep(found)
            if not any(isinstance(page, Page) and page.changes for page in found.values()):
                return

    def keep(self, found: object) -> None:
        assert isinstance(found, dict)
        for name, page in found.items():
            assert isinstance(page, Page)
            self.cursors[name] = page.cursor
            for change in page.changes:
                n = json.loads(change.body or b"")["n"]
                if n not in self.came[change.document]:
                    self.came[change.document].append(n)

    async def check(self, url: str) -> None:
        """Each row's counts came, from the first to what is in the table, in order at their first time."""
        async with connected(url) as link:
            for row in await link.fetch("SELECT id, n FROM hot WHERE n > 0"):
                assert self.came[f"{row[0]}"] == list(range(1, row[1] + 1)), f"row {row[0]}"


@asynccontextmanager
async def raising(url: str, every: float = 0.0) -> AsyncIterator[None]:
    """Meanwhile several writers raise counters, whatever happens to their connections."""

    async def write(seed: int) -> None:
        n = seed
        while True:
            try:
                async with connected(url) as link:
                    while True:
                        n += 1
                        await link.execute("UPDATE hot SET n = n + 1 WHERE id % 4 = $1", n % 4)
                        await asyncio.sleep(every)
            except (*load.LOST, TimeoutError):
                await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(write(seed)) for seed in range(4)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_dump_that_is_restored_in_another_cluster(postgres: Server, postgres_url: str, second: Server) -> None:
    reader, up_to_date = Rows(), Rows()
    async with connected(postgres_url) as link, connected(postgres_url) as lazy:
        await link.execute(CREATE)
        async with opened(postgres_url, TABLE) as database:
            await reader.read(database, 5)
            await up_to_date.read(database, 5)
            async with raising(postgres_url, 0.005):
                await asyncio.sleep(0.3)
                await lazy.execute("BEGIN")
                await lazy.execute("INSERT INTO hot VALUES (50, 'g1', 1)")
                await asyncio.sleep(0.3)
            await reader.read(database, 7, pages=9)
            await up_to_date.read(database, 100)
            await lazy.execute("COMMIT")  # its number is below the last tick's
        await link.execute("UPDATE hot SET n = n + 1")  # no tick knows of this
    dump = subprocess.run(
        [postgres.bin / "pg_dump", postgres_url], env=environment(), capture_output=True, text=True, check=True
    ).stdout
    url = second.create("restored")
    await asyncio.to_thread(second.psql, dump, "restored")
    async with connected(url) as link:
        for _ in range(3):
            await link.execute("UPDATE hot SET n = n + 1")  # nobody of ours has looked yet
    async with opened(url, TABLE) as database, opened(url, TABLE) as other:
        await reader.read(database, 3, pages=5)
        async with raising(url, 0.005):
            await asyncio.sleep(0.3)
            await up_to_date.read(other, 4, pages=20)
        await reader.read(other, 6)
        await up_to_date.read(database, 100)
    for one in (reader, up_to_date):
        await one.check(url)


async def test_writers_go_on_while_the_restored_copy_is_opened(
    postgres: Server, postgres_url: str, second: Server
) -> None:
    reader = Rows()
    async with connected(postgres_url) as link:
        await link.execute(CREATE)
        async with opened(postgres_url, TABLE) as database:
            await reader.read(database, 5)
            await link.execute("UPDATE hot SET n = n + 1")
            await reader.read(database, 5)
    dump = subprocess.run(
        [postgres.bin / "pg_dump", postgres_url], env=environment(), capture_output=True, text=True, check=True
    ).stdout
    url = second.create("restored")
    await asyncio.to_thread(second.psql, dump, "restored")
    async with raising(url), connected(url) as lazy:
        await lazy.execute("BEGIN")
        await lazy.execute("INSERT INTO hot VALUES (50, 'g1', 1)")
        end = asyncio.create_task(ended_after(lazy, 0.5))
        await asyncio.sleep(0.2)
        async with opened(url, TABLE), opened(url, TABLE) as database:
            await end
            await reader.read(database, 50, pages=20)
    async with opened(url, TABLE) as database:
        await reader.read(database, 500)
    await reader.check(url)


async def ended_after(link: asyncpg.Connection, seconds: float) -> None:
    await asyncio.sleep(seconds)
    await link.execute("COMMIT")


# --- crashes ----------------------------------------------------------------------------------------------------


async def test_a_server_that_is_killed_right_after_reads(second: Server) -> None:
    """Ticks that were not on the disk are gone then, and cursors that stand at them lose nothing."""
    url, reader = second.create("crashes"), Rows()
    async with connected(url) as link:
        await link.execute(CREATE)
    async with opened(url, TABLE) as database:
        await reader.read(database, 5)
        async with raising(url):
            for n in range(6):
                end = time.monotonic() + 0.7
                while time.monotonic() < end:
                    try:
                        reader.keep(await database.feed(TABLE).read(reader.cursors, 30, 0.05))
                    except TidemillError:
                        await asyncio.sleep(0.02)
                if n < 5:
                    await asyncio.to_thread(second.restart, "immediate")
        while True:
            try:
                await reader.read(database, 200)
                break
            except TidemillError:
                await asyncio.sleep(0.1)
    await reader.check(url)
