"""How much work a queue has, as one SQL text for programs that ask the server themselves, such as an autoscaler.

Text alone: nothing is connected, so it can be written into a chart before there is a server.
"""

from __future__ import annotations

from urllib.parse import parse_qs, urlsplit

from tidemill.adapters.postgres.address import SCHEMA
from tidemill.adapters.postgres.ddl_queue import tables
from tidemill.adapters.postgres.names import Names

COUNT = (
    "SELECT (SELECT count(*) FROM {ready} WHERE due <= statement_timestamp()) + (SELECT count(*) FROM {claim}) AS work"
)
"""What is claimed counts: by what waits alone, a group would shrink as soon as everything is taken. What is delayed
does not: nobody can do anything about it yet."""


def counting(url: str, queue: str) -> str:
    """One row with one number: the messages of a queue that wait or are claimed. The URL says which schema."""
    (schema,) = parse_qs(urlsplit(url).query).get("schema", [SCHEMA])[-1:]
    found = tables(Names(schema), queue)
    return COUNT.format(ready=found.ready, claim=found.claim)
