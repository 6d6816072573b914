"""The PostgreSQL backend against the contract of every port; the peer stands for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tidemill.adapters.postgres import Postgres
from tidemill.engine.clock import SystemClock
from tidemill.testing import conformance


class TestPg(
    conformance.DatabaseConformance,
    conformance.StoreConformance,
    conformance.QueueConformance,
    conformance.DocumentsConformance,
    conformance.FeedConformance,
    conformance.DeadLettersConformance,
    conformance.CommitConformance,
    conformance.KeyCommitConformance,
):
    @pytest.fixture
    async def bench(self, postgres_url: str) -> AsyncIterator[conformance.Bench]:
        clock = SystemClock()
        one, two = (Postgres.from_url(postgres_url, clock) for _ in range(2))
        async with conformance.opened(one, clock, peer=two) as bench:
            yield bench
