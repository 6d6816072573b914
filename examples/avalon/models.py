"""What Avalon talks about."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from pydantic import BaseModel


class Order(BaseModel):
    """What a customer has bought."""

    number: str
    day: date
    customer: str
    total: Decimal


class Invoice(BaseModel):
    """What a customer has to pay. Its number is the order's: one order can never have two."""

    number: str
    customer: str
    day: date
    amount: Decimal
    currency: str


class Total(BaseModel):
    """What a customer has bought on a day. It keeps its order numbers, so that a change seen twice counts once."""

    id: str
    customer: str
    day: date
    orders: dict[str, Decimal]

    @property
    def sum(self) -> Decimal:
        return sum(self.orders.values(), Decimal(0))


class Closing(BaseModel):
    """That the books of a day were closed, and when the run was due."""

    day: date
    at: str
