"""`dev` with reload: a supervisor that watches the files, and the replica as its child.

The child is in a session of its own, so Ctrl-C in a terminal reaches the supervisor alone, which tells the child once.
The child's stdin is a pipe that nobody writes to: it ends with the supervisor, however that ends, and then the child
ends itself. A child that ended by itself (a mistake in a file: it has told its line) is started anew at the next
change.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tidemill.signals import Signals

WATCHED = (".py", ".toml", ".env")
LOOK = 200
"""Milliseconds between two looks at the signals and the child."""
PATIENCE = 3.0
"""Seconds that running handlers get at a reload; then they are hurried, and after as many again the child is ended."""


def supervise(words: Sequence[str], folder: Path, signals: Signals) -> int:
    """Run `tidemill dev WORDS` as a child, anew at each change, until told to stop; the last one's exit code."""
    from watchfiles import DefaultFilter, watch

    class Sources(DefaultFilter):
        def __call__(self, change: object, path: str) -> bool:
            return path.endswith(WATCHED) and super().__call__(change, path)  # type: ignore[arg-type]

    child, told = _start(words), False
    for changes in watch(
        folder, watch_filter=Sources(), rust_timeout=LOOK, yield_on_timeout=True, raise_interrupt=False, debounce=300
    ):
        if signals.count:
            break
        if changes:
            names = sorted({Path(path).name for _, path in changes})
            _say(f"{', '.join(names)} changed, starting anew")
            _stop(child)
            child, told = _start(words), False
        elif child.poll() is not None and not told:
            told = True
            _say(f"ended with exit code {child.returncode}; waiting for a change")
    code = _stop(child)
    return 0 if told or signals.count > 1 else max(code, 0)  # what ended by itself, or was hurried, was told already


def end_with_parent() -> None:
    """In the child: stop as by SIGTERM when the supervisor is gone."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="supervisor", daemon=True).start()


def _start(words: Sequence[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tidemill", "dev", *words, "--supervised"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _stop(child: subprocess.Popen[bytes]) -> int:
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
        if child.poll() is not None:
            break
        child.send_signal(number)
        try:
            child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            continue
    return child.wait()


def _say(line: str) -> None:
    sys.stderr.write(f"tidemill dev: {line}\n")
