"""SQLite: everything in one file, for many processes of one host."""

from tidemill.adapters.sqlite.database import SQLite
from tidemill.model import Statement

__all__ = ["SQLite", "Statement"]
