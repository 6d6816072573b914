"""A queue in Azure Storage whose handler notes what it gets."""

from __future__ import annotations

import asyncio
import os

from tests.acceptance.journal import Journal
from tidemill import App

journal = Journal(os.environ["JOURNAL"])

app = App("counting")
numbers = app.queue("numbers", int)
slow = app.queue("slow", float)


@app.on_message(numbers, concurrency=32)
async def count(number: int) -> None:
    """Some work, so that a kill finds many in the middle."""
    await asyncio.sleep(0.02)
    journal.note("counted", number)


@app.on_message(slow, concurrency=4)
async def dawdle(seconds: float) -> None:
    """Longer than a claim."""
    journal.note("began", seconds)
    await asyncio.sleep(seconds)
    journal.note("ended", seconds)
