"""`config`: every setting, its value, and where it was said."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tidemill import settings as settings_module
from tidemill.app.worker import Declared
from tidemill.cli.show import Table, print_json, show
from tidemill.cli.target import find, findable
from tidemill.core.scrub import scrub
from tidemill.settings import Read, Settings

DURATIONS = ("grace", "lame_duck")


@dataclass(frozen=True, slots=True)
class Line:
    """One setting as people read it; no password."""

    name: str
    value: str
    source: str


def show_config(target: str | None, options: Mapping[str, object], *, as_json: bool) -> int:
    """Print the settings of a process started here. With an app also where each of its parts lives, and then what
    these settings do not say or say of nothing."""
    folder = Path.cwd()
    read = settings_module.read(os.environ, folder=folder, options=options)
    lines = [*lines_of(read)]
    declared = find(target, folder).declared() if target is not None or findable(folder) else None
    homes = [*homes_of(read.settings, declared)] if declared else []
    if as_json:
        values = {line.name: {"value": line.value, "from": line.source} for line in lines}
        print_json({"settings": values, "homes": dict(homes)})
    else:
        rows = [(line.name, line.value, line.source) for line in lines]
        tables = [Table("settings", ("setting", "value", "from"), rows)]
        show([*tables, Table("where it lives", ("part", "url"), homes)] if homes else tables)
    if declared:
        read.settings.fit(declared)
    return 0


def lines_of(read: Read) -> Iterator[Line]:
    """Each setting once; each part that is set apart by itself."""
    for name in Settings.model_fields:
        value = getattr(read.settings, name)
        if name in ("queues", "collections"):
            for part, its in value.items():
                yield Line(f"{name}.{part}.url", scrub(its.url), _source(read, (name, part, "url")))
        else:
            yield Line(name, _shown(name, value), _source(read, (name,)))


def homes_of(settings: Settings, declared: Declared) -> Iterator[tuple[str, str]]:
    """The URL of each part of the app."""
    for queue, _ in declared.queues:
        yield f"queue {queue.name}", scrub(settings.queue_url(queue.name) or "")
    for source, _ in declared.collections:
        yield f"collection {source.name}", scrub(settings.collection_url(source.name) or "")
    yield "members, leases, timers", scrub(settings.store_url(declared) or "")


def _source(read: Read, path: tuple[str, ...]) -> str:
    source = read.origins.get(path, "the defaults")
    words = source.split(" ", 1)
    return words[1] if len(words) == 2 and words[0] == ".".join(path) else source


def _shown(name: str, value: object) -> str:
    if name in DURATIONS and isinstance(value, float):
        return f"{value:g} s"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else scrub(str(value))
