"""Signals before, during and after the imports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemill.signals import Signals


@pytest.fixture
def left() -> list[int]:
    return []


@pytest.fixture
def signals(left: list[int]) -> Iterator[Signals]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    signals = Signals(leave=left.append)
    signals.install()
    yield signals
    for number, handler in before.items():
        signal.signal(number, handler)


def test_both_signals_are_counted(signals: Signals) -> None:
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGINT)
    assert signals.count == 2


def test_who_asks_late_is_told_of_what_came_before(signals: Signals) -> None:
    told: list[int] = []
    signal.raise_signal(signal.SIGTERM)
    signals.notify(lambda: told.append(signals.count))
    assert told == [1]
    signal.raise_signal(signal.SIGTERM)
    assert told == [1, 2]
    signals.notify(None)
    signal.raise_signal(signal.SIGTERM)
    assert told == [1, 2]


def test_who_asks_early_is_not_told(signals: Signals) -> None:
    told: list[int] = []
    signals.notify(lambda: told.append(1))
    assert told == []


def test_the_third_ends_the_process(signals: Signals, left: list[int]) -> None:
    for _ in range(3):
        signal.raise_signal(signal.SIGINT)
    assert left == [1]


def test_restored_signals_are_pythons_own(signals: Signals) -> None:
    signals.restore()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signals.count == 0


# --- the command --------------------------------------------------------------------------------------------

APP = """
import os, signal
for _ in range({signals}):
    os.kill(os.getpid(), signal.SIGTERM)
from tidemill import App
app = App("avalon")
queue = app.queue("q", int)
@app.on_message(queue)
def work(number: int) -> None: ...
"""


def tidemill(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
    return subprocess.run(
        [sys.executable, "-m", "tidemill", *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_signal_during_the_users_import_ends_before_anything_is_opened(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format(signals=1))
    ran = tidemill(tmp_path, "run", "--database", "sqlite:///work.db", "--health-port", "0")
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")
    assert not (tmp_path / "work.db").exists()


def test_three_signals_end_even_an_import(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format(signals=3) + "raise SystemExit('not reached')\n")
    ran = tidemill(tmp_path, "run", "--database", "sqlite:///work.db")
    assert ran.returncode == 1
    assert ran.stderr == "tidemill: told to stop for the third time, ending at once\n"


def test_a_command_that_reads_dies_of_the_signal(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP.format(signals=1))
    assert tidemill(tmp_path, "workers").returncode == -signal.SIGTERM


def test_nothing_heavy_is_imported_before_signals_are_caught() -> None:
    program = (
        "import sys, tidemill.__main__;"
        "print(sorted({'typer', 'pydantic', 'asyncio', 'logging', 'importlib.metadata'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"
