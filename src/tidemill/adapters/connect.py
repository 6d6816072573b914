"""URL → database. The adapter's module is imported when its scheme is met, so its library may be missing until then."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import TypeAlias

from tidemill.core.scrub import scrub
from tidemill.errors import ConfigurationError
from tidemill.ports import Clock, Database

Factory: TypeAlias = Callable[[str, Clock], Database]


def connect(url: str, clock: Clock, adapters: Mapping[str, Factory] | None = None) -> Database:
    """The database of a URL, not yet opened. `adapters` adds schemes of the user's own, or replaces ours.

    Raises `ConfigurationError` for a scheme nobody knows, a library that is not installed, a URL that is none.
    """
    scheme, colon, _ = url.partition(":")
    known = {**_OURS, **(adapters or {})}
    if not colon or not scheme:
        raise ConfigurationError(f"{scrub(url)!r} is no database URL: write memory: or sqlite:///file.db")
    factory = known.get(scheme.lower())
    if factory is None:
        near = get_close_matches(scheme.lower(), list(known), 1, 0.5)
        words = f"did you mean {near[0]}:?" if near else f"there are {', '.join(sorted(known))}"
        raise ConfigurationError(f"{scrub(url)}: no adapter for {scheme}: ({words})")
    try:
        return factory(url, clock)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "tidemill"):
            raise
        extra = _EXTRAS.get(scheme.lower(), scheme.lower())
        raise ConfigurationError(
            f"{scrub(url)}: {scheme}: needs {missing}: pip install 'tidemill[{extra}]' or {missing}"
        ) from None


def _memory(url: str, clock: Clock) -> Database:
    from tidemill.adapters.memory import Memory

    return Memory(clock)


def _sqlite(url: str, clock: Clock) -> Database:
    from tidemill.adapters.sqlite import SQLite

    return SQLite.from_url(url, clock)


def _postgres(url: str, clock: Clock) -> Database:
    from tidemill.adapters.postgres.database import Postgres

    return Postgres.from_url(url, clock)


def _cosmos(url: str, clock: Clock) -> Database:
    from tidemill.adapters.cosmos import Cosmos

    return Cosmos.from_url(url, clock)


def _service_bus(url: str, clock: Clock) -> Database:
    from tidemill.adapters.service_bus import ServiceBus

    return ServiceBus.from_url(url, clock)


def _storage_queue(url: str, clock: Clock) -> Database:
    from tidemill.adapters.storage_queue import StorageQueues

    return StorageQueues.from_url(url, clock)


_OURS: Mapping[str, Factory] = {
    "azure-service-bus": _service_bus,
    "azure-storage-queue": _storage_queue,
    "cosmos": _cosmos,
    "memory": _memory,
    "postgres": _postgres,
    "postgresql": _postgres,
    "sqlite": _sqlite,
}

_EXTRAS: Mapping[str, str] = {
    "azure-service-bus": "azure",
    "azure-storage-queue": "azure",
    "cosmos": "azure",
    "postgresql": "postgres",
}
"""The extra that brings a scheme's library, where it is not named after the scheme."""
