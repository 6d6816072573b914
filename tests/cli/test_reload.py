"""`tidemill dev` starts anew when a file changes, says what is wrong with it, and leaves nobody behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from examples.avalon.system import free_port

APP = """
from pathlib import Path
from tidemill import App

app = App("reloaded")
Path("started").open("a").write("ONE\\n")


@app.every("1h", per_replica=True)
async def tick() -> None: ...
"""


def _until(true: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + 40
    while not true():
        assert time.monotonic() < end, what()
        time.sleep(0.05)


@contextmanager
def dev(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Callable[[], str]]]:
    (folder / "app.py").write_text(APP)
    log = folder / "dev.log"
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMILL_", "COV"))}
    words = [sys.executable, "-m", "tidemill", "dev", "--health-port", str(free_port())]
    with log.open("wb") as out:
        process = subprocess.Popen(words, cwd=folder, env=plain, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        _until(lambda: "ready: tick" in log.read_text(), log.read_text)
        yield process, log.read_text
    finally:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []:
            child.kill()
        process.kill()
        process.wait()


def test_it_starts_anew_and_survives_a_mistake(tmp_path: Path) -> None:
    with dev(tmp_path) as (process, told):
        (tmp_path / "app.py").write_text(APP.replace("ONE", "TWO"))
        _until(lambda: told().count("ready: tick") == 2, told)
        assert (tmp_path / "started").read_text().split() == ["ONE", "TWO"]
        (tmp_path / "app.py").write_text("def broken(:\n")
        _until(lambda: "waiting for a change" in told(), told)
        assert "tidemill: the app could not be imported: app.py:1: SyntaxError: invalid syntax" in told()
        (tmp_path / "app.py").write_text(APP)
        _until(lambda: told().count("ready: tick") == 3, told)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "Traceback" not in told()


def test_the_child_does_not_outlive_who_watches_it(tmp_path: Path) -> None:
    with dev(tmp_path) as (process, _):
        [child] = psutil.Process(process.pid).children()
        process.kill()
        process.wait()
        child.wait(30)
