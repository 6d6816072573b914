"""The double of Cosmos DB as a process of its own, for tests with several replicas; an empty database `shop`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from tests.doubles.cosmos.server import KEY


class Double:
    """The double as a process of its own."""

    def __init__(self, process: subprocess.Popen[str], endpoint: str) -> None:
        self.process = process
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
    line = [sys.executable, "-m", "tests.doubles.cosmos"]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield Double(process, process.stdout.readline().strip())
    process.terminate()
    process.communicate()
