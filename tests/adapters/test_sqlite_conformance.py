"""The SQLite backend against the contract of every port; the peer stands for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock
from tidemill.testing import conformance


class TestSQLite(
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
    async def bench(self, tmp_path: Path) -> AsyncIterator[conformance.Bench]:
        clock = SystemClock()
        path = tmp_path / "test.db"
        async with conformance.opened(SQLite(path, clock), clock, peer=SQLite(path, clock)) as bench:
            yield bench
