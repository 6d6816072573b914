"""The Cosmos DB backend against the contract of every port, on the double; the peer stands for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.doubles.cosmos.server import Server
from tests.servers.cosmos import cosmos as cosmos
from tests.servers.cosmos import url_of
from tidemill.adapters.cosmos import Cosmos
from tidemill.engine.clock import SystemClock
from tidemill.testing import conformance


class TestCosmos(
    conformance.DatabaseConformance,
    conformance.StoreConformance,
    conformance.DocumentsConformance,
    conformance.FeedConformance,
    conformance.DeadLettersConformance,
    conformance.KeyCommitConformance,
):
    @pytest.fixture
    async def bench(self, cosmos: Server) -> AsyncIterator[conformance.Bench]:
        clock = SystemClock()
        one, two = (Cosmos.from_url(url_of(cosmos), clock) for _ in range(2))
        async with conformance.opened(one, clock, peer=two, tick=0.5) as bench:  # _ts counts whole seconds
            yield bench
