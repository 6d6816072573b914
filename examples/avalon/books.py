"""The books of Avalon, checked against the orders: what is lost, what is there twice, what has the wrong sum."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from examples.avalon.app import app, documents, orders, totals
from examples.avalon.system import Row


@dataclass(frozen=True)
class Books:
    """Counts after a run. `lost`: orders without an invoice or missing in the totals; `duplicates`: orders that are
    in more than one total, or more than one invoice; `wrong`: amounts that differ."""

    orders: int
    invoices: int
    lost: int
    duplicates: int
    wrong: int

    @property
    def right(self) -> bool:
        return not (self.lost or self.duplicates or self.wrong)


async def count_invoices(database: str) -> int:
    """How many invoices there are now."""
    async with app.client(database=database):
        return len([document async for document in documents.all()])


async def audit(database: str, expected: Sequence[Row]) -> Books:
    """Read everything back through Tidemill's own handles."""
    wanted = {row.number: Decimal(row.total) for row in expected}
    async with app.client(database=database):
        stored = {order.id async for order in orders.all()}
        billed: dict[str, Decimal] = {}
        seen: Counter[str] = Counter()
        async for document in documents.all():
            seen[document.value.number] += 1
            billed[document.value.number] = document.value.amount
        booked: Counter[str] = Counter()
        wrong = 0
        async for total in totals.all():
            for number, amount in total.value.orders.items():
                booked[number] += 1
                wrong += amount != wanted.get(number)
    wrong += sum(billed.get(number, amount) != amount for number, amount in wanted.items())
    lost = sum(number not in billed or number not in booked or number not in stored for number in wanted)
    twice = sum(count > 1 for count in (*seen.values(), *booked.values()))
    return Books(len(stored), len(billed), lost, twice, wrong)
