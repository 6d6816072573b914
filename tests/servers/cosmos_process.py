"""The double of Cosmos DB as a process of its own, for tests with several replicas; an empty database `shop`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from tests.doubles.cosmos.server import KEY
from tests.doubles.process import started


class Double:
    """The double as a process of its own."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        port = endpoint.rstrip("/").rpartition(":")[2]
        self.url = f"cosmos://:{quote(KEY, safe='')}@127.0.0.1:{port}/shop?tls=no&poll=1"

    def ask(self, name: str, **said: Any) -> dict[str, Any]:
        """Tell it to do something: `split`, `merge`, … of the container that is named."""
        body = json.dumps({"database": "shop", "container": "counters", **said}).encode()
        with urlopen(Request(f"{self.endpoint}_double/{name}", body, method="POST"), timeout=10) as reply:
            found: dict[str, Any] = json.load(reply)
        return found


@pytest.fixture
def double() -> Iterator[Double]:
    with started("cosmos") as endpoint:
        yield Double(endpoint)
