"""What stands in the database for each queue."""

from __future__ import annotations

from tidemill.adapters.postgres.names import Names
from tidemill.model import QueueSpec


def queue(names: Names, spec: QueueSpec) -> list[str]:
    return []
