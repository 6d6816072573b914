"""Two thousand small worlds. One alone: `SIMULATION_SEED=17 pytest tests/simulation -k alone`."""

from __future__ import annotations

import os

import pytest

from tests.simulation.checker import check, report
from tests.simulation.world import run

SEEDS = int(os.environ.get("SIMULATION_SEEDS", "2000"))
CHUNK = 50


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
async def test_no_invariant_breaks(first: int) -> None:
    for seed in range(first, min(first + CHUNK, SEEDS)):
        world = await run(seed)
        found = check(world)
        assert not found, report(world, found)


async def test_a_few_worlds_of_each_kind() -> None:
    for seed in range(10):
        world = await run(seed)
        found = check(world)
        assert not found, report(world, found)


async def test_a_seed_alone() -> None:
    world = await run(int(os.environ.get("SIMULATION_SEED", "17")))
    found = check(world)
    assert not found, report(world, found)


async def test_a_seed_is_the_same_world_each_time() -> None:
    first, again = await run(7), await run(7)
    assert first.history.lines == again.history.lines
    assert len(first.history.runs_of) > 50
