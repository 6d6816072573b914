"""An app that leaves a bit of everything in its file: work of all kinds, done, waiting, parked and dead.

BROKEN=1: the handlers of things fail for the key "bad", and `refuse` rejects.
"""

from __future__ import annotations

import os
from typing import Any

from tests.acceptance.journal import Journal
from tidemill import App, Backoff, Change, Deletion, Reject

app = App("releases")
jobs = app.queue("jobs", dict)
later = app.queue("later", dict)
things = app.collection("things", dict, id="id", key="key", partitions=4, before=True)


def journal() -> Journal:
    return Journal(os.environ["JOURNAL"])


@app.on_message(jobs)
async def work(job: dict[str, Any]) -> None:
    if job.get("how") == "reject" and os.environ.get("BROKEN"):
        raise Reject("asked for")
    journal().note("job", job["id"])


@app.on_message(later, group="later")
async def work_later(job: dict[str, Any]) -> None:
    journal().note("later", job["id"])


@app.on_change(things, start="beginning", retry=Backoff(attempts=1), name="watch")
async def watch(change: Change[dict[str, Any]] | Deletion[dict[str, Any]]) -> None:
    if change.key == "bad" and os.environ.get("BROKEN"):
        raise ValueError("the key is bad today")
    journal().note("deleted" if isinstance(change, Deletion) else "thing", change.document, change.key)


@app.every("2s", name="often")
async def often() -> None:
    journal().note("often")
