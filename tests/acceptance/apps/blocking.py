"""Handlers that hold up what they run in: their loop, a core, or the interpreter itself. A rerun holds up nothing."""

from __future__ import annotations

import asyncio
import os
import re
import time
from statistics import median
from typing import Any

from tests.acceptance.journal import Journal
from tidemill import App, Change

BLOCK = "a" * 16 + "b"
"""A few milliseconds for `RUNS`; the time rises in proportion to how many of them stand in a row."""
SAMPLE = 200
RUNS = re.compile(r"(?:a+)+$")

app = App("blocking")
jobs = app.queue("jobs", dict)
spins = app.queue("spins", dict)
things = app.collection("things", dict, id="id", partitions=4)


def journal() -> Journal:
    return Journal(os.environ["JOURNAL"])


@app.on_message(jobs, concurrency=4)
async def work(job: dict[str, Any]) -> None:
    again = bool(journal().lines("start", "job", job["id"]))
    journal().note("start", "job", job["id"])
    match job["how"]:
        case "block" if not again:
            time.sleep(job["seconds"])
        case "hold" if not again:
            blocks = await calibrated(job["seconds"])
            journal().note("holds", job["id"])
            journal().note("held", job["id"], timed(blocks))
        case _:
            await asyncio.sleep(0.01)
    journal().note("end", "job", job["id"])


@app.on_message(spins, concurrency=8, group="spins")
def spin(job: dict[str, Any]) -> None:
    journal().note("start", "spin", job["id"])
    until = time.monotonic() + job["seconds"]
    turns = 0
    while time.monotonic() < until:
        turns += 1
    journal().note("end", "spin", job["id"])


@app.on_change(things, concurrency=4)
async def watch(change: Change[dict[str, Any]]) -> None:
    thing = change.value
    again = bool(journal().lines("start", "thing", thing["id"]))
    journal().note("start", "thing", thing["id"])
    if thing.get("how") == "block" and not again:
        time.sleep(thing["seconds"])
    else:
        await asyncio.sleep(thing["seconds"])
    journal().note("end", "thing", thing["id"])


async def calibrated(seconds: float) -> int:
    """How many blocks take so long, on this machine in these seconds."""
    samples = []
    for _ in range(7):
        await asyncio.sleep(0.1)
        samples.append(timed(SAMPLE))
    await asyncio.sleep(0.5)
    return round(SAMPLE * seconds / median(samples))


def timed(blocks: int) -> float:
    """One call of a C function, which keeps the GIL all the time; how long it was in seconds."""
    text = BLOCK * blocks
    began = time.monotonic()
    assert RUNS.search(text) is None
    return time.monotonic() - began
