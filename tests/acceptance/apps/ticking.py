"""A timer each second whose every occurrence counts."""

from __future__ import annotations

import asyncio
import os

from tests.acceptance.journal import Journal
from tidemill import App, Context

app = App("ticking")
journal = Journal(os.environ["JOURNAL"])


@app.every("1s", misfire="all")
async def tick(context: Context) -> None:
    assert context.scheduled_at is not None
    due = f"{context.scheduled_at.timestamp():.0f}"
    journal.note("start", due, context.attempt)
    await asyncio.sleep(0.3)
    journal.note("end", due, context.attempt)
