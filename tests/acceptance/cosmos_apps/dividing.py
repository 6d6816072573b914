"""A feed of counters in Cosmos DB; the handler notes what it sees."""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel

from tests.acceptance.journal import Journal
from tidemill import App, Change

journal = Journal(os.environ["JOURNAL"])


class Counter(BaseModel):
    id: str
    n: int


app = App("dividing")
counters = app.collection("counters", Counter, id="id")


@app.on_change(counters, start="beginning", concurrency=4)
async def seen(change: Change[Counter]) -> None:
    """Some work, so that a kill finds something in the middle."""
    await asyncio.sleep(0.002)
    journal.note("seen", change.document, change.value.n)
