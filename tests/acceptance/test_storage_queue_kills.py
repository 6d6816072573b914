"""Ten thousand messages in Azure Storage Queue (Azurite), several replicas, kill -9 in the middle: none is lost.

What a killed replica held comes again when its claims end, so these are short here; a message may then be worked
twice. How many were is printed: the promise is at least once.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from tests.acceptance.processes import Fleet, until
from tests.servers.azurite import Account
from tidemill.adapters.storage_queue import StorageQueues
from tidemill.engine.clock import SystemClock
from tidemill.errors import Unavailable
from tidemill.model import Message, QueueSpec

APP = "tests.acceptance.storage_apps.counting:app"
NUMBERS = QueueSpec("numbers")
SLOW = QueueSpec("slow")
MESSAGES = 10_000
AHEAD = 600
"""Messages that wait at most: what a request costs Azurite grows with how many there are."""

KILLS = 6
OPTIONS = "&claim=5&poll=1"

T = TypeVar("T")

pytestmark = pytest.mark.slow


@pytest.fixture
async def database(azurite: Account) -> AsyncIterator[StorageQueues]:
    made = StorageQueues.from_url(azurite.url(OPTIONS), SystemClock())
    await made.open([], [NUMBERS, SLOW])
    yield made
    await made.close()


async def fill(database: StorageQueues) -> None:
    queue = database.queue(NUMBERS)
    for first in range(0, MESSAGES, 100):
        while await there(database, NUMBERS) > AHEAD:
            await asyncio.sleep(0.2)
        numbers = [Message("numbers", f"{n}", json.dumps(n).encode()) for n in range(first, first + 100)]
        await patiently(partial(queue.send, numbers))


async def patiently(do: Callable[[], Awaitable[T]]) -> T:
    """Again, where the emulator was too busy to answer; what was sent may then be there twice."""
    for _ in range(5):
        try:
            return await do()
        except Unavailable as error:
            print(f"again: {error}")
    return await do()


async def there(database: StorageQueues, queue: QueueSpec) -> int:
    """How many messages there are, hidden ones included."""
    depth = await patiently(database.queue(queue).depth)
    return depth.ready + depth.delayed + depth.claimed


def counted(fleet: Fleet) -> Counter[int]:
    return Counter(int(line.words[1]) for line in fleet.journal.lines("counted"))


@pytest.mark.timeout(900)
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
        await nothing_left(database, NUMBERS)
        assert [await replica.stop() for replica in running] == [0, 0, 0]
        again = sum(count - 1 for count in counted(fleet).values())
        print(f"{MESSAGES} messages, {KILLS} kills: {again} of them worked again")
        assert again <= KILLS * 600, "no more than what the killed held: a buffer and 32 in work each"
        assert await database.dead_letters().count("") == {}


async def worked(fleet: Fleet, count: int) -> None:
    """Wait for so many different messages."""
    await until(lambda: len(counted(fleet)) >= count, 240, lambda: f"{len(counted(fleet))} of {count}")


async def nothing_left(database: StorageQueues, queue: QueueSpec) -> None:
    """Also none that is hidden: the service counts those too."""
    async with asyncio.timeout(120):
        while await there(database, queue):
            await asyncio.sleep(0.5)


async def test_a_claim_is_kept_for_as_long_as_its_handler_runs(
    tmp_path: Path, azurite: Account, database: StorageQueues
) -> None:
    """Three times as long as a claim, beside a replica that would take what is free; and through a drain."""
    with Fleet(tmp_path, APP) as fleet:
        fleet.database = azurite.url(OPTIONS)
        one, two = fleet.start("one"), fleet.start("two")
        await one.ready()
        await two.ready()
        await database.queue(SLOW).send([Message("slow", f"{n}", json.dumps(15 + n).encode()) for n in range(6)])
        await until(lambda: len(fleet.journal.lines("began")) == 6, 30, one.tail)
        assert await one.stop() == 0, "the budget of a drain is longer than what runs"
        await until(lambda: len(fleet.journal.lines("ended")) == 6, 60, two.tail)
        await nothing_left(database, SLOW)
        assert await two.stop() == 0
        assert len(fleet.journal.lines("began")) == 6
