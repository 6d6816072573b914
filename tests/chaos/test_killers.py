"""A message and a change that kill their process are found, kept apart, and put aside; all others pass."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock

MOST_STARTS = 20


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["message", "change"])
async def test_what_kills_its_process_is_put_aside(tmp_path: Path, kind: str) -> None:
    seen = tmp_path / "seen"
    os.environ["SEEN"] = str(seen)
    database = f"sqlite:///{tmp_path / 'work.db'}"
    from tests.chaos.apps.killers import app, jobs, things

    async with app.client(database=database):
        if kind == "message":
            await jobs.send_many([{"n": n} for n in range(20)])
        else:
            await things.put_many([{"id": f"{n}", "key": f"k{n}", "n": n} for n in range(20)])
    starts = 0
    while _innocents(seen, kind) < 19 or not await _put_aside(tmp_path, kind):
        starts += 1
        assert starts <= MOST_STARTS, seen.read_text()
        _run_until_it_dies_or_is_done(database, seen, kind)
    lines = seen.read_text().splitlines()
    assert {line for line in lines if line.startswith(kind)} == {f"{kind} {n}" for n in range(20) if n != 7}
    assert 1 <= lines.count(f"kill {kind}") <= 6


def _innocents(seen: Path, kind: str) -> int:
    lines = seen.read_text().splitlines() if seen.exists() else []
    return len({line for line in lines if line.startswith(kind)})


async def _put_aside(folder: Path, kind: str) -> bool:
    backend = SQLite(folder / "work.db", SystemClock())
    await backend.open([], [])
    counts = await backend.dead_letters().count("queue/" if kind == "message" else "feed/")
    await backend.close()
    return sum(counts.values()) == 1


def _run_until_it_dies_or_is_done(database: str, seen: Path, kind: str) -> None:
    command = [sys.executable, "-m", "tidemill", "run", "tests.chaos.apps.killers:app", "--database", database]
    env = os.environ | {"TIDEMILL_HEALTH_PORT": "0", "TIDEMILL_HEALTH_HOST": "127.0.0.1"}
    with subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        kills = seen.read_text().count("kill") if seen.exists() else 0
        for turn in range(100):
            time.sleep(0.1)
            if process.poll() is not None:
                return
            if _innocents(seen, kind) == 19 and kills and turn > 60:
                break
        process.terminate()
        process.wait(60)
