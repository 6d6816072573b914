"""The queries of docs/postgresql.md run as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import asyncpg
import pytest

from tidemill.adapters.postgres import Postgres
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, QueueSpec

PAGE = Path(__file__).parents[2] / "docs" / "postgresql.md"
QUERIES = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("query", QUERIES)
async def test_it_runs(query: str, postgres_url: str) -> None:
    database = Postgres.from_url(postgres_url, SystemClock())
    await database.open([CollectionSpec("orders")], [QueueSpec("jobs")])
    link = await asyncpg.connect(postgres_url)
    await link.fetch(query)
    await link.close()
    await database.close()


def test_there_are_some() -> None:
    assert len(QUERIES) == 3
