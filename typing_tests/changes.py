# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""Read by type checkers only. What is marked must be an error: a mark without one fails the check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, assert_type

from tidemill import App, Change, Context, Deletion, Done, Later


@dataclass
class Order:
    number: str


@dataclass
class Invoice:
    number: str


app = App("typed")
orders = app.collection("orders", Order, id="number")
customers = app.table("customers", id="id")
invoices = app.table("invoices", Invoice, id="number")


# --- handlers that fit --------------------------------------------------------------------------------------


@app.on_change(orders)
async def alone(change: Change[Order]) -> None:
    assert_type(change.value, Order)
    assert_type(change.before, Order | None)


@app.on_change(orders)
def plain(change: Change[Order], context: Context) -> None: ...


@app.on_change(orders, start="now", concurrency=4)
async def deletes_too(change: Change[Order] | Deletion[Order]) -> None: ...


@app.on_change(orders, batch=50)
async def batch(changes: list[Change[Order]]) -> list[Done | Later]:
    return [Done() for _ in changes]


@app.on_change(orders, batch=50)
def batch_with_deletes(changes: Sequence[Change[Order] | Deletion[Order]]) -> None: ...


@app.on_change(customers)
async def rows(change: Change[dict[str, Any]]) -> None: ...


@app.on_change(invoices)
async def typed_rows(change: Change[Invoice]) -> None: ...


async def direct_calls(order: Change[Order], deletion: Deletion[Order], other: Change[Invoice]) -> None:
    await alone(order)
    await deletes_too(deletion)
    await batch([order])
    await alone(deletion)  # type: ignore[arg-type]
    await alone(other)  # type: ignore[arg-type]


# --- handlers that do not fit -------------------------------------------------------------------------------


@app.on_change(orders)  # type: ignore[arg-type]
async def other_document(change: Change[Invoice]) -> None: ...


@app.on_change(orders)  # type: ignore[arg-type]
async def bare_document(order: Order) -> None: ...


@app.on_change(orders)  # type: ignore[arg-type]
async def deletes_only(change: Deletion[Order]) -> None: ...


@app.on_change(orders)  # type: ignore[arg-type]
def list_without_batch(changes: list[Change[Order]]) -> None: ...


@app.on_change(orders, batch=9)  # type: ignore[arg-type]
async def one_of_a_batch(change: Change[Order]) -> None: ...


@app.on_change(orders, batch=9)  # type: ignore[arg-type]
def batch_of_others(changes: list[Change[Invoice]]) -> None: ...


@app.on_change(customers)  # type: ignore[arg-type]
async def rows_of_another_type(change: Change[Order]) -> None: ...


app.on_change(orders, start="yesterday")  # type: ignore[call-overload]
app.on_change(orders, on_poison="ignore")  # type: ignore[call-overload]
app.on_change(app.queue("q", Order))  # type: ignore[call-overload]
