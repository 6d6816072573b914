"""From a URL to a database, and what is told when there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidemill.adapters.connect import connect
from tidemill.adapters.memory import Memory
from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.ports import Clock, Database


def told(url: str) -> str:
    with pytest.raises(ConfigurationError) as raised:
        connect(url, SystemClock())
    [line] = raised.value.problems
    return line


def test_ours(tmp_path: Path) -> None:
    assert isinstance(connect("memory:", SystemClock()), Memory)
    assert isinstance(connect(f"sqlite:///{tmp_path}/x.db", SystemClock()), SQLite)


def test_an_adapter_of_the_users_own() -> None:
    clock = SystemClock()
    made: list[str] = []

    def nats(url: str, clock: Clock) -> Database:
        made.append(url)
        return Memory(clock)

    assert isinstance(connect("nats://here", clock, {"nats": nats}), Memory)
    assert made == ["nats://here"]


@pytest.mark.parametrize(
    ("url", "line"),
    [
        ("sqllite:///x.db", "sqllite:///x.db: no adapter for sqllite: (did you mean sqlite:?)"),
        (
            "ftp://u:s3cret@x",
            "ftp://u:***@x: no adapter for ftp:"
            " (there are azure-service-bus, azure-storage-queue, cosmos, memory, postgres, postgresql, sqlite)",
        ),
        ("tidemill.db", "'tidemill.db' is no database URL: write memory: or sqlite:///file.db"),
        ("", "'' is no database URL: write memory: or sqlite:///file.db"),
    ],
)
def test_a_url_that_leads_nowhere(url: str, line: str) -> None:
    assert told(url) == line


def test_a_library_that_is_not_installed() -> None:
    def nats(url: str, clock: Clock) -> Database:
        raise ModuleNotFoundError("No module named 'nats.aio'", name="nats.aio")

    with pytest.raises(ConfigurationError, match=r"nats: needs nats: pip install 'tidemill\[nats\]' or nats"):
        connect("nats://here", SystemClock(), {"nats": nats})


def test_a_module_of_ours_that_is_missing_is_a_fault() -> None:
    def broken(url: str, clock: Clock) -> Database:
        raise ModuleNotFoundError("No module named 'tidemill.gone'", name="tidemill.gone")

    with pytest.raises(ModuleNotFoundError):
        connect("x://here", SystemClock(), {"x": broken})
