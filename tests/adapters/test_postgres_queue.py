"""Queues and dead letters on a PostgreSQL server; the peer stands for another process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest

from tests.adapters.postgres_queue_database import Queues
from tidemill.engine.clock import SystemClock
from tidemill.testing import conformance

URL = "postgresql://postgres@127.0.0.1:55432/queue_test"


@pytest.fixture
async def postgres_url() -> str:
    link = await asyncpg.connect(URL.replace("queue_test", "postgres"))
    if not await link.fetchval("SELECT 1 FROM pg_database WHERE datname = 'queue_test'"):
        await link.execute("CREATE DATABASE queue_test")
    await link.close()
    link = await asyncpg.connect(URL)
    await link.execute("DROP SCHEMA IF EXISTS tidemill CASCADE")
    await link.close()
    return URL


class TestPostgresQueue(conformance.QueueConformance, conformance.DeadLettersConformance):
    @pytest.fixture
    async def bench(self, postgres_url: str) -> AsyncIterator[conformance.Bench]:
        async with conformance.opened(Queues(postgres_url), SystemClock(), peer=Queues(postgres_url)) as bench:
            yield bench
