"""The double of Cosmos DB for tests: in the loop of the test, with an empty database `shop`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest

from tests.doubles.cosmos.server import Server
from tests.doubles.cosmos.state import Account


def url_of(server: Server, options: str = "") -> str:
    """The URL by which an app would name it."""
    return f"cosmos://:{quote(server.key, safe='')}@127.0.0.1:{server.port}/shop?tls=no{options}"


@pytest.fixture
async def regions() -> AsyncIterator[Server]:
    """An account in two regions; Here takes the writes."""
    account = Account()
    account.databases["shop"] = {}
    server = Server(account, regions=("Here", "There"))
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def cosmos() -> AsyncIterator[Server]:
    account = Account()
    account.databases["shop"] = {}
    server = Server(account)
    await server.start()
    yield server
    await server.stop()
