"""`tidemill health` against a real health server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tidemill.__main__ import main
from tidemill.core.probes import Snapshot
from tidemill.engine.bind import bind
from tidemill.engine.health_server import HealthServer

UP = Snapshot(at=100.0, started=True, handlers=100.0)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HealthServer]:
    server = HealthServer(bind("127.0.0.1", 0), UP, monotonic=lambda: 100.0, metrics=lambda s, now: "")
    server.start()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIDEMILL_HEALTH_PORT", str(server.address[1]))
    yield server
    server.stop()


def test_well(server: HealthServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health"]) == 0
    assert capsys.readouterr().out == "ok\n"


def test_not_well(server: HealthServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.publish(replace(UP, draining=True))
    assert main(["health"]) == 0
    assert main(["health", "--probe", "ready"]) == 1
    assert capsys.readouterr().out == "ok\ndraining: draining\n"


def test_by_port_by_url_and_by_file(server: HealthServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    port = server.address[1]
    monkeypatch.setenv("TIDEMILL_HEALTH_PORT", "1")
    assert main(["health", "--port", str(port)]) == 0
    assert main(["health", f"--url=http://127.0.0.1:{port}/readyz"]) == 0
    assert main(["health", f"--url=http://127.0.0.1:{port}"]) == 0
    monkeypatch.delenv("TIDEMILL_HEALTH_PORT")
    (tmp_path / "tidemill.toml").write_text(f"health_port = {port}\n")
    assert main(["health"]) == 0


def test_nobody_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
    assert main(["health", "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"tidemill health: no answer from 127.0.0.1:{port}: ")


@pytest.mark.parametrize(
    "words",
    [["--prt", "1"], ["--port"], ["--port", "x"], ["--probe", "dead"], ["--url", "https://x"], ["--timeout", "soon"]],
)
def test_a_mistake_is_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "--help"]) == 0
    assert "HEALTHCHECK" in capsys.readouterr().out


def test_it_is_light() -> None:
    """It runs every few seconds in each container: no command line library, no validator, no event loop."""
    program = (
        "import sys; from tidemill.__main__ import main; main(['health', '--port', '1']);"
        "print(sorted({'typer', 'click', 'pydantic', 'asyncio', 'logging', 'http', 'ssl'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"
