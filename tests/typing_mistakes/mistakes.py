"""Mistakes in declarations. Never run: type checkers read it, and the comments say what they tell of the line below.

`# by mypy:` and `# by pyright:` are words that the checker's error for that line must have, separated by `;`; a line
without such comments must have no error.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidemill import App, Change, Context, Deletion, Proceed, Router


@dataclass
class Order:
    number: str


@dataclass
class Invoice:
    number: str


app = App("mistakes")
router = Router()
orders = app.collection("orders", Order, id="number")
invoices = router.queue("invoices", Invoice)


# by mypy: "Callable[[Order], Coroutine[Any, Any, None]]"; expected "Callable[[Invoice]
# by pyright: Parameter 1: type "Invoice" is incompatible with type "Order"
@app.on_message(invoices)
async def message_of_another_type(order: Order) -> None: ...


# by mypy: "Callable[[], None]"; expected "Callable[[Invoice]
# by pyright: too few positional parameters
@router.on_message(invoices)
def nothing_taken() -> None: ...


# by mypy: "Callable[[list[Invoice]], None]"; expected "Callable[[Invoice]
# by pyright: Parameter 1: type "Invoice" is incompatible with type "list[Invoice]"
@app.on_message(invoices)
def list_without_batch(several: list[Invoice]) -> None: ...


# by mypy: "Callable[[Invoice], None]"; expected "Callable[[list[Invoice]]
# by pyright: Parameter 1: type "list[Invoice]" is incompatible with type "Invoice"
@app.on_message(invoices, batch=10)
def batch_without_list(invoice: Invoice) -> None: ...


# by mypy: "Callable[[Order], Coroutine[Any, Any, None]]"; expected "Callable[[Change[Order]
# by pyright: Parameter 1: type "Change[Order]" is incompatible with type "Order"
@app.on_change(orders)
async def document_for_change(order: Order) -> None: ...


# by mypy: "Callable[[Change[Invoice]], Coroutine[Any, Any, None]]"; expected "Callable[[Change[Order]
# by pyright: "Order" is not assignable to "Invoice"
@app.on_change(orders)
async def change_of_another_type(change: Change[Invoice]) -> None: ...


# by mypy: "Callable[[Deletion[Order]], Coroutine[Any, Any, None]]"; expected "Callable[[Change[Order]
# by pyright: Parameter 1: type "Change[Order]" is incompatible with type "Deletion[Order]"
@app.on_change(orders)
async def deletions_alone(gone: Deletion[Order]) -> None: ...


# by mypy: "Callable[[list[Change[Order]]], Coroutine[Any, Any, None]]"; expected "Callable[[Change[Order]
# by pyright: Parameter 1: type "Change[Order]" is incompatible with type "list[Change[Order]]"
@app.on_change(orders)
async def changes_without_batch(changes: list[Change[Order]]) -> None: ...


# by mypy: "middleware" of "Router" cannot be "Callable[[Context, Proceed], None]"
# by pyright: "None" is incompatible with protocol "Awaitable[Any]"
@app.middleware
def plain_middleware(context: Context, proceed: Proceed) -> None: ...


# by mypy: "middleware" of "Router" cannot be "Callable[[Context], Coroutine[Any, Any, None]]"
# by pyright: too few positional parameters; expected 2 but received 1
@router.middleware
async def middleware_of_one(context: Context) -> None: ...


# by mypy: incompatible type "Queue[Invoice]"; expected "Router"
# by pyright: "Queue[Invoice]" is not assignable to "Router"
app.include(invoices)
