"""kill -9 of the demo at seeded random moments, again and again: every order has one invoice, the totals are right."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from examples.avalon.books import audit, count_invoices
from examples.avalon.system import System, rows

KILLS = 25
ORDERS = 6_000
READY_WITHIN = 1.0
START_OF_PYTHON = 2.0
"""Seconds that a start may take beside Tidemill's own (imports on a busy machine)."""


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    random = Random(536365)
    system = System(tmp_path)
    orders = rows(ORDERS)
    system.start()
    first = await system.ready()
    sending = asyncio.create_task(system.send(orders))
    slowest = 0.0
    for _ in range(KILLS):
        await asyncio.sleep(random.uniform(0.2, 2.0))
        system.kill()
        system.start()
        slowest = max(slowest, await system.ready())
    await sending
    for _ in range(600):
        if await count_invoices(system.database) >= len(orders):
            break
        await asyncio.sleep(0.5)
    await asyncio.sleep(2.0)
    assert await asyncio.to_thread(system.stop) == 0
    books = await audit(system.database, orders)
    assert books.right, books
    assert books.orders == books.invoices == len(orders)
    assert slowest <= first + READY_WITHIN + START_OF_PYTHON, (first, slowest)
