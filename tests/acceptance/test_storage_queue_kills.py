"""Ten thousand messages in Azure Storage Queue (Azurite), several replicas, kill -9 in the middle: none is lost.

What a killed replica held comes again when its claims end, so these are short here; a message may then be worked
twice. How many were is printed: the promise is at least once.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from tests.acceptance.processes import Fleet, until
from tests.servers.azurite import Account
from tidemill.adapters.storage_queue import StorageQueues
from tidemill.engine.clock import SystemClock
from tidemill.model import Message, QueueSpec

APP = "tests.acceptance.storage_apps.counting:app"
NUMBERS = QueueSpec("numbers")
MESSAGES = 10_000
AHEAD = 600
"""Messages that wait at most: what a request costs Azurite grows with how many there are."""

KILLS = 6
OPTIONS = "&claim=5&poll=1"

pytestmark = pytest.mark.slow


@pytest.fixture
async def database(azurite: Account) -> AsyncIterator[StorageQueues]:
    made = StorageQueues.from_url(azurite.url(OPTIONS), SystemClock())
    await made.open([], [NUMBERS])
    yield made
    await made.close()


async def fill(database: StorageQueues) -> None:
    queue = database.queue(NUMBERS)
    for first in range(0, MESSAGES, 100):
        while (depth := await queue.depth()).ready + depth.delayed + depth.claimed > AHEAD:
            await asyncio.sleep(0.2)
        numbers = range(first, first + 100)
        await queue.send([Message("numbers", f"{n}", json.dumps(n).encode()) for n in numbers])


def counted(fleet: Fleet) -> Counter[int]:
    return Counter(int(line.words[1]) for line in fleet.journal.lines("counted"))


@pytest.mark.timeout(600)
async def test_kill_9_loses_nothing(tmp_path: Path, azurite: Account, database: StorageQueues) -> None:
    random = Random(10_000)
    filling = asyncio.create_task(fill(database))
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = azurite.url(OPTIONS)
        running = [fleet.start(f"r{n}") for n in range(3)]
        for replica in running:
            await replica.ready()
        for n in range(KILLS):
            await worked(fleet, MESSAGES * (n + 1) // (KILLS + 2))
            running.pop(random.randrange(len(running))).kill()
            running.append(fleet.start(f"k{n}"))
        await filling
        await worked(fleet, MESSAGES)
        found = counted(fleet)
        assert set(found) == set(range(MESSAGES))
        await nothing_left(database)
        assert [await replica.stop() for replica in running] == [0, 0, 0]
        again = sum(count - 1 for count in counted(fleet).values())
        print(f"{MESSAGES} messages, {KILLS} kills: {again} of them worked again")
        assert again <= KILLS * 600, "no more than what the killed held: a buffer and 32 in work each"
        assert await database.dead_letters().count("") == {}


async def worked(fleet: Fleet, count: int) -> None:
    """Wait for so many different messages."""
    await until(lambda: len(counted(fleet)) >= count, 120, lambda: f"{len(counted(fleet))} of {count}")


async def nothing_left(database: StorageQueues) -> None:
    """Also none that is hidden: the service counts those too."""
    async with asyncio.timeout(60):
        while (depth := await database.queue(NUMBERS).depth()).ready + depth.delayed + depth.claimed:
            await asyncio.sleep(0.5)
