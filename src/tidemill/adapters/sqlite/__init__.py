"""SQLite: everything in one file, for many processes of one host."""

from tidemill.adapters.sql.statement import Statement
from tidemill.adapters.sqlite.database import SQLite

__all__ = ["SQLite", "Statement"]
