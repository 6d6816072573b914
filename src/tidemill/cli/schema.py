"""`schema sql | apply | check | drop`: the tables in databases that somebody administers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from tidemill import settings as settings_module
from tidemill.cli.asked import agreed
from tidemill.cli.show import Table, print_json, show
from tidemill.cli.target import find
from tidemill.core.scrub import scrub
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.locate import locate
from tidemill.model import Contents, Piece
from tidemill.operations.schemas import Home, homes

T = TypeVar("T")

ANY = "postgresql:"
"""Enough of a URL to print a script."""


def print_sql(target: str | None, options: Mapping[str, object], role: str | None) -> int:
    """Print the script. Nothing is connected, and no database need be set."""
    for home in _homes(target, options, {"database": ANY}):
        print(home.database.schema_sql(home.sources, home.queues, role), end="")
    return 0


def apply(target: str | None, options: Mapping[str, object], role: str | None, *, as_json: bool) -> int:
    """Make what is missing, and tell each item."""
    found = _each(_homes(target, options), lambda home: home.database.schema_apply(home.sources, home.queues, role))
    return _tell([piece for pieces in found for piece in pieces], ("item", "", "then"), as_json=as_json)


def check(target: str | None, options: Mapping[str, object], *, as_json: bool) -> int:
    """Tell what is missing or differs: 1 if something is."""
    found = _each(_homes(target, options), lambda home: home.database.schema_check(home.sources, home.queues))
    pieces = [piece for pieces in found for piece in pieces]
    _tell(pieces, ("what", "", "seen"), as_json=as_json)
    return 1 if any(piece.state == "problem" for piece in pieces) else 0


def drop(target: str | None, options: Mapping[str, object], *, yes: bool, as_json: bool) -> int:
    """Take it all away, after showing what goes, and a question if somebody is there to answer."""
    where = _homes(target, options)
    found = _each(where, lambda home: home.database.schema_contents())
    if as_json:
        print_json(found)
    else:
        for one in found:
            print(scrub(_shown(one)))
    if not any(one.there for one in found):
        return 0
    if foreign := [name for one in found for name in one.foreign]:
        raise ConfigurationError(f"this is not ours: {', '.join(foreign[:5])}; move or drop it first")
    if not yes and not agreed("Drop all of this for good?"):
        raise ConfigurationError("nothing was dropped: add --yes")
    _each(where, lambda home: home.database.schema_drop())
    if not as_json:
        print("dropped")
    return 0


def _homes(
    target: str | None, options: Mapping[str, object], defaults: Mapping[str, object] | None = None
) -> list[Home]:
    folder = Path.cwd()
    settings = settings_module.load(os.environ, folder=folder, options=options, defaults=defaults)
    declared = find(target, folder).declared()
    settings.fit(declared)
    return homes(locate(declared, settings, SystemClock(), None))


def _each(where: Sequence[Home], work: Callable[[Home], Awaitable[T]]) -> list[T]:
    async def one_by_one() -> list[T]:
        return [await work(home) for home in where]

    return asyncio.run(one_by_one())


def _tell(pieces: Sequence[Piece], columns: Sequence[str], *, as_json: bool) -> int:
    if as_json:
        print_json(pieces)
    else:
        show([Table("schema", columns, [(one.name, one.state, scrub(one.told)) for one in pieces])])
    return 0


def _shown(contents: Contents) -> str:
    if not contents.there:
        return f"schema {contents.schema}: there is none"
    held = ", ".join(f"{count} {what}" for what, count in contents.counts.items())
    parts = [f"schema {contents.schema}: {held}"]
    if contents.triggers:
        parts.append(f"the triggers of {', '.join(contents.triggers)}")
    if contents.users:
        parts.append(f"{contents.users} connection(s) of running processes use it")
    return "; ".join(parts)
