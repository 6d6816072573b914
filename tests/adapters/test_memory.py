"""The memory backend against the contract of every port."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tidemill.adapters.memory import Memory
from tidemill.testing import conformance
from tidemill.testing.clock import FakeClock


class TestMemory(
    conformance.DatabaseConformance,
    conformance.StoreConformance,
    conformance.QueueConformance,
    conformance.DocumentsConformance,
    conformance.FeedConformance,
    conformance.DeadLettersConformance,
    conformance.CommitConformance,
):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[conformance.Bench]:
        clock = FakeClock()
        async with conformance.opened(Memory(clock), clock) as bench:
            yield bench
