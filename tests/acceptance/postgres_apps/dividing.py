"""A feed of sixty-four partitions that replicas divide among themselves."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.acceptance.journal import Journal
from tidemill import App, Change

PARTITIONS = 64
WORK = 0.01

app = App("dividing")
things = app.collection("things", dict, id="id", key="key", partitions=PARTITIONS)
journal = Journal(os.environ["JOURNAL"])


@app.on_change(things, concurrency=16)
async def watch(change: Change[dict[str, Any]]) -> None:
    thing = change.value
    journal.note("start", thing["id"], thing["n"])
    await asyncio.sleep(WORK)
    journal.note("end", thing["id"], thing["n"])
