"""What stands in the databases for an app, made and looked at without running it. Backends that make a file of their
own when they are opened have nothing to do with this; those that others administer implement `Schemed`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tidemill.engine.effects import OUTBOX
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError
from tidemill.model import Contents, Piece, QueueSpec, Source


@runtime_checkable
class Schemed(Protocol):
    """A database whose tables may be made apart from a start. It need not be open."""

    def schema_sql(self, sources: Sequence[Source], queues: Sequence[QueueSpec], role: str | None = None) -> str:
        """A script that makes what these declarations need and gives the role (None: the usual one) the rights of a
        worker. Needs no connection."""
        ...

    async def schema_apply(
        self, sources: Sequence[Source], queues: Sequence[QueueSpec], role: str | None = None
    ) -> Sequence[Piece]:
        """Make what is missing, and give the role its rights (None: grant nothing). All or nothing."""
        ...

    async def schema_check(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> Sequence[Piece]:
        """What is missing, differs or is not allowed. Changes nothing."""
        ...

    async def schema_contents(self) -> Contents:
        """What a drop would take away. Raises `ConfigurationError` for a schema that is not ours."""
        ...

    async def schema_drop(self) -> None:
        """Take it away; `Refused` if that would take what is not ours."""
        ...


@dataclass(frozen=True, slots=True)
class Home:
    """A database with what is declared to live in it."""

    database: Schemed
    sources: Sequence[Source]
    queues: Sequence[QueueSpec]


def homes(places: Places) -> list[Home]:
    """The databases that have a schema. Raises `ConfigurationError` if there is none."""
    found = [
        Home(
            database,
            [spec for spec, home in places.sources.values() if home is database],
            [*(spec for spec, home in places.queues.values() if home is database), OUTBOX],
        )
        for database in places.databases
        if isinstance(database, Schemed)
    ]
    if not found:
        kinds = ", ".join(dict.fromkeys(type(database).__name__ for database in places.databases))
        raise ConfigurationError(
            f"the database is {kinds}, which makes what it needs by itself; tidemill schema is for postgresql:"
        )
    return found
