"""What a SIGTERM meets: handlers of any length, deaf ones, stuck ones, a slow import and a slow lifespan.

The environment says what a replica does besides: IMPORT, LIFESPAN and LEAVING are the seconds that these take
("stuck": a lifespan that blocks its thread), LONGEST the seconds after which a handler's wait ends in any case.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.acceptance.journal import Journal
from tidemill import App, Backoff, Context

AT_ONCE = 200


def journal() -> Journal:
    return Journal(os.environ["JOURNAL"])


if "IMPORT" in os.environ:
    journal().note("importing")
    time.sleep(float(os.environ["IMPORT"]))
    journal().note("imported")


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    journal().note("entering")
    if os.environ.get("LIFESPAN") == "stuck":
        time.sleep(600)
    await asyncio.sleep(float(os.environ.get("LIFESPAN", "0")))
    journal().note("entered")
    yield
    await asyncio.sleep(float(os.environ.get("LEAVING", "0")))
    journal().note("left")


app = App("terminating", lifespan=lifespan)
jobs = app.queue("jobs", dict)
deafs = app.queue("deafs", dict)
sticks = app.queue("sticks", dict)


@app.on_message(jobs, concurrency=AT_ONCE, retry=Backoff(first=0.1))
async def work(job: dict[str, Any], context: Context) -> None:
    """Fails as often as the job says, then waits for the test's word, then takes the job's time."""
    journal().note("start", job["id"], context.attempt, context.delivery)
    if context.attempt <= job["fails"]:
        raise ValueError("not yet")
    try:
        await told_to_go()
        if job["sends"]:
            await jobs.send(job | {"id": f"{job['id']}-sent", "seconds": 0.0, "sends": False})
        await asyncio.sleep(min(job["seconds"], longest()))
    except asyncio.CancelledError:
        journal().note("cancelled", job["id"])
        await asyncio.sleep(job["cleanup"])
        raise
    journal().note("end", job["id"])


@app.on_message(deafs)
async def ignore(job: dict[str, Any], context: Context) -> None:
    """Goes on when it is cancelled."""
    journal().note("start", job["id"], context.attempt, context.delivery)
    until = time.monotonic() + min(job["seconds"], longest())
    while time.monotonic() < until:
        try:
            await asyncio.sleep(0.1)
        except asyncio.CancelledError:
            journal().note("cancelled", job["id"])
    journal().note("end", job["id"])


@app.on_message(sticks)
def stick(job: dict[str, Any], context: Context) -> None:
    """Looks at no signal: asleep, or in a loop."""
    journal().note("start", job["id"], context.attempt, context.delivery)
    seconds = min(job["seconds"], longest())
    if job["how"] == "sleep":
        time.sleep(seconds)
    else:
        spin(seconds)
    journal().note("end", job["id"])


def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


def longest() -> float:
    return float(os.environ.get("LONGEST", "inf"))


async def told_to_go() -> None:
    word = Path(os.environ["JOURNAL"]).with_name("go")
    while not word.exists():
        await asyncio.sleep(0.1)
