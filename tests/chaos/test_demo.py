"""`make demo` to its end, told to stop half-way, with Avalon killed under it: it says so and leaves nothing running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.chaos


@contextmanager
def demo(folder: Path, orders: int, **more: str) -> Iterator[subprocess.Popen[str]]:
    env = os.environ | {"DEMO_ORDERS": f"{orders}", "DEMO_FOLDER": f"{folder}"} | more
    command = [sys.executable, "-m", "examples.avalon.demo"]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as ran:
        try:
            yield ran
        finally:
            ran.kill()


def avalon(ran: subprocess.Popen[str], folder: Path) -> psutil.Process:
    """The child, once it is ready."""
    log = folder / "avalon.log"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if log.exists() and "ready:" in log.read_text():
            [child] = psutil.Process(ran.pid).children()
            return child
        time.sleep(0.05)
    raise TimeoutError("Avalon did not start")


def test_it_counts_what_it_did(tmp_path: Path) -> None:
    with demo(tmp_path, 300, DEMO_EXIT="1") as ran:
        said, _ = ran.communicate(timeout=110)
    counted(ran, said)


def test_it_counts_the_same_on_postgresql(tmp_path: Path, postgres_url: str) -> None:
    with demo(tmp_path, 300, DEMO_EXIT="1", TIDEMILL_DATABASE=postgres_url) as ran:
        said, _ = ran.communicate(timeout=110)
    counted(ran, said)
    assert not list(tmp_path.glob("*.db")), "nothing is left on a file"


def counted(ran: subprocess.Popen[str], said: str) -> None:
    assert ran.returncode == 0, said
    rows = dict(line.strip("│ ").split("│") for line in said.splitlines() if line.count("│") == 3)
    counts = {name.strip(): value.strip() for name, value in rows.items()}
    assert {name: counts[name] for name in ("orders", "changes", "messages", "invoices")} == dict.fromkeys(
        ("orders", "changes", "messages", "invoices"), "300"
    )
    assert {counts[name] for name in ("dead letters", "lost", "duplicates", "wrong sums")} == {"0"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_half_way_it_stops_avalon_too(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path, 18_532) as ran:
        child = avalon(ran, tmp_path)
        ran.send_signal(number)
        said, _ = ran.communicate(timeout=60)
    assert ran.returncode == 130, said
    assert "Traceback" not in said
    assert not child.is_running()


def test_it_says_that_avalon_has_died(tmp_path: Path) -> None:
    with demo(tmp_path, 18_532) as ran:
        avalon(ran, tmp_path).kill()
        said, _ = ran.communicate(timeout=60)
    assert ran.returncode == 1, said
    assert "Avalon is not running; the end of its log" in said
    assert "Traceback" not in said


def test_it_serves_until_told(tmp_path: Path) -> None:
    with demo(tmp_path, 50) as ran:
        assert ran.stdout is not None
        for line in ran.stdout:
            if "Ctrl-C stops it" in line:
                break
        ran.send_signal(signal.SIGINT)
        said, _ = ran.communicate(timeout=60)
    assert ran.returncode == 0, said
