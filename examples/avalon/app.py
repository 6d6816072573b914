"""Avalon: orders come in over HTTP, become invoices, and each customer's days are totalled.

    web API → orders → change feeder → invoices queue → processor → invoice documents
                              └→ day totals              └ rates, kept fresh by a timer and judged by a rule

Everything is delivered at least once, so everything here may run twice and be right: an invoice is named after its
order, and a total keeps the numbers of its orders.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

from examples.avalon.models import Closing, Invoice, Order, Total
from tidemill import App, Backoff, Change, Context, Depends, Health


class Rates:
    """Exchange rates to pounds. Avalon's customers pay in pounds, so there is one rate, and it is 1."""

    def __init__(self) -> None:
        self.to_pounds: dict[str, Decimal] = {}
        self.loaded = float("-inf")

    def load(self) -> None:
        self.to_pounds = {"GBP": Decimal(1)}
        self.loaded = time.monotonic()

    @property
    def age(self) -> float:
        return time.monotonic() - self.loaded


rates = Rates()


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    rates.load()
    yield


app = App("avalon", api="examples.avalon.api:api", lifespan=lifespan)
orders = app.collection("orders", Order, id="number", key="customer")
totals = app.collection("totals", Total, id="id", key="customer")
documents = app.collection("invoices", Invoice, id="number", key="customer")
days = app.collection("days", Closing, id="day")
invoices = app.queue("invoices", Order)


@app.on_change(orders, start="beginning", concurrency=64)
async def bill(change: Change[Order]) -> None:
    """The change feeder: each new order goes to the processor, and into its customer's day."""
    order = change.value
    await invoices.send(order, dedup=change.id)
    id = f"{order.customer}-{order.day}"

    def add(total: Total | None) -> Total:
        before = total.orders if total else {}
        return Total(id=id, customer=order.customer, day=order.day, orders=before | {order.number: order.total})

    await totals.update(id, add)


@app.on_message(invoices, concurrency=64, retry=Backoff(attempts=10), time_limit="30s")
async def send_invoice(order: Order, rates: Annotated[Rates, Depends(lambda: rates)]) -> None:
    """The queue processor: the invoice document is named after the order, so a second run writes the same one."""
    amount = order.total / rates.to_pounds["GBP"]
    await documents.put(
        Invoice(number=order.number, customer=order.customer, day=order.day, amount=amount, currency="GBP")
    )


@app.every("30s", per_replica=True, group="queues")
async def refresh_rates() -> None:
    """In each process that uses rates, because each has its own."""
    rates.load()


@app.health("rates", of=send_invoice)
def rates_are_fresh() -> Health:
    """In no process that does not."""
    age = rates.age
    return Health.healthy() if age < 120 else Health.degraded(f"not refreshed for {age:.0f} s")


@app.cron("0 3 * * *", tz="Europe/London")
async def close_day(context: Context) -> None:
    """Once for all replicas, each night, however many of them there are."""
    assert context.scheduled_at is not None
    day = context.scheduled_at.date() - timedelta(days=1)
    await days.put(Closing(day=day, at=context.scheduled_at.isoformat()))
