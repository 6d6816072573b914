"""Avalon on Cosmos DB and Storage Queue by settings alone: the code is that of the demo, the services are a double of
the one and Azurite. It is killed in the middle, and its books are right."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from examples.avalon.books import audit
from examples.avalon.system import Row, System, rows
from tests.acceptance.processes import until
from tests.servers.azurite import Account
from tests.servers.cosmos_process import Double
from tests.servers.cosmos_process import double as double

ORDERS = 1_000

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


async def test_avalon_on_cosmos_and_storage_queue(
    tmp_path: Path, double: Double, azurite: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMILL_QUEUES__INVOICES__URL", azurite.url("&claim=5&poll=1"))
    orders = rows(ORDERS)
    system = System(tmp_path, double.url)
    system.start()
    try:
        await system.ready()
        sent: list[None] = []
        sending = asyncio.create_task(system.send(orders, sent=lambda: sent.append(None)))
        await until(lambda: len(sent) >= ORDERS // 2, 200, system.log.read_text)
        system.kill()
        system.start()
        await system.ready()
        await sending
        wrong = await _settled(system, orders)
        assert wrong == "", wrong
        assert await asyncio.to_thread(system.stop) == 0
    finally:
        system.kill()


async def _settled(system: System, orders: list[Row]) -> str:
    """Wait for the books to be complete; what is wrong with them then."""
    async with asyncio.timeout(300):
        while (books := await audit(system.database, orders)).lost:
            await asyncio.sleep(2)
    return "" if books.right and books.invoices == ORDERS else repr(books)
