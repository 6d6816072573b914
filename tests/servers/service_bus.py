"""The double of Service Bus for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from urllib.parse import quote

import pytest

from tests.doubles.service_bus.server import Server
from tests.doubles.service_bus.state import Namespace

LOCK = 2.0
"""Seconds of a lock, and what is said of it in the URL."""
VARIABLE = "AZURE_SERVICEBUS_CONNECTION_STRING"


@pytest.fixture
async def bus(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A namespace without queues, whose connection string stands in its usual variable."""
    server = Server(Namespace())
    await server.start()
    monkeypatch.setenv(VARIABLE, server.connection_string)
    yield server
    await server.stop()


def url_of(**options: object) -> str:
    """The URL that goes by that variable."""
    asked: Mapping[str, object] = {"lock": int(LOCK), **options}
    return "azure-service-bus:?" + "&".join(f"{name}={quote(str(value))}" for name, value in asked.items())
