"""Finished rows: changes whose effects were committed by `context.transaction`, above the mark.

With lanes the mark cannot move with each change, so a commit leaves a row `finished/<lease>/<change>`. Whoever claims
the partition reads them and skips these changes; once the stored mark has passed one, its row is removed.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.engine.patience import Patience
from tidemill.model import Record, Swap
from tidemill.ports import Store

PAGE = 1_000


async def finished_of(store: Store, patience: Patience, lease: str) -> set[str]:
    """The ids of the changes that are finished under this lease."""
    prefix = f"finished/{lease}/"
    found: set[str] = set()
    after = prefix
    while True:
        records = await _scan(store, patience, prefix, after)
        found.update(record.key.removeprefix(prefix) for record in records)
        if len(records) < PAGE:
            return found
        after = records[-1].key


async def forget_finished(store: Store, patience: Patience, lease: str, changes: Sequence[str]) -> None:
    """Remove the rows of these changes; one that is gone already is no error."""
    keys = [f"finished/{lease}/{change}" for change in changes]
    records = await patience.until_answered(lambda: store.get(keys))
    swaps = [Swap(record.key, record.version, None) for record in records if record]
    if swaps:
        await patience.until_answered(lambda: store.swap(swaps))


async def _scan(store: Store, patience: Patience, prefix: str, after: str) -> Sequence[Record]:
    return await patience.until_answered(lambda: store.scan(prefix, after, PAGE))
