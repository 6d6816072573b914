"""The examples do what they say."""

from __future__ import annotations

import subprocess
import sys
from datetime import date
from decimal import Decimal
from pathlib import Path

import httpx

from examples.avalon.api import api
from examples.avalon.app import app, bill, days, documents, invoices, orders, totals
from examples.avalon.models import Order
from tidemill import Change
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness

EXACTLY_ONCE = Path(__file__).parents[1] / "examples" / "exactly_once.py"
DAY = date(2011, 12, 9)


def an_order(number: int, total: str = "9.99", customer: str = "17850") -> Order:
    return Order(number=str(number), day=DAY, customer=customer, total=Decimal(total))


def test_exactly_once(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(EXACTLY_ONCE)], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "10 of 10 balances are right" in ran.stdout


async def test_avalon_bills_each_order_and_adds_up_the_days() -> None:
    async with Harness(app) as harness:
        await orders.put_many([an_order(n, total="1.10") for n in range(20)])
        await orders.put(an_order(99, total="5.00", customer="13047"))
        await harness.idle()
        found = {document.id: document.value.amount async for document in documents.all()}
        assert found == {str(n): Decimal("1.10") for n in range(20)} | {"99": Decimal("5.00")}
        total = await totals.get(f"17850-{DAY}")
        assert total is not None
        assert total.value.sum == Decimal("22.00")
        assert {seen.verdict for seen in harness.verdicts} == {"done"}


async def test_avalon_counts_a_change_seen_twice_once() -> None:
    async with Harness(app) as harness:
        order = an_order(536365, total="139.12")
        await orders.put(order)
        await harness.idle()
        again = next(seen.id for seen in harness.verdicts if seen.worker == "bill")
        await bill(Change(again, order.number, order.customer, order, None, 0.0))
        await invoices.send(order)
        await harness.idle()
        assert len([document async for document in documents.all()]) == 1
        total = await totals.get(f"17850-{DAY}")
        assert total is not None
        assert total.value.orders == {"536365": Decimal("139.12")}


async def test_avalon_answers_over_http() -> None:
    async with (
        Harness(app) as harness,
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://avalon") as client,
    ):
        posted = await client.post("/orders", json=an_order(7, total="3.50").model_dump(mode="json"))
        assert posted.status_code == 201
        assert (await client.get("/invoices/7")).status_code == 404
        await harness.idle()
        assert (await client.get("/invoices/7")).json()["amount"] == "3.50"
        assert (await client.get(f"/totals/17850/{DAY}")).json() == {"orders": 1, "sum": "3.50"}


async def test_avalon_closes_each_day_once_for_all_replicas() -> None:
    before_three = 1_323_399_600.0  # 2011-12-09 03:00 in London
    clock = FakeClock(start=before_three - 60)
    async with Harness(app, clock=clock) as first:
        async with Harness(app, clock=clock, database=first.places.main, replica="other"):
            await first.advance("5m")
        closings = [document.value async for document in days.all()]
    assert [closing.day for closing in closings] == [date(2011, 12, 8)]
