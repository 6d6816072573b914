"""Five processes share a timer; the one that runs it is killed, twice: each occurrence once, in order, none early."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from tests.acceptance.journal import Line
from tests.acceptance.processes import Fleet, Replica, until

SECONDS = 60
REPLICAS = 5
CATCH_UP = 20.0
"""Seconds in which what was missed during two take-overs (0.3 s each) is surely caught up."""


@pytest.mark.chaos
@pytest.mark.timeout(240)
async def test_each_second_has_its_run_though_its_holder_is_killed_twice(tmp_path: Path) -> None:
    with Fleet(tmp_path, "tests.acceptance.apps.ticking:app") as fleet:
        replicas = [fleet.start(f"r{n}") for n in range(REPLICAS)]
        await asyncio.gather(*(replica.ready() for replica in replicas))
        await until(lambda: len(_of(fleet, "end")) >= 2, 20.0)
        first = int(_of(fleet, "start")[0].words[1])
        offset = time.time() - time.monotonic()
        kills = []
        for after in (15, 25):
            await asyncio.sleep(after)
            kills.append(await _kill_the_holder(fleet, replicas))
        last = first + SECONDS - 1
        await until(lambda: last in _ended(fleet), SECONDS + CATCH_UP, lambda: f"ended: {sorted(_ended(fleet))[-5:]}")
        codes = [await replica.stop() for replica in replicas if replica.process.poll() is None]
    assert codes == [0] * (REPLICAS - len(kills))
    _check(_of(fleet), range(first, last + 1), offset, kills)


def _of(fleet: Fleet, *words: str) -> list[Line]:
    return fleet.journal.lines(*words)


def _ended(fleet: Fleet) -> set[int]:
    return {int(line.words[1]) for line in _of(fleet, "end")}


async def _kill_the_holder(fleet: Fleet, replicas: list[Replica]) -> float:
    """kill -9 of whoever is in the middle of a run; the moment."""
    while True:
        line = _of(fleet)[-1]
        if line.words[0] == "start":
            [holder] = [replica for replica in replicas if replica.pid == line.process]
            holder.kill()
            return time.monotonic()
        await asyncio.sleep(0.01)


def _check(lines: list[Line], expected: range, offset: float, kills: list[float]) -> None:
    starts = [line for line in lines if line.words[0] == "start"]
    ended = [int(line.words[1]) for line in lines if line.words[0] == "end"]
    assert set(expected) <= set(ended), set(expected) - set(ended)
    assert len(ended) == len(set(ended)), "an occurrence ended twice"
    for line in starts:
        assert line.at + offset >= int(line.words[1]) - 0.05, f"early: {line}"
    again = [line for line in starts if line.words[2] != "1"]
    assert len(again) <= len(kills)
    assert all(line.words[2] == "2" for line in again)
    assert len(starts) == len(set(ended)) + len(again), "a run that nobody killed was started twice"
    running: Line | None = None
    for line in lines:
        if line.words[0] == "start":
            died = running is not None and any(running.at <= kill <= line.at for kill in kills)
            assert running is None or died, f"{line} began while {running} ran"
            running = line
        else:
            assert running is not None
            assert line.words == ("end", *running.words[1:])
            running = None
