"""Reading that several operations share."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tidemill.engine.places import Places
from tidemill.model import Record
from tidemill.ports import DeadLetters, Store

PAGE = 500

RENAMED = "renamed"
"""The field of a record whose rename is under way: nobody may claim it until that was finished."""


async def scan(store: Store, prefix: str) -> AsyncIterator[Record]:
    """All records under a prefix, page by page."""
    after = ""
    while page := await store.scan(prefix, after, PAGE):
        for record in page:
            yield record
        after = page[-1].key


async def sources(places: Places) -> list[tuple[str, int, DeadLetters]]:
    """Every source that has dead letters, how many, and where."""
    found: dict[str, tuple[int, DeadLetters]] = {}
    for database in places.databases:
        if "dead_letters" in database.features:
            home = database.dead_letters()
            found |= {source: (count, home) for source, count in (await home.count("")).items()}
    return [(source, count, home) for source, (count, home) in sorted(found.items())]
