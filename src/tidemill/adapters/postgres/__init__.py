"""PostgreSQL: store, documents, change feed of any table, queue, dead letters."""

from tidemill.adapters.postgres.database import Postgres
from tidemill.model import Statement

__all__ = ["Postgres", "Statement"]
