"""Avalon's web API: plain FastAPI. It runs in the same process model; the handles are the ones of the workers."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from fastapi import FastAPI, HTTPException

from examples.avalon.app import documents, orders, totals
from examples.avalon.models import Invoice, Order

api = FastAPI(title="Avalon")


@api.post("/orders", status_code=201)
async def post_order(order: Order) -> dict[str, str]:
    """Durable when it answers. The same order again is the same order."""
    stored = await orders.put(order)
    return {"number": stored.id, "etag": stored.etag}


@api.get("/invoices/{number}")
async def get_invoice(number: str) -> Invoice:
    found = await documents.get(number)
    if found is None:
        raise HTTPException(404, f"no invoice {number} (yet)")
    return found.value


@api.get("/totals/{customer}/{day}")
async def get_total(customer: str, day: date) -> dict[str, int | Decimal]:
    found = await totals.get(f"{customer}-{day}")
    if found is None:
        raise HTTPException(404, f"nothing from {customer} on {day}")
    return {"orders": len(found.value.orders), "sum": found.value.sum}
