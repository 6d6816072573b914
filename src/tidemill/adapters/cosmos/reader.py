"""Reads one range of a container's change feed by the etag of its position: one request, one page, never past a split.

azure-cosmos reads ranges by tokens of its own form, which hold the etag. Four of its traps are stepped around:

- A token whose range was split becomes a queue of children inside the client, without a word; reading on with the etag
  of one child in the name of the parent would lose the others' changes. The session token of each answer names the
  physical partition that gave it: an answer of another one is thrown away, and the caller is told `None`.
- The token of an empty page is in the headers only, and the client keeps these in one place for all requests: the hook
  takes the etag of exactly this answer.
- A token that began at a time cannot be read again (the client takes milliseconds for seconds): tokens of ours begin
  "now" and carry the etag.
- A token without an etag cannot be read again: the first page of all is asked for without a token.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from tidemill.adapters.cosmos.containers import Container
from tidemill.adapters.cosmos.cursor import BEGINNING, NOW, Cursor
from tidemill.adapters.cosmos.faults import moved

LATEST, EVERY = "LatestVersion", "AllVersionsAndDeletes"

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """A page: its items, the etag behind them, the newest LSN of the partition, the service's time (0: not told)."""

    items: Sequence[Item]
    etag: str
    newest: int
    now: float


@dataclass(slots=True)
class _Seen:
    """What the headers of each answer said; the last one counts."""

    range: str = ""
    etag: str = ""
    newest: int = 0
    now: float = 0.0

    def hook(self, headers: Mapping[str, Any], _: object) -> None:
        """Called by the client between the answer and everybody else's turn."""
        self.etag = str(headers.get("etag") or self.etag)
        session = str(headers.get("x-ms-session-token") or "")
        self.range, _, token = session.partition(":")
        self.newest = _lsn(token)
        date = headers.get("date")
        self.now = parsedate_to_datetime(date).timestamp() if date else 0.0


async def read(container: Container, cursor: Cursor, limit: int, mode: str) -> Answer | None:
    """What follows the cursor, at most about `limit` items (a transaction is never cut). None: the range was moved,
    look at the partitions again. Raises what the client raises."""
    seen = _Seen()
    pages = container.proxy.query_items_change_feed(
        max_item_count=limit, response_hook=seen.hook, **_scope(container, cursor, mode)
    ).by_page()
    items: Sequence[Item] = ()
    try:
        async for page in pages:
            items = [item async for item in page]
            break
    except Exception as error:
        if moved(error):
            return None
        raise
    if seen.range != _expected(container, cursor):
        return None
    return Answer(items, seen.etag or cursor.etag, seen.newest, seen.now)


def _scope(container: Container, cursor: Cursor, mode: str) -> dict[str, Any]:
    """From where, as the client wants it said."""
    bounds = {"min": cursor.low, "max": cursor.high, "isMinInclusive": True, "isMaxInclusive": False}
    if cursor.etag in (BEGINNING, NOW):
        start: object = "Now" if cursor.etag == NOW else "Beginning"
        if cursor.etag == BEGINNING and cursor.since:
            start = datetime.fromtimestamp(cursor.since, UTC)
        # Told one by one: azure-cosmos takes no mode together with some of the others.
        return {"feed_range": {"Range": bounds}, "start_time": start, "mode": mode}
    token = {
        "v": "v2",
        "containerRid": container.rid,
        "mode": mode,
        "startFrom": {"Type": "Now"},
        "continuation": {
            "v": "v2",
            "rid": container.rid,
            "continuation": [{"token": cursor.etag, "range": bounds}],
            "Range": bounds,
        },
    }
    return {"continuation": base64.b64encode(json.dumps(token).encode()).decode()}


def _expected(container: Container, cursor: Cursor) -> str:
    """The one physical partition that holds the whole range; empty if there is none."""
    found = [one for one in container.ranges if one.low <= cursor.low and cursor.high <= one.high]
    return found[0].id if found else ""


def _lsn(token: str) -> int:
    """The LSN in a session token, `<version>#<global LSN>#<region>=<local LSN>…`, or a bare number."""
    parts = token.split("#")
    number = parts[1] if len(parts) > 1 else parts[0].rpartition(":")[2]
    return int(number) if number.lstrip("-").isdigit() else 0
