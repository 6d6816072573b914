"""The change feed of a PostgreSQL server where it could break: order, old rows, trimming, copies, crashes."""

from __future__ import annotations

from tests.adapters import postgres_load as load


async def test_all_changes_in_order_beside_idle_transactions(postgres_url: str) -> None:
    written, delays = await load.run(postgres_url, writers=10, seconds=6, idle=6)
    assert written.count > 300
    assert delays[int(len(delays) * 0.99)] <= 1.0
