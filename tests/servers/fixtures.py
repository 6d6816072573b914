"""The servers as fixtures: one of each for a process of pytest, a fresh database for each test."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from tests.servers import azurite as storage
from tests.servers import pgbouncer as bouncers
from tests.servers import postgres as servers
from tests.servers.azurite import Account, Azurite
from tests.servers.pgbouncer import PgBouncer
from tests.servers.postgres import Postgres

_numbers = count(1)


@contextmanager
def server_folder(name: str) -> Iterator[Path]:
    """A folder that the servers' account can reach, too: pytest's own are closed to all but us."""
    with tempfile.TemporaryDirectory(prefix=f"tidemill-{name}-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A server of PostgreSQL, shared by the tests of one process."""
    if servers.find() is None:
        pytest.skip(servers.MISSING)
    with server_folder("postgres") as folder:
        server = Postgres.start_in(folder)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def durable_postgres() -> Iterator[Postgres]:
    """A server of its own for one test, which waits for the disk: to be stopped, killed and filled up."""
    if servers.find() is None:
        pytest.skip(servers.MISSING)
    with server_folder("durable") as folder:
        server = Postgres.start_in(folder, fsync=True)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """A fresh, empty database for one test."""
    name = f"test_{next(_numbers)}"
    yield postgres.create(name)
    postgres.drop(name)


@pytest.fixture(scope="session")
def pgbouncer(postgres: Postgres) -> Iterator[PgBouncer]:
    """A PgBouncer in front of `postgres`, in transaction mode."""
    if bouncers.find() is None:
        pytest.skip(bouncers.MISSING)
    with server_folder("pgbouncer") as folder:
        bouncer = PgBouncer.start_in(folder, postgres)
        try:
            yield bouncer
        finally:
            bouncer.stop()


@pytest.fixture(scope="session")
def azurite_server() -> Iterator[Azurite]:
    """Azurite's queue service, shared by the tests of one process."""
    if storage.find() is None:
        pytest.skip(storage.MISSING)
    with server_folder("azurite") as folder:
        server = Azurite.start_in(folder)
        try:
            yield server
        finally:
            server.stop()


@pytest.fixture
def azurite(azurite_server: Azurite) -> Account:
    """Queues of one test's own, by a prefix."""
    return Account(azurite_server, f"t{next(_numbers)}-")
