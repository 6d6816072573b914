# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""Read by type checkers only. What is marked must be an error: a mark without one fails the check."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, assert_type

from tidemill import App, Context, Dead, Depends, Document, Done, Later


@dataclass
class Order:
    number: str


@dataclass
class Invoice:
    number: str


app = App("typed")
invoices = app.queue("invoices", Invoice)


def tax() -> float:
    return 0.2


# --- handlers that fit --------------------------------------------------------------------------------------


@app.on_message(invoices)
async def alone(invoice: Invoice) -> None: ...


@app.on_message(invoices)
def plain(invoice: Invoice) -> None: ...


@app.on_message(invoices, concurrency=3, time_limit="30s")
async def with_more(invoice: Invoice, context: Context, rate: Annotated[float, Depends(tax)]) -> Done | Dead:
    return Done() if context.attempt == 1 else Dead(f"{invoice.number} {rate}")


@app.on_message(invoices)
async def with_default(invoice: Invoice, *, rate: float = Depends(tax)) -> None: ...


@app.on_message(invoices)
async def wider(invoice: Invoice | Order) -> None: ...


@app.on_message(invoices)
async def anything(invoice: Any) -> None: ...


@app.on_message(invoices, batch=100)
async def batch(invoices: list[Invoice]) -> list[Done | Later]:
    return [Done() for _ in invoices]


@app.on_message(invoices, batch=100)
def plain_batch(invoices: Sequence[Invoice], context: Context) -> None: ...


async def direct_calls() -> None:
    """A direct call is the unit test: the function keeps its type."""
    assert_type(await alone(Invoice("1")), None)
    assert_type(plain(Invoice("1")), None)
    assert_type(await batch([Invoice("1")]), list[Done | Later])
    await alone(Order("1"))  # type: ignore[arg-type]
    await alone()  # type: ignore[call-arg]
    await with_more(Invoice("1"), 7, 0.1)  # type: ignore[arg-type]


def kept() -> Callable[[Invoice], Awaitable[None]]:
    return alone


# --- handlers that do not fit -------------------------------------------------------------------------------


@app.on_message(invoices)  # type: ignore[arg-type]
async def other_type(order: Order) -> None: ...


@app.on_message(invoices)  # type: ignore[arg-type]
def other_type_plain(order: Order) -> None: ...


@app.on_message(invoices)  # type: ignore[arg-type]
async def nothing_taken() -> None: ...


@app.on_message(invoices)  # type: ignore[arg-type]
async def list_without_batch(invoices: list[Invoice]) -> None: ...


@app.on_message(invoices, batch=10)  # type: ignore[arg-type]
async def one_of_a_batch(invoice: Invoice) -> None: ...


@app.on_message(invoices, batch=10)  # type: ignore[arg-type]
async def batch_of_others(orders: list[Order]) -> None: ...


# --- sending ------------------------------------------------------------------------------------------------


async def sending() -> None:
    assert_type(await invoices.send(Invoice("1"), delay="5s", dedup="1"), str)
    assert_type(await invoices.send(Invoice("1"), priority=5, key="k", headers={"a": "b"}), str)
    assert_type(await invoices.send_many([Invoice("1")]), Sequence[str])
    await invoices.send(Invoice("1"), priority="high")  # type: ignore[arg-type]
    app.queue("bounded", Invoice, limit="100k")  # type: ignore[arg-type]
    await invoices.send(Order("1"))  # type: ignore[arg-type]
    await invoices.send_many([Order("1")])  # type: ignore[list-item]
    await invoices.send(Invoice("1"), 5)  # type: ignore[call-arg]


orders = app.collection("orders", Order, id="number")


async def documents() -> None:
    assert_type(await orders.get("1"), Document[Order] | None)
    assert_type(await orders.put(Order("1")), Document[Order])
    assert_type([document.value async for document in orders.all()], list[Order])
    await orders.put(Invoice("1"))  # type: ignore[arg-type]
    await orders.update("1", lambda order: order or Order("1"))
    await orders.update("1", lambda order: Invoice("1"))  # type: ignore[arg-type, return-value]


def in_one_commit(context: Context) -> None:
    context.transaction.put(orders, Order("1"))
    context.transaction.send(invoices, Invoice("1"), delay=3)
    context.transaction.put(orders, Invoice("1"))  # type: ignore[misc]
    context.transaction.send(invoices, Order("1"))  # type: ignore[misc]
    context.transaction.put(orders, Order("1"), "etag")  # type: ignore[call-arg]
