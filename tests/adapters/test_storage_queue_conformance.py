"""The Azure Storage Queue backend against the contract of every port it has, on a real Azurite.

Delays are whole seconds there, so a tick is a tenth: ten of them are one. What a plain message cannot carry (its
sender's id, key and headers) is left out for that form, and dead letters of feeds, which belong to a feed's backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from tests.servers.azurite import Account
from tidemill.adapters.storage_queue import StorageQueues
from tidemill.engine.clock import SystemClock
from tidemill.model import Delivery, Lost, Message, Outcome, QueueSpec, Settled
from tidemill.ports import Database, Queue
from tidemill.testing import conformance

FEEDS = "puts dead letters of a feed, which are kept by the backend of the feed; tests/adapters/test_storage_queue.py"
PLAIN = "a plain message is its body: id, key and headers of the sender are not on the wire"


OF_FEEDS = (
    "test_what_was_put_comes_back",
    "test_a_letter_has_any_body",
    "test_written_once",
    "test_an_id_is_unique_within_its_source_only",
    "test_pages_go_by_order",
    "test_count_by_source",
    "test_drop_counts_what_was_there",
    "test_changes_cannot_be_released_into_a_queue",
)
OF_ENVELOPES = (
    "test_what_is_sent_is_received",
    "test_later_counts_an_attempt_if_it_says_so",
    "test_dead_moves_the_message_to_the_dead_letters",
)

OF_DEADLINES = (
    "test_a_claim_that_nobody_extends_comes_back",
    "test_an_extended_claim_outlives_its_first_deadline",
)


def claim(request: pytest.FixtureRequest) -> str:
    """Claims as short as they can be, where a test waits for their end; the others are not to be hurried by them."""
    return "&claim=5" if request.node.originalname in OF_DEADLINES else ""


@asynccontextmanager
async def opened(account: Account, options: str) -> AsyncIterator[conformance.Bench]:
    clock = SystemClock()
    one, two = (StorageQueues.from_url(account.url(options), clock) for _ in range(2))
    async with conformance.opened(one, clock, peer=two, tick=0.1) as bench:
        yield bench


def leave_out(request: pytest.FixtureRequest, cases: Mapping[str, str]) -> None:
    """Skip the test, by name and with the reason, if it is one of these."""
    if (why := cases.get(request.node.originalname)) is not None:
        pytest.skip(why)


class TestEnvelope(conformance.DatabaseConformance, conformance.QueueConformance, conformance.DeadLettersConformance):
    @pytest.fixture
    async def bench(self, azurite: Account, request: pytest.FixtureRequest) -> AsyncIterator[conformance.Bench]:
        leave_out(request, dict.fromkeys(OF_FEEDS, FEEDS))
        async with opened(azurite, f"&envelope=yes&poll=1{claim(request)}") as bench:
            yield bench


class Named:
    """A queue of plain messages whose ids are the service's, under the ids that the tests know them by."""

    def __init__(self, queue: Queue, names: dict[str, str]) -> None:
        self._queue = queue
        self._names = names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._queue, name)

    async def send(self, messages: Sequence[Message]) -> Sequence[str]:
        ids = await self._queue.send(messages)
        self._names |= {id: message.id for id, message in zip(ids, messages, strict=True)}
        return [message.id for message in messages]

    async def receive(self, owner: str, limit: int, wait: float) -> Sequence[Delivery]:
        return [one._replace(id=self._names[one.id]) for one in await self._queue.receive(owner, limit, wait)]

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        return await self._queue.extend([self._its(delivery) for delivery in deliveries])

    async def settle(self, outcomes: Sequence[Outcome]) -> Sequence[Settled | Lost]:
        return await self._queue.settle([replace(one, delivery=self._its(one.delivery)) for one in outcomes])

    def _its(self, delivery: Delivery) -> Delivery:
        ids = [id for id, name in self._names.items() if name == delivery.id]
        return delivery._replace(id=ids[-1] if ids else delivery.id)


class PlainQueues:
    """The backend, with such queues."""

    def __init__(self, database: StorageQueues, names: dict[str, str]) -> None:
        self._database = database
        self._names = names

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def queue(self, queue: QueueSpec) -> Queue:
        return cast(Queue, Named(self._database.queue(queue), self._names))


class TestPlain(conformance.DatabaseConformance, conformance.QueueConformance):
    @pytest.fixture
    async def bench(self, azurite: Account, request: pytest.FixtureRequest) -> AsyncIterator[conformance.Bench]:
        leave_out(request, dict.fromkeys(OF_ENVELOPES, PLAIN))
        async with opened(azurite, f"&poll=1{claim(request)}") as bench:
            names: dict[str, str] = {}
            one, two = (PlainQueues(cast(StorageQueues, side), names) for side in (bench.database, bench.peer))
            yield replace(bench, database=cast(Database, one), peer=cast(Database, two))
