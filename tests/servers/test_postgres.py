"""The servers that other tests stand on."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.servers import postgres as servers
from tests.servers.fixtures import server_folder
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own() -> Iterator[Postgres]:
    """One that a test may end."""
    if servers.find() is None:
        pytest.skip(servers.MISSING)
    with server_folder("postgres") as folder:
        server = Postgres.start_in(folder, work_mem="5MB")
        yield server
        server.stop()


def test_it_runs_with_its_settings_and_not_as_root(own: Postgres) -> None:
    assert int(own.psql("SHOW server_version_num")) // 10_000 == servers.version(own.bin)
    assert [own.psql(f"SHOW {name}") for name in ("work_mem", "fsync", "server_encoding")] == ["5MB", "off", "UTF8"]
    assert psutil.Process(own.pid).uids().real != 0


def test_statements_that_fail_say_why(own: Postgres) -> None:
    with pytest.raises(RuntimeError, match='relation "nothing" does not exist'):
        own.psql("SELECT * FROM nothing")


def test_databases_are_separate(own: Postgres) -> None:
    own.create("one")
    own.create("two")
    own.psql("CREATE TABLE here (a int)", "one")
    assert own.psql("SELECT to_regclass('here') IS NULL", "two") == "t"
    own.drop("one")
    own.drop("two")


def test_data_outlive_restart_crash_and_kill(own: Postgres) -> None:
    own.create("kept")
    own.psql("CREATE TABLE kept (how text); INSERT INTO kept VALUES ('committed')", "kept")

    def kill() -> None:
        own.kill()
        own.start()

    ends: list[Callable[[], None]] = [own.restart, lambda: own.restart("immediate"), kill]
    for end in ends:
        before, pid = psutil.Process(own.pid).children(), own.pid
        end()
        assert own.pid != pid
        assert not any(child.is_running() for child in before)
        assert own.psql("SELECT how FROM kept", "kept") == "committed"
    own.drop("kept")


def test_stopped_twice_is_stopped(own: Postgres) -> None:
    own.stop()
    own.stop()
    own.start()


async def test_started_from_a_thread_it_outlives_the_thread(own: Postgres) -> None:
    await asyncio.get_running_loop().run_in_executor(None, own.restart)
    await asyncio.get_running_loop().shutdown_default_executor()
    assert own.psql("SELECT 1") == "1"


async def test_a_database_goes_also_when_somebody_is_connected(postgres: Postgres) -> None:
    connection = await asyncpg.connect(postgres.create("busy"))
    postgres.drop("busy")
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
        await connection.fetchval("SELECT 1")
    connection.terminate()
    assert postgres.psql("SELECT count(*) FROM pg_database WHERE datname = 'busy'") == "0"


async def test_a_fresh_database_is_empty(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
    await connection.close()


async def test_pgbouncer_passes_a_query_through(pgbouncer: PgBouncer, postgres_url: str) -> None:
    database = postgres_url.rpartition("/")[2]
    connection = await asyncpg.connect(pgbouncer.url(database), statement_cache_size=0)
    assert await connection.fetchval("SELECT current_database()") == database
    await connection.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells children that their parent died")
def test_it_ends_when_whoever_started_it_is_killed(tmp_path: Path) -> None:
    if servers.find() is None:
        pytest.skip(servers.MISSING)
    script = """if True:
        import sys, time
        from pathlib import Path
        from tests.servers.postgres import Postgres
        print(Postgres.start_in(Path(sys.argv[1])).pid, flush=True)
        time.sleep(60)
    """
    with server_folder("postgres") as folder:
        line = [sys.executable, "-c", script, f"{folder}"]
        with subprocess.Popen(line, stdout=subprocess.PIPE, cwd=ROOT) as starter:
            assert starter.stdout is not None
            server = psutil.Process(int(starter.stdout.readline()))
            os.kill(starter.pid, signal.SIGKILL)
        _, left = psutil.wait_procs([server], timeout=30)
        assert left == []
