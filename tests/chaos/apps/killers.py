"""A message and a change that end their process, among innocents."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tidemill import App, Change

app = App("killers")
jobs = app.queue("jobs", dict)
things = app.collection("things", dict, id="id", key="key", partitions=4)
seen = Path(os.environ["SEEN"])


def note(line: str) -> None:
    """One line, whole or not at all, whatever becomes of the process."""
    handle = os.open(seen, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, (line + "\n").encode())
    os.close(handle)


@app.on_message(jobs, concurrency=8)
async def work(job: dict[str, Any]) -> None:
    if job["n"] == 7:
        note("kill message")
        os.kill(os.getpid(), signal.SIGKILL)
    note(f"message {job['n']}")


@app.on_change(things, concurrency=8)
async def watch(change: Change[dict[str, Any]]) -> None:
    if change.value["n"] == 7:
        note("kill change")
        os.kill(os.getpid(), signal.SIGKILL)
    note(f"change {change.value['n']}")
