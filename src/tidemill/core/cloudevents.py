"""CloudEvents 1.0 in JSON: what others are told of a change or a message. Pure.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md, and its extension `partitionkey`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

STRUCTURED = "application/cloudevents+json; charset=utf-8"
BATCHED = "application/cloudevents-batch+json; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Event:
    """One event. `source` and `id` together are unique, so that a receiver knows one that comes again; `at` in seconds
    since the epoch; without data where a document was deleted and nothing kept of it."""

    id: str
    source: str
    type: str
    subject: str
    at: float | None
    key: str | None
    data: Any
    has_data: bool = True

    def tree(self) -> dict[str, Any]:
        """The event as an object of JSON."""
        found: dict[str, Any] = {
            "specversion": "1.0",
            "id": self.id,
            "source": self.source,
            "type": self.type,
            "subject": self.subject,
        }
        if self.at is not None:
            found["time"] = datetime.fromtimestamp(self.at, UTC).isoformat(timespec="milliseconds")
        if self.key:
            found["partitionkey"] = self.key
        if self.has_data:
            found |= {"datacontenttype": "application/json", "data": self.data}
        return found


def structured(event: Event) -> bytes:
    """One event as the body of a request."""
    return _json(event.tree())


def batched(events: Sequence[Event]) -> bytes:
    """Several events as the body of a request."""
    return _json([event.tree() for event in events])


def _json(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()
