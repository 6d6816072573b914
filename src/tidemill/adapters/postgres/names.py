"""The names of our tables. They are made of the declared names alone, so that `tidemill schema sql` needs no server."""

from __future__ import annotations

from hashlib import blake2b

LONGEST = 63 - len("document_") - len("_field_xxxxxxxx")
SLOTS = 3
"""Children of a log: one is written, one is read to its end, one is empty."""


def quoted(name: str) -> str:
    """An identifier for SQL text."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A string for SQL text."""
    escaped = text.replace("'", "''")
    return f" E'{escaped.replace(chr(92), chr(92) * 2)}'" if "\\" in text else f"'{escaped}'"


def short(name: str) -> str:
    """The name as a part of an identifier; a long one is cut and told apart by a hash."""
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}_{blake2b(name.encode(), digest_size=4).hexdigest()}"


class Names:
    """Names in one schema, ready for SQL text."""

    def __init__(self, schema: str) -> None:
        self.schema: str = quoted(schema)

    def of(self, name: str) -> str:
        """A table or a function."""
        return f"{self.schema}.{quoted(name)}"

    def log(self, source: str) -> str:
        """The log of a collection or table, over all its children."""
        return self.of(f"log_{short(source)}")

    def log_slot(self, source: str, slot: int) -> str:
        return self.of(f"log_{short(source)}_{slot}")

    def documents(self, collection: str) -> str:
        return self.of(f"document_{short(collection)}")

    def messages(self, queue: str) -> str:
        return self.of(f"message_{short(queue)}")

    def capture(self, source: str, when: str) -> str:
        """The trigger function of a captured table."""
        return self.of(f"capture_{short(source)}_{when}")

    def quoted_bare(self, name: str) -> str:
        """An index: it is in the schema of its table."""
        return quoted(short(name))
