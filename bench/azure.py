"""The parts of `make bench` for Azure: each beside a loop of the service's own client, on Azurite or on a double.

What a stand-in answers in a second says nothing of the service; how much of it reaches the handlers does.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import quote

from azure.cosmos.aio import CosmosClient
from azure.servicebus.aio import ServiceBusClient

from bench.rig import rig
from tests.doubles.cosmos.server import KEY
from tests.doubles.process import started
from tests.servers.azurite import Account, Azurite
from tests.servers.fixtures import server_folder
from tidemill.adapters.cosmos import Cosmos
from tidemill.adapters.service_bus import ServiceBus
from tidemill.adapters.storage_queue import StorageQueues
from tidemill.app.app import App
from tidemill.app.values import Change
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Message, Put, QueueSpec
from tidemill.ports import Database

Figures = dict[str, Any]

ABREAST = 16
"""Requests at a time of the raw loops, as many as ours."""
JOBS = QueueSpec("jobs")
COUNTERS = CollectionSpec("counters")


async def each(calls: list[Callable[[], Awaitable[object]]]) -> None:
    free = asyncio.Semaphore(ABREAST)

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        async with free:
            await call()

    await asyncio.gather(*map(one, calls))


async def fill(database: Database, count: int) -> None:
    for start in range(0, count, 100):
        size = min(100, count - start)
        await database.queue(JOBS).send([Message("jobs", f"{start + n}", b"%d" % (start + n)) for n in range(size)])


async def worked(database: Database, count: int) -> tuple[float, int, int]:
    """Messages a second of a whole replica; lost, doubled."""
    app = App("bench")
    queue = app.queue("jobs", int)
    seen: list[int] = []

    @app.on_message(queue, concurrency=64)
    async def work(job: int) -> None:
        seen.append(job)

    async with rig(app, database) as made:
        await fill(database, count)
        began = time.perf_counter()
        made.engine.begin()
        await made.until(lambda: len(seen) >= count and made.engine.settled)
        seconds = time.perf_counter() - began
    return count / seconds, count - len(set(seen)), len(seen) - len(set(seen))


# --- Storage Queue ------------------------------------------------------------------------------------------


async def _raw_storage(account: Account, count: int) -> float:
    """Receive 32, delete each."""
    database = StorageQueues.from_url(account.url(), SystemClock())
    await database.open([], [JOBS])
    await fill(database, count)
    await database.close()
    async with account.service() as service:
        client = account.client(service, "jobs")
        done, began = 0, time.perf_counter()
        while done < count:
            pages = client.receive_messages(messages_per_page=32, max_messages=32, visibility_timeout=60)
            found = [message async for message in pages]
            await each([lambda m=message: client.delete_message(m) for message in found])  # type: ignore[misc]
            done += len(found)
        return count / (time.perf_counter() - began)


def storage_queue(rounds: int, count: int = 1_000) -> Figures:
    """Storage Queue, on Azurite: a whole replica beside a loop of the client that receives 32 and deletes each."""
    found = []
    with server_folder("bench") as folder:
        server = Azurite.start_in(folder)
        try:
            for turn in range(rounds):
                raw = asyncio.run(_raw_storage(Account(server, f"raw{turn}-"), count))
                database = StorageQueues.from_url(Account(server, f"ours{turn}-").url(), SystemClock())
                found.append((raw, *asyncio.run(worked(database, count))))
        finally:
            server.stop()
    return _figures("messages/s", found)


# --- Service Bus --------------------------------------------------------------------------------------------


async def _raw_bus(connection: str, count: int) -> float:
    """Receive up to 64, complete each."""
    async with (
        ServiceBusClient.from_connection_string(connection) as client,
        client.get_queue_receiver("jobs") as receiver,
    ):
        done, began = 0, time.perf_counter()
        while done < count:
            found = await receiver.receive_messages(64, 1.0)
            await each([lambda m=message: receiver.complete_message(m) for message in found])  # type: ignore[misc]
            done += len(found)
        return count / (time.perf_counter() - began)


async def _filled_bus(url: str, count: int) -> None:
    database = ServiceBus.from_url(url, SystemClock())
    await database.open([], [JOBS])
    await fill(database, count)
    await database.close()


def service_bus(rounds: int, count: int = 2_000) -> Figures:
    """Service Bus, on its double: a whole replica beside a loop of the client that receives 64 and completes each."""
    found = []
    with started("service_bus", "--queue", "jobs", "--lock", "60") as connection:
        parts = dict(part.split("=", 1) for part in connection.rstrip(";").split(";"))
        where = parts["Endpoint"].removeprefix("sb://").rstrip("/")
        key, policy = quote(parts["SharedAccessKey"], safe=""), parts["SharedAccessKeyName"]
        url = f"azure-service-bus://:{key}@{where}?policy={policy}&tls=no&lock=60"
        for _ in range(rounds):
            asyncio.run(_filled_bus(url, count))
            raw = asyncio.run(_raw_bus(connection, count))
            found.append((raw, *asyncio.run(worked(ServiceBus.from_url(url, SystemClock()), count))))
    return _figures("messages/s", found)


# --- Cosmos DB ----------------------------------------------------------------------------------------------


async def _written(url: str, count: int) -> None:
    database = Cosmos.from_url(url, SystemClock())
    await database.open([COUNTERS], [])
    for start in range(0, count, 500):
        puts = [Put("counters", f"{n}", f"{n}", b'{"id": "%d", "n": %d}' % (n, n)) for n in range(start, start + 500)]
        await database.documents(COUNTERS).write(puts)
    await database.close()


async def _raw_feed(endpoint: str, count: int) -> float:
    """Each range from the beginning, pages of 500, all ranges at once."""
    async with CosmosClient(endpoint, KEY, enable_endpoint_discovery=False) as client:
        container = client.get_database_client("shop").get_container_client("counters")
        found: list[int] = []

        async def one(bounds: dict[str, Any]) -> None:
            pages = container.query_items_change_feed(
                feed_range=bounds, start_time="Beginning", mode="LatestVersion", max_item_count=500
            ).by_page()
            async for page in pages:
                found.extend([item["n"] async for item in page])

        began = time.perf_counter()
        await asyncio.gather(*[one(bounds) async for bounds in container.read_feed_ranges()])
        seconds = time.perf_counter() - began
    assert len(set(found)) == count
    return count / seconds


async def _our_feed(url: str, count: int, turn: int) -> tuple[float, int, int]:
    app = App("bench")
    counters = app.collection("counters", dict, id="id")
    seen: list[int] = []

    @app.on_change(counters, name=f"follow{turn}", start="beginning", batch=500, concurrency=4)
    async def follow(changes: list[Change[dict[str, Any]]]) -> None:
        seen.extend(change.value["n"] for change in changes)

    async with rig(app, Cosmos.from_url(url, SystemClock())) as made:
        made.engine.begin()
        await made.until(lambda: bool(seen))  # the leases are divided a second after the start
        first, began = len(seen), time.perf_counter()
        await made.until(lambda: len(seen) >= count)
        seconds = time.perf_counter() - began
    return (count - first) / seconds, count - len(set(seen)), len(seen) - len(set(seen))


def cosmos(rounds: int, count: int = 20_000) -> Figures:
    """Cosmos DB's change feed, on its double: a whole replica beside a loop of the client over all ranges."""
    found = []
    with started("cosmos") as endpoint:
        url = f"cosmos://:{quote(KEY, safe='')}@127.0.0.1:{endpoint.rstrip('/').rpartition(':')[2]}/shop?tls=no"
        asyncio.run(_written(url, count))
        for turn in range(rounds):
            raw = asyncio.run(_raw_feed(endpoint, count))
            found.append((raw, *asyncio.run(_our_feed(url, count, turn))))
    return _figures("changes/s", found)


def _figures(what: str, found: list[tuple[float, float, int, int]]) -> Figures:
    return {
        what: statistics.median(ours for _, ours, _, _ in found),
        "× raw client": statistics.median(ours / raw for raw, ours, _, _ in found),
        "lost and doubled": sum(lost + doubled for _, _, lost, doubled in found),
    }
