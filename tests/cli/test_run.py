"""`tidemill run` as a process: it starts, answers, stops; and says in one line why it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.cli.health import ask
from tidemill.engine.bind import bind

from .conftest import APP


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    command = [sys.executable, "-m", "tidemill", *words]
    return subprocess.Popen(command, cwd=folder, env=environ, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def port() -> int:
    """A port that was free a moment ago."""
    with bind("127.0.0.1", 0) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def running(tmp_path: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    (tmp_path / "app.py").write_text(APP)
    words = ["--database", "sqlite:///work.db", "--health-host", "127.0.0.1", "--health-port", str(port)]
    process = start(tmp_path, "run", *words, "--group", "queues", "--log-format", "json")
    yield process
    process.kill()
    process.communicate()


def lines_until(process: subprocess.Popen[str], text: str) -> str:
    """The first line of its log that has this text; it must come before the log ends."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the log ended without {text!r}")


def test_it_runs_answers_and_stops(running: subprocess.Popen[str], port: int) -> None:
    ready = lines_until(running, "ready: ")
    assert '"level": "info"' in ready
    assert "send_invoice, refresh" in ready
    for _ in range(300):  # the first snapshot comes with the next tick of the engine
        if ask("127.0.0.1", port, "/readyz", 30.0)[0] == 200:
            break
        time.sleep(0.1)
    assert ask("127.0.0.1", port, "/readyz", 30.0) == (200, "ok\n")
    assert ask("127.0.0.1", port, "/livez", 30.0) == (200, "ok\n")
    status, page = ask("127.0.0.1", port, "/metrics", 30.0)
    assert (status, 'tidemill_running{worker="send_invoice"} 0' in page) == (200, True)
    running.send_signal(signal.SIGTERM)
    lines_until(running, "stopped, exit code 0")
    assert running.wait(60) == 0


def test_ctrl_c_is_sigterm(running: subprocess.Popen[str]) -> None:
    lines_until(running, "ready: ")
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 0


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        words = ["--database", "sqlite:///work.db", "--health-host", "127.0.0.1", "--health-port", str(port)]
        process = start(tmp_path, "run", *words)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 2
    assert told.startswith(f"tidemill: port {port} is taken by ")
    assert f"(pid {os.getpid()})" in told
    assert told.count("\n") == 1
