"""What the tests of the Azure Storage Queue backend share: a database, and Microsoft's client beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from azure.storage.queue.aio import QueueClient

from tests.servers.azurite import Account
from tidemill.adapters.storage_queue import StorageQueues
from tidemill.adapters.storage_queue.address import address
from tidemill.adapters.storage_queue.queue import StorageQueue
from tidemill.engine.clock import SystemClock
from tidemill.model import Delivery, Lost, Outcome, QueueSpec, Settled, Verdict

JOBS = QueueSpec("jobs")
LIMIT = 30.0


@dataclass(frozen=True)
class Side:
    """The backend, its queue, and the same queue and its poison queue for another program."""

    database: StorageQueues
    queue: StorageQueue
    theirs: QueueClient
    poison: QueueClient

    async def take(self, count: int = 1) -> list[Delivery]:
        """So many deliveries, which come sooner or later."""
        taken: list[Delivery] = []
        async with asyncio.timeout(LIMIT):
            while len(taken) < count:
                taken += await self.queue.receive("me", count - len(taken), 0.2)
        return taken

    async def take_one(self) -> Delivery:
        (delivery,) = await self.take()
        return delivery

    async def settle(
        self, delivery: Delivery, verdict: Verdict, *, started: bool = True, error: str = ""
    ) -> Settled | Lost:
        (reply,) = await self.queue.settle([Outcome(delivery, verdict, started, error)])
        return reply


@asynccontextmanager
async def side(account: Account, options: str = "", **changes: Any) -> AsyncIterator[Side]:
    """Opened with the queue `jobs`; `changes` are fields of the address that no option has so small."""
    database = StorageQueues(replace(address(account.url(options)), **changes), SystemClock())
    async with account.service() as service:
        try:
            await database.open([], [JOBS])
            queue = database.queue(JOBS)
            assert isinstance(queue, StorageQueue)
            poison = account.client(service, "jobs-poison")
            yield Side(database, queue, account.client(service, "jobs"), poison)
        finally:
            await database.close()


async def texts(client: QueueClient) -> Sequence[str]:
    """What stands in a queue, as the service has it."""
    return [message.content for message in await client.peek_messages(32)]
