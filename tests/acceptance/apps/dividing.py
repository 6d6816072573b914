"""A feed of sixteen partitions that replicas divide among themselves. One change in it holds the file and stops."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import time
from typing import Any

from tests.acceptance.journal import Journal
from tidemill import App, Change

app = App("dividing")
things = app.collection("things", dict, id="id", key="key", partitions=16)
journal = Journal(os.environ["JOURNAL"])

WORK = 0.02


@app.on_change(things)
async def watch(change: Change[dict[str, Any]]) -> None:
    thing = change.value
    if thing["key"] == "stop" and not journal.lines("stopped"):
        await asyncio.to_thread(stop_inside_a_commit)
        return
    journal.note("start", thing["id"], thing["n"])
    await asyncio.sleep(WORK)
    journal.note("end", thing["id"], thing["n"])


def stop_inside_a_commit() -> None:
    """Stand still (SIGSTOP) while this process holds the lock that every writer of the file needs."""
    base = sqlite3.connect(os.environ["TIDEMILL_DATABASE"].removeprefix("sqlite:///"), timeout=30.0)
    base.execute("BEGIN IMMEDIATE")
    journal.note("stopped")
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(0.5)  # the signal stops the process by another thread, a moment later
    journal.note("continued")
    base.commit()
    base.close()
