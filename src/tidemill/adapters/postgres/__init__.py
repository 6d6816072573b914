"""PostgreSQL: store, documents, change feed of any table, queue, dead letters."""

from tidemill.adapters.postgres.database import Postgres
from tidemill.adapters.sql.statement import Statement

__all__ = ["Postgres", "Statement"]
