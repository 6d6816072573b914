"""An operator's commands beside a running process, on one SQLite file: what they wish for happens."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

LAB = """
from tidemill import App, Change

app = App("lab")
orders = app.collection("orders", dict[str, int], id="number", partitions=2)


@app.on_change(orders, name="bill")
async def bill(change: Change[dict[str, int]]) -> None:
    print("bill", change.value["number"], flush=True)


@app.cron("0 3 * * *")
def nightly() -> None:
    print("nightly", flush=True)
"""

PUT = """
import sys
from app import app, orders
from tidemill import wait

with app.client():
    for number in sys.argv[1:]:
        wait(orders.put({"number": int(number)}))
"""

Command = Callable[..., list[str]]


@pytest.fixture
def environ() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    return {**kept, "TIDEMILL_DATABASE": "sqlite:///work.db"}


@pytest.fixture
def command(tmp_path: Path, environ: dict[str, str]) -> Command:
    """Run a command in another process, to its end; the lines it printed."""
    (tmp_path / "app.py").write_text(LAB)
    (tmp_path / "put.py").write_text(PUT)

    def command(*words: str) -> list[str]:
        line = [sys.executable, *(words if words[0] == "put.py" else ("-m", "tidemill", *words))]
        ran = subprocess.run(line, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.splitlines()

    return command


@pytest.fixture
def start(tmp_path: Path, environ: dict[str, str]) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Start a replica of all workers; it is killed at the end if it still lives."""
    begun: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "tidemill", "run", "--health-host", "127.0.0.1", "--health-port", "0"]
        begun.append(subprocess.Popen(line, cwd=tmp_path, env=environ, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield start
    for process in begun:
        process.kill()
        process.communicate()


def next_lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return sorted(process.stdout.readline().strip() for _ in range(count))


def test_what_is_wished_for_happens(
    tmp_path: Path, command: Command, start: Callable[[], subprocess.Popen[str]]
) -> None:
    process = start()
    command("put.py", "1", "2", "3")
    three = ["bill 1", "bill 2", "bill 3"]
    assert next_lines(process, 3) == three
    command("feed", "reset", "bill", "--to", "beginning", "--yes")
    assert next_lines(process, 3) == three
    command("timer", "run", "nightly")
    assert next_lines(process, 1) == ["nightly"]
    command("feed", "pause", "bill")
    command("feed", "resume", "bill")
    command("put.py", "4")
    assert next_lines(process, 1) == ["bill 4"]

    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    (tmp_path / "app.py").write_text(LAB.replace('"bill"', '"invoice"'))
    command("put.py", "5")
    said = command("feed", "rename", "bill", "invoice")
    assert said == ["moved from bill to invoice: 2 partition(s), 0 key(s) in the park, 0 letter(s)"]
    assert next_lines(start(), 1) == ["invoice 5"], "it goes on where the old name was"
