"""The first parameter of a handler against what its trigger gives: told at start, in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NewType, Protocol, TypedDict, TypeVar

import pytest

from tidemill.app.app import App
from tidemill.app.context import Context
from tidemill.app.values import Change, Deletion
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.errors import ConfigurationError

T = TypeVar("T")
Number = NewType("Number", int)


@dataclass
class Order:
    number: str


@dataclass
class Urgent(Order):
    hours: int = 1


@dataclass
class Invoice:
    number: str


class Row(TypedDict):
    id: str


class Numbered(Protocol):
    number: str


async def takes_order(order: Order) -> None: ...
async def takes_invoice(invoice: Invoice) -> None: ...
async def takes_either(either: Order | Invoice) -> None: ...
async def takes_protocol(item: Numbered) -> None: ...
async def takes_any(item: Any) -> None: ...
async def takes_object(item: object) -> None: ...
async def takes_typevar(item: T) -> None: ...
async def takes_unannotated(item) -> None: ...  # type: ignore[no-untyped-def]
async def takes_annotated(item: Annotated[Order, "said"]) -> None: ...
async def takes_float(item: float) -> None: ...
async def takes_mapping(item: Mapping[str, Any]) -> None: ...
async def takes_row(item: Row) -> None: ...
async def takes_number(item: Number) -> None: ...
async def takes_orders(orders: list[Order]) -> None: ...
async def takes_sequence(orders: Sequence[Order]) -> None: ...
async def takes_bare_list(orders: list) -> None: ...  # type: ignore[type-arg]
async def takes_context(context: Context) -> None: ...
async def takes_change(change: Change[Order]) -> None: ...
async def takes_both(change: Change[Order] | Deletion[Order]) -> None: ...
async def takes_bare_change(change: Change) -> None: ...  # type: ignore[type-arg]
async def takes_deletion(gone: Deletion[Order]) -> None: ...
async def takes_change_of_invoice(change: Change[Invoice]) -> None: ...
async def takes_changes(changes: list[Change[Order] | Deletion[Order]]) -> None: ...
async def takes_deletions_of_invoice(change: Change[Order] | Deletion[Invoice]) -> None: ...


def of_message(handler: Callable[..., Any], type_: Any, batch: int | None = None) -> None:
    app = App("test")
    app.on_message(app.queue("q", type_), name="w", batch=batch)(handler)  # type: ignore[call-overload]
    Handlers(app.declared().workers, SystemClock())


def of_change(handler: Callable[..., Any], type_: Any, batch: int | None = None) -> None:
    app = App("test")
    app.on_change(app.collection("c", type_, id="number"), name="w", batch=batch)(handler)  # type: ignore[call-overload]
    Handlers(app.declared().workers, SystemClock())


@pytest.mark.parametrize(
    ("declare", "handler", "type_", "batch"),
    [
        (of_message, takes_order, Order, None),
        (of_message, takes_order, Urgent, None),
        (of_message, takes_order, Any, None),
        (of_message, takes_order, Order | Urgent, None),
        (of_message, takes_either, Order, None),
        (of_message, takes_either, Order | Invoice, None),
        (of_message, takes_protocol, Order, None),
        (of_message, takes_any, Order, None),
        (of_message, takes_object, Order, None),
        (of_message, takes_typevar, Order, None),
        (of_message, takes_unannotated, Order, None),
        (of_message, takes_annotated, Order, None),
        (of_message, takes_float, int, None),
        (of_message, takes_mapping, dict[str, Any], None),
        (of_message, takes_row, dict[str, Any], None),
        (of_message, takes_number, int, None),
        (of_message, takes_orders, list[Order], None),
        (of_message, takes_orders, Order, 5),
        (of_message, takes_sequence, Order, 5),
        (of_message, takes_bare_list, Order, 5),
        (of_message, takes_any, Order, 5),
        (of_change, takes_change, Order, None),
        (of_change, takes_both, Order, None),
        (of_change, takes_bare_change, Order, None),
        (of_change, takes_any, Order, None),
        (of_change, takes_unannotated, Order, None),
        (of_change, takes_changes, Order, 5),
    ],
)
def test_what_may_be_right_starts(declare: Callable[..., None], handler: Any, type_: Any, batch: int | None) -> None:
    assert declare(handler, type_, batch) is None  # it raises what is wrong


CHANGE = "annotate it so (or Change[Order] | Deletion[Order])"


@pytest.mark.parametrize(
    ("declare", "handler", "batch", "line"),
    [
        (
            of_message,
            takes_invoice,
            None,
            "parameter 'invoice' of takes_invoice takes Invoice, but queue 'q' carries Order; annotate it so",
        ),
        (
            of_message,
            takes_mapping,
            None,
            "parameter 'item' of takes_mapping takes Mapping[str, Any], but queue 'q' carries Order; annotate it so",
        ),
        (
            of_message,
            takes_change,
            None,
            "parameter 'change' of takes_change takes Change[Order], but queue 'q' carries Order; annotate it so",
        ),
        (
            of_message,
            takes_orders,
            None,
            "parameter 'orders' of takes_orders takes a list, but gets one at a time; give batch=…, or annotate it "
            "Order",
        ),
        (
            of_message,
            takes_order,
            5,
            "parameter 'order' of takes_order: batch=5 calls it with lists; annotate it list[Order]",
        ),
        (of_message, takes_context, None, "the first parameter of takes_context must take the item; add one"),
        (
            of_change,
            takes_order,
            None,
            "parameter 'order' of takes_order takes Order, but the feed of 'c' gives Change[Order]; " + CHANGE,
        ),
        (
            of_change,
            takes_deletion,
            None,
            "parameter 'gone' of takes_deletion takes Deletion[Order], but the feed of 'c' gives Change[Order]; "
            + CHANGE,
        ),
        (
            of_change,
            takes_change_of_invoice,
            None,
            "parameter 'change' of takes_change_of_invoice takes Change[Invoice], but the feed of 'c' gives "
            "Change[Order]; " + CHANGE,
        ),
        (
            of_change,
            takes_deletions_of_invoice,
            None,
            "parameter 'change' of takes_deletions_of_invoice takes Change[Order] | Deletion[Invoice], but the feed "
            "of 'c' gives Change[Order]; " + CHANGE,
        ),
        (
            of_change,
            takes_changes,
            None,
            "parameter 'changes' of takes_changes takes a list, but gets one at a time; give batch=…, or annotate it "
            "Change[Order]",
        ),
        (
            of_change,
            takes_change,
            5,
            "parameter 'change' of takes_change: batch=5 calls it with lists; annotate it list[Change[Order]]",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    declare: Callable[..., None], handler: Any, batch: int | None, line: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        declare(handler, Order, batch)
    [problem] = caught.value.problems
    assert problem.removeprefix("worker 'w': ").removeprefix(": ") == line


def test_a_task_that_yields_is_refused() -> None:
    app = App("test")

    def thumbnail(image: int) -> Any:
        yield image

    with pytest.raises(ConfigurationError, match="task 'thumbnail' yields; a task returns"):
        app.task()(thumbnail)


def test_a_task_whose_annotation_is_not_there_is_told_by_name() -> None:
    app = App("test")

    class Local:
        """Not visible at module level."""

    def thumbnail(image: Local) -> None:
        """Never called."""

    with pytest.raises(ConfigurationError, match="task 'thumbnail': an annotation of thumbnail names 'Local'"):
        app.task()(thumbnail)
