# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false
"""Read by type checkers only. What is marked must be an error: a mark without one fails the check."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, assert_type

from tidemill import App, Change, Context, Depends, Done, Health, Later, Proceed, Queue, Router


@dataclass
class Invoice:
    number: str


@asynccontextmanager
async def lifespan() -> AsyncGenerator[None, None]:
    yield


app = App("typed", lifespan=lifespan)
router = Router()
invoices = router.queue("invoices", Invoice)
assert_type(invoices, Queue[Invoice])


# --- dependencies -------------------------------------------------------------------------------------------


class Rates:
    def __init__(self, context: Context) -> None: ...


def session() -> Iterator[str]:
    yield "session"


async def tax(session: Annotated[str, Depends(session)]) -> AsyncIterator[float]:
    yield 0.2


Tax = Annotated[float, Depends(tax, scope="app")]


@router.on_message(invoices)
async def all_forms(
    invoice: Invoice,
    tax: Tax,
    context: Context,
    rates: Annotated[Rates, Depends()],
    again: Rates = Depends(use_cache=False),
    name: str = Depends(session),
) -> None:
    assert_type(tax, float)
    assert_type(rates, Rates)


async def direct_call(context: Context, rates: Rates) -> None:
    """A direct call is the unit test: what is injected is given by hand."""
    await all_forms(Invoice("1"), 0.2, context, rates, name="s")
    await all_forms(Invoice("1"), "0.2", context, rates)  # type: ignore[arg-type]
    await all_forms(Invoice("1"), 0.2, context)  # type: ignore[call-arg]


Depends(tax, scope="replica")  # type: ignore[arg-type]
Depends("tax")  # type: ignore[arg-type]


# --- middleware ---------------------------------------------------------------------------------------------


@app.middleware
async def timing(context: Context, proceed: Proceed) -> None:
    await proceed()


@router.middleware
async def closed_on_sundays(context: Context, proceed: Proceed) -> Done | Later | None:
    return Later(60.0) if context.key else None


assert_type(closed_on_sundays.__name__, str)


@app.middleware  # type: ignore[type-var]
def plain(context: Context, proceed: Proceed) -> None: ...


@app.middleware  # type: ignore[type-var]
async def without_proceed(context: Context) -> None: ...


# --- routers ------------------------------------------------------------------------------------------------


@router.on_change(router.collection("orders", Invoice, id="number"))
async def changes(change: Change[Invoice]) -> None: ...


@router.on_message(invoices, batch=10)
def batches(invoices: list[Invoice]) -> None: ...


@router.every("1m")
def often() -> None: ...


@router.cron("0 3 * * *")
async def nightly() -> None: ...


@router.task()
def thumbnail(image: int) -> str:
    return str(image)


@router.health("fresh", of=[thumbnail, often])
def fresh() -> Health:
    return Health.healthy()


async def tasks() -> None:
    assert_type(thumbnail(7), str)
    await thumbnail.send("7")  # type: ignore[arg-type]


def kept() -> Callable[[], None]:
    return often


@router.on_message(invoices)  # type: ignore[arg-type]
async def of_another_type(number: int) -> None: ...


app.include(router, prefix="shop.", group="sales")
app.include("router")  # type: ignore[arg-type]
app.include(router, "shop.")  # type: ignore[call-arg]
Router("named")  # type: ignore[call-arg]
