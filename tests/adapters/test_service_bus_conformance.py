"""The Service Bus backend against the contract of every port, on the double; the peer stands for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.doubles.service_bus.server import Server
from tests.servers.service_bus import LOCK, url_of
from tests.servers.service_bus import bus as bus
from tidemill.adapters.service_bus import ServiceBus
from tidemill.engine.clock import SystemClock
from tidemill.testing import conformance

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
"""They put dead letters of feeds; pages, counts and drops of queues' are in `test_service_bus`."""


class TestServiceBus(conformance.DatabaseConformance, conformance.QueueConformance, conformance.DeadLettersConformance):
    @pytest.fixture(autouse=True)
    def queues_only(self, request: pytest.FixtureRequest) -> None:
        if request.node.originalname in OF_FEEDS:
            pytest.skip("Service Bus keeps no dead letters of feeds")

    @pytest.fixture
    async def bench(self, bus: Server) -> AsyncIterator[conformance.Bench]:
        for name in ("jobs", "others"):
            bus.namespace.create(name, lock=LOCK, deliveries=100)
        clock = SystemClock()
        one, two = (ServiceBus.from_url(url_of(), clock) for _ in range(2))
        async with conformance.opened(one, clock, peer=two, tick=0.1) as bench:
            yield bench
