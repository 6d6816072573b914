"""Where a reader stands in one range of a container's change feed, as text.

`<low>-<high>|<etag>` and, if it began at a time, `|<seconds>` behind. `low` and `high` bound the range of effective
partition keys (hex, `""` and `FF` at the ends), so that a cursor finds its children when its range was split; the etag
is the feed's own continuation, with its quotes, or a word for where to begin.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tidemill.errors import BadOption

BEGINNING = "beginning"
NOW = "now"

_FORM = re.compile(r"([0-9A-Fa-f]*)-([0-9A-Fa-f]+)\|([^|]*)(?:\|(\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class Cursor:
    """`since`: changes older than this (seconds since the epoch) are passed over, 0 for none. The service is asked for
    a time once only, and after a merge it may bring older documents behind newer ones: so it is kept."""

    low: str
    high: str
    etag: str
    since: float = 0.0

    def __str__(self) -> str:
        return f"{self.low}-{self.high}|{self.etag}" + (f"|{self.since:.3f}" if self.since else "")

    def at(self, etag: str) -> Cursor:
        """The same range, further on."""
        return replace(self, etag=etag)

    def within(self, low: str, high: str) -> Cursor:
        """The part of it that lies in another range."""
        return replace(self, low=max(self.low, low), high=min(self.high, high))


def parse(text: str) -> Cursor:
    """Raises `BadOption` for what is no cursor of a Cosmos feed."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise BadOption(f"{text!r} is no cursor of a feed in Cosmos DB")
    return Cursor(found[1], found[2], found[3], float(found[4] or 0))
