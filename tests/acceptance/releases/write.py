"""Leave a file as a killed replica leaves it, and dump it: `python -m tests.acceptance.releases.write`.

To be run with the release whose format it is, once: the dump is kept for ever.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.acceptance.apps.releases import app, jobs, later, things
from tests.acceptance.processes import Fleet, until
from tidemill.model import FORMAT

HERE = Path(__file__).parent


async def fill(fleet: Fleet) -> None:
    """Some of each kind done, some dead or parked, some that nobody has seen."""
    async with app.client(database=fleet.database):
        await things.put_many([{"id": f"t{n}", "key": f"k{n % 3}", "n": n} for n in range(6)])
        await things.put({"id": "b1", "key": "bad", "n": 1})
        await jobs.send_many([{"id": f"j{n}"} for n in range(4)])
        await jobs.send({"id": "dead", "how": "reject"})
    replica = fleet.start("one", "--group", "queues", "--group", "feeds", "--group", "timers", BROKEN="1")
    await replica.ready()
    await until(lambda: len(fleet.journal.lines("job")) == 4 and len(fleet.journal.lines("thing")) == 6, 30)
    await until(lambda: bool(fleet.journal.lines("often")), 30)
    await asyncio.sleep(2)  # the parked key, the dead letter and the checkpoint are written
    replica.kill()
    async with app.client(database=fleet.database):
        await things.put({"id": "b2", "key": "bad", "n": 2})  # behind the parked one
        await things.delete("t0")
        await things.put({"id": "t9", "key": "größer", "n": 9})
        await later.send_many([{"id": f"l{n}"} for n in range(3)], headers={"origin": "the first release"})
        await later.send({"id": "soon"}, delay="1s", priority=3, dedup="once")


def main() -> None:
    with TemporaryDirectory() as folder, Fleet(Path(folder), "tests.acceptance.apps.releases:app") as fleet:
        asyncio.run(fill(fleet))
        base = sqlite3.connect(fleet.database.removeprefix("sqlite:///"))
        dump = "\n".join(base.iterdump())
        base.close()
        members = [name for name in os.listdir(folder) if name.endswith("members.db")]
        (HERE / f"format-{FORMAT}.sql").write_text(dump + "\n")
        print(f"format-{FORMAT}.sql written; beside the file stood {members}")


if __name__ == "__main__":
    main()
