"""kill -9 of the demo at seeded random moments, again and again: every order has one invoice, the totals are right."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from random import Random

import pytest

from examples.avalon.books import audit, count_invoices
from examples.avalon.system import System, rows

KILLS = 25
READY_WITHIN = 1.0
PATIENCE = 120.0


async def ready(system: System) -> float:
    """Wait until it is ready; the seconds since its modules were imported, which are Tidemill's own share."""
    await system.ready()
    now = time.time()
    return now - (await system.metrics())["process_start_time_seconds"]


async def until_billed(system: System, count: int) -> None:
    end = time.monotonic() + PATIENCE
    while (billed := await count_invoices(system.database)) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"{billed} of {count} invoices after {PATIENCE:g} s; the log is {system.log}")
        await asyncio.sleep(0.5)


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_kill_9_loses_nothing(tmp_path: Path) -> None:
    random = Random(536365)
    system = System(tmp_path)
    orders = rows()
    system.start()
    starts = [await ready(system)]
    sending = asyncio.create_task(system.send(orders))
    busy = 0
    try:
        for _ in range(KILLS):
            await asyncio.sleep(random.uniform(0.0, 1.2))
            busy += not sending.done()
            system.kill()
            system.start()
            starts.append(await ready(system))
        await asyncio.wait_for(sending, PATIENCE)
        await until_billed(system, len(orders))
    finally:
        code = await asyncio.to_thread(system.stop)
    assert code == 0
    books = await audit(system.database, orders)
    assert books.right, books
    assert books.orders == books.invoices == len(orders)
    assert busy > KILLS // 2, "the orders were all there long before the last kill"
    assert max(starts) <= READY_WITHIN, starts
