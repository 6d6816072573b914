"""A server that restarts, ends its connections, or has none left, and replicas that are frozen and killed, under load.

After each of it: everything committed has taken effect exactly once, each row in order, and all is as fast as before.
"""

from __future__ import annotations

import asyncio
import re
import signal
import time
from pathlib import Path

import asyncpg
import psutil
import pytest

from tests.acceptance.processes import Replica, until
from tests.chaos.counted import DRIVER, OTHERS, Counted, counted
from tests.servers.postgres import Mode, Postgres

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]


async def test_ten_restarts_of_the_server(
    tmp_path: Path, durable_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counted(tmp_path, durable_postgres, monkeypatch) as (made, before):
        modes: list[Mode] = ["fast", "immediate"]
        for turn in range(10):
            await asyncio.to_thread(durable_postgres.restart, modes[turn % 2])
            await asyncio.sleep(3.0)
        await asyncio.gather(*(replica.ready(10.0) for replica in made.alive))
        await made.recovered("ten restarts", before)
        assert made.crashed() == []
        assert await made.stop() == [0] * 3


async def test_all_connections_ended_every_half_second(
    tmp_path: Path, durable_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counted(tmp_path, durable_postgres, monkeypatch) as (made, before):
        link = await asyncpg.connect(durable_postgres.url())
        end, ended = time.monotonic() + 60.0, 0
        while time.monotonic() < end:
            ended += len(await link.fetch(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) x"))
            await asyncio.sleep(0.5)
        await link.close()
        await made.recovered(f"{ended} connections ended", before)
        assert ended > 300
        assert made.crashed() == []
        assert await made.stop() == [0] * 3


async def test_no_connection_left_for_five_seconds(
    tmp_path: Path, durable_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counted(tmp_path, durable_postgres, monkeypatch) as (made, before):
        for _ in range(4):
            await exhaust(durable_postgres, 5.0)
            await asyncio.sleep(4.0)
        await asyncio.gather(*(replica.ready(10.0) for replica in made.alive))
        await made.recovered("no connection left, four times", before)
        assert made.crashed() == []
        assert await made.stop() == [0] * 3


async def exhaust(server: Postgres, seconds: float) -> None:
    """Take all connections there are, those of the others too, and hold them."""
    first = await asyncpg.connect(server.url())
    held = [first]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            held.append(await asyncpg.connect(server.url(), timeout=2.0))
        except asyncpg.TooManyConnectionsError:
            mine = [link.get_server_pid() for link in held]
            await first.execute(f"SELECT pg_terminate_backend(pid) FROM ({OTHERS}) x WHERE pid <> ALL ($1)", mine)
            await asyncio.sleep(0.02)
        except DRIVER:
            await asyncio.sleep(0.02)
    assert len(held) >= 55
    await asyncio.gather(*(link.close() for link in held))


async def test_a_replica_that_stands_still_for_twenty_seconds(
    tmp_path: Path, durable_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counted(tmp_path, durable_postgres, monkeypatch) as (made, before):
        sleeper = made.fleet.replicas[0]
        sleeper.signal(signal.SIGSTOP)
        await asyncio.sleep(20.0)
        sleeper.signal(signal.SIGCONT)
        await sleeper.ready(10.0)
        await made.recovered("a replica stopped for 20 s", before)
        assert made.crashed() == []
        assert await made.stop() == [0] * 3


async def test_a_replica_killed_every_three_seconds(
    tmp_path: Path, durable_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counted(tmp_path, durable_postgres, monkeypatch) as (made, before):
        killed: list[Replica] = []
        for turn in range(15):
            [victim] = [replica for replica in made.alive if replica.name == f"r{turn % 3}"]
            victim.kill()
            killed.append(victim)
            made.start(victim.name)
            await asyncio.sleep(3.0)
        await asyncio.gather(*(replica.ready(20.0) for replica in made.alive))
        await made.recovered(f"{len(killed)} kills", before)
        assert made.crashed(killed) == []
        assert await made.stop() == [0] * 3


async def test_a_server_that_is_away_costs_little_and_is_said(
    tmp_path: Path, durable_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with counted(tmp_path, durable_postgres, monkeypatch) as (made, before):
        lines = {replica.name: len(replica.log.read_text().splitlines()) for replica in made.alive}
        await asyncio.to_thread(durable_postgres.stop)
        said = await unready(made, 10.0)
        used = {replica.name: spent(replica) for replica in made.alive}
        await asyncio.sleep(5.0)
        used = {replica.name: spent(replica) - used[replica.name] for replica in made.alive}
        live = {replica.probe("/livez")[0] for replica in made.alive}
        await asyncio.sleep(10.0)
        await asyncio.to_thread(durable_postgres.start)
        back = max(await asyncio.gather(*(replica.ready(10.0) for replica in made.alive)))
        lines = {one.name: len(one.log.read_text().splitlines()) - lines[one.name] for one in made.alive}
        print(f"\nnot ready after {said:.1f} s, ready {back:.1f} s after; CPU in 5 s {used}; lines logged {lines}")
        await made.recovered("an outage of 20 s", before)
        assert live == {200}
        assert max(used.values()) <= 1.5
        assert max(lines.values()) <= 100
        for replica in made.alive:
            assert not re.search("Traceback|never retrieved", replica.log.read_text())
        assert made.crashed() == []
        assert await made.stop() == [0] * 3


async def unready(made: Counted, limit: float) -> float:
    return await until(lambda: {replica.probe("/readyz")[0] for replica in made.alive} == {503}, limit)


def spent(replica: Replica) -> float:
    times = psutil.Process(replica.pid).cpu_times()
    return float(times.user + times.system)
