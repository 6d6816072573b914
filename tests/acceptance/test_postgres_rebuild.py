"""pgbench as it comes, captured: its accounts are rebuilt elsewhere, row for row, while replicas come, go and die."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Fleet, Replica, until
from tests.servers import process
from tests.servers.postgres import Postgres

APP = "tests.acceptance.postgres_apps.rebuilding:app"
SECONDS = 60
CLIENTS = 8

COPY = "CREATE SCHEMA rebuilt; CREATE TABLE rebuilt.accounts (LIKE public.pgbench_accounts INCLUDING ALL);"
BESIDE = """
DELETE FROM pgbench_accounts WHERE aid % 1000 = 7;
UPDATE pgbench_accounts SET aid = aid + 1000000, filler = 'moved' WHERE aid % 1000 = 13;
INSERT INTO pgbench_accounts SELECT i, 1, 0, 'new' FROM generate_series(200001, 200100) i;
"""
DIFFERENT = """
SELECT (SELECT count(*) FROM (TABLE public.pgbench_accounts EXCEPT TABLE rebuilt.accounts) x),
       (SELECT count(*) FROM (TABLE rebuilt.accounts EXCEPT TABLE public.pgbench_accounts) x);
"""


def pgbench(server: Postgres, database: str, *words: str) -> subprocess.Popen[str]:
    line = [str(server.bin / "pgbench"), *words, server.url(database)]
    return subprocess.Popen(
        line, env=process.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip


async def finished(running: subprocess.Popen[str], limit: float) -> str:
    """What it printed."""
    try:
        said, _ = await asyncio.to_thread(running.communicate, timeout=limit)
    finally:
        running.kill()
    assert running.returncode == 0, said
    return said


def partitions(fleet: Fleet) -> list[dict[str, Any]]:
    """The partitions of the feed as `tidemill feed ls` tells them."""
    line = [sys.executable, "-m", "tidemill", "feed", "ls", APP, "--json", "--database", fleet.database]
    said = subprocess.run(line, env=fleet.environ("asked", 0, {}), capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    [feed] = json.loads(said.stdout)
    found: list[dict[str, Any]] = feed["partitions"]
    return found


class Coming:
    """Replicas that come and go."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.codes: list[int] = []
        self.killed: list[Replica] = []

    def start(self) -> Replica:
        return self.fleet.start(f"r{len(self.fleet.replicas)}")

    def kill(self, replica: Replica) -> None:
        replica.kill()
        self.killed.append(replica)

    async def stop(self, replica: Replica) -> None:
        self.codes.append(await replica.stop())

    async def run(self, first: Replica) -> None:
        """One to four of them, for about a minute."""
        await asyncio.sleep(4.0)
        second, third = self.start(), self.start()
        await asyncio.gather(second.ready(), third.ready())
        await asyncio.sleep(5.0)
        self.kill(first)
        await asyncio.sleep(5.0)
        fourth, fifth = self.start(), self.start()
        await asyncio.sleep(8.0)
        await self.stop(second)
        await asyncio.sleep(4.0)
        self.kill(third)
        await asyncio.sleep(6.0)
        sixth = self.start()
        await sixth.ready()
        await self.stop(fourth)
        await asyncio.sleep(2.0)
        self.kill(sixth)
        self.kill(fifth)
        await asyncio.sleep(3.0)
        last = self.start()
        await last.ready()


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_the_accounts_of_pgbench_are_rebuilt_row_for_row(tmp_path: Path, durable_postgres: Postgres) -> None:
    server = durable_postgres
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = server.create("bench")
        await finished(pgbench(server, "bench", "-i", "-s", "1", "-q"), 60.0)
        server.psql(COPY, "bench")
        coming = Coming(fleet)
        first = coming.start()
        await first.ready()  # from now on the triggers are there, and the old rows are on their way
        load = pgbench(server, "bench", "-c", f"{CLIENTS}", "-j", "1", "-T", f"{SECONDS}", "-b", "tpcb-like")
        try:
            changing = asyncio.create_task(coming.run(first))
            await asyncio.sleep(SECONDS / 2)
            await asyncio.to_thread(server.psql, BESIDE, "bench")
            said = await finished(load, SECONDS + 30.0)
            await changing
        finally:
            load.kill()
        ended = time.monotonic()
        await until(lambda: lag(fleet) == 0, 90.0, lambda: f"lag: {lag(fleet)}; {fleet.replicas[-1].tail()}", every=0.5)
        caught_up = time.monotonic() - ended
        different = await asyncio.to_thread(server.psql, DIFFERENT, "bench")
        rows = int(server.psql("SELECT count(*) FROM rebuilt.accounts", "bench"))
        parked = sum(part["parked"] + part["waiting"] for part in partitions(fleet))
        for replica in fleet.replicas:
            if replica.process.poll() is None:
                await coming.stop(replica)
    [tps] = [line for line in said.splitlines() if line.startswith("tps")]
    [transactions] = [int(line.rpartition(" ")[2]) for line in said.splitlines() if "actually processed" in line]
    applied = sum(int(line.words[1]) for line in fleet.journal.lines("applied"))
    print(f"{tps}, {transactions} in all; {rows} rows, {applied} changes applied; lag 0 after {caught_up:.1f} s")
    assert different == "0|0"
    assert rows == 100_000
    assert parked == 0
    assert applied >= 100_000 - 200 + transactions * 0.99  # what hit rows that were deleted is no change
    assert len(coming.killed) == 4
    assert set(coming.codes) == {0}


def lag(fleet: Fleet) -> int:
    """Changes that no checkpoint has passed."""
    return sum(part["lag"]["items"] if part["lag"] else 1 for part in partitions(fleet))
