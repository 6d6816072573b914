"""Ten writers on fifteen hot rows of a server, with a transaction that stays open: none lost, none out of order."""

from __future__ import annotations

import pytest

from tests.adapters import postgres_load as load

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(240)]


async def test_all_changes_in_order_and_soon_beside_a_transaction_of_a_minute(postgres_url: str) -> None:
    written, delays = await load.run(postgres_url, writers=10, seconds=60, idle=61)
    middle, late, last = (delays[int(len(delays) * part)] for part in (0.5, 0.99, 0.9999))
    print(f"{written.count} changes; delay p50 {middle:.3f} s, p99 {late:.3f} s, p99.99 {last:.3f} s")
    assert written.count > 5_000
    assert late <= 1.0
