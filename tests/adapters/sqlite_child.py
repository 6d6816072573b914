"""What the other processes of the SQLite tests do: `python sqlite_child.py <job> <database> <name>`.

Each line printed is one thing that is durable by then; the last line of a job is `end`.
"""

from __future__ import annotations

import asyncio
import sys
import time
from sqlite3 import Connection

from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Done, Message, Outcome, Put, QueueSpec, Settled

QUEUE = QueueSpec("work")
ORDERS = CollectionSpec("orders", partitions=4)


def tell(line: str) -> None:
    print(line, flush=True)


async def send(database: SQLite, name: str, count: int) -> None:
    """Messages one by one; each line is an id and how many seconds its send took."""
    for number in range(count):
        began = time.monotonic()
        await database.queue(QUEUE).send([Message("work", f"{name}-{number}", b"{}")])
        tell(f"{name}-{number} {time.monotonic() - began:.3f}")


async def write(database: SQLite, name: str) -> None:
    """Documents without end, with a message each in one commit where the number is even."""
    documents = database.documents(ORDERS)
    for number in range(1_000_000):
        await documents.write([Put("orders", f"{name}-{number}", name, b"{}")])
        tell(f"{name}-{number}")


async def claim(database: SQLite, name: str) -> None:
    """Claim what is there as member `name` and live on."""
    await database.presence().hold(name)
    deliveries = await database.queue(QUEUE).receive(name, 100, 1.0)
    for delivery in deliveries:
        tell(delivery.id)
    tell("held")
    await asyncio.sleep(60)


async def work(database: SQLite, name: str) -> None:
    """Receive and settle until the end, as member `name`; each line is a message whose settling was answered."""
    await database.presence().hold(name)
    tell("up")
    queue = database.queue(QUEUE)
    while True:
        deliveries = await queue.receive(name, 10, 1.0)
        replies = await queue.settle([Outcome(delivery, Done()) for delivery in deliveries])
        for delivery, reply in zip(deliveries, replies, strict=True):
            if reply == Settled():
                tell(delivery.id)


async def hog(database: SQLite, name: str) -> None:
    """Stay inside a transaction until stdin says otherwise."""

    def run(connection: Connection) -> None:
        connection.execute("UPDATE tidemill_meta SET value = value WHERE name = 'version'")
        tell("inside")
        sys.stdin.readline()

    await database._session.writer.submit(run)
    tell(name)


async def main(job: str, path: str, name: str) -> None:
    database = SQLite(path, SystemClock())
    await database.open([ORDERS], [QUEUE])
    match job:
        case "send":
            await send(database, name, 150)
        case "one":
            await database.queue(QUEUE).send([Message("work", name, b"{}")])
        case "document":
            await database.documents(ORDERS).write([Put("orders", name, name, b"{}")])
        case "write":
            await write(database, name)
        case "claim":
            await claim(database, name)
        case "work":
            await work(database, name)
        case "hog":
            await hog(database, name)
    await database.close()
    tell("end")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
