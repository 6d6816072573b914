"""Two queues of Service Bus, one of them in order of its key; the handlers note what they do."""

from __future__ import annotations

import asyncio
import os
import time

from pydantic import BaseModel

from tests.acceptance.journal import Journal
from tidemill import App

journal = Journal(os.environ["JOURNAL"])


class Job(BaseModel):
    id: str
    blocks: float = 0.0


class Order(BaseModel):
    customer: str
    n: int


app = App("working")
jobs = app.queue("jobs", Job)
orders = app.queue("orders", Order, key="customer")


@app.on_message(jobs, concurrency=8)
async def work(job: Job) -> None:
    """Some work, so that a kill finds something in the middle; or a loop that stands still."""
    journal.note("began", job.id)
    if job.blocks:
        time.sleep(job.blocks)
    await asyncio.sleep(0.02)
    journal.note("ended", job.id)


@app.on_message(orders, concurrency=8)
async def bill(order: Order) -> None:
    journal.note("bill", order.customer, order.n)
    await asyncio.sleep(0.02)
    journal.note("billed", order.customer, order.n)
