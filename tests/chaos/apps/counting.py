"""A captured table, a collection and a queue. What each handler does is counted: one message in one commit with its
ack, into a queue that nobody works."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tests.acceptance.journal import Journal
from tidemill import App, Change, Context

app = App("counting")
rows = app.table("rows", id="id", table="public.rows", partitions=8)
things = app.collection("things", dict, id="id", partitions=8)
jobs = app.queue("jobs", dict)
effects = app.queue("effects", dict)
WORK = 0.01
journal = Journal(os.environ["JOURNAL"])


@app.on_change(rows, concurrency=16)
async def row_changed(change: Change[dict[str, Any]], context: Context) -> None:
    await count("row", change.value, context)


@app.on_change(things, concurrency=16)
async def thing_changed(change: Change[dict[str, Any]], context: Context) -> None:
    await count("thing", change.value, context)


@app.on_message(jobs, concurrency=16)
async def work(job: dict[str, Any], context: Context) -> None:
    await count("job", job, context)


async def count(kind: str, value: dict[str, Any], context: Context) -> None:
    name = f"{kind}/{value['id']}"
    journal.note("start", name, value["n"])
    await asyncio.sleep(WORK)
    context.transaction.send(effects, {"of": name, "n": value["n"], "id": f"{context.worker}/{context.id}"})
