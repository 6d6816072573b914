"""Commands of others: run with a time limit, without a shell, their output by line or as a whole."""

from __future__ import annotations

import os
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from tidemill.errors import TidemillError

LAST = 8
"""Lines of a failed command that are told."""


class CommandFailed(TidemillError):
    """A command of others failed."""


@dataclass(frozen=True, slots=True)
class Said:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str


def ask(argv: Sequence[str], *, limit: float, folder: Path | None = None) -> Said:
    """Run it to its end, whatever its exit code. Raises `CommandFailed` if it is not there, or takes more than `limit`
    seconds."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit, cwd=folder, check=False
        )
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]} is not there") from None
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{_short(argv)} took more than {limit:g} s and was stopped") from None
    return Said(done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace"))


def follow(
    argv: Sequence[str], *, limit: float, line: Callable[[str], object], environment: Mapping[str, str] | None = None
) -> list[str]:
    """Run it, and hand over each line that it writes; all of them. Raises `CommandFailed` with its last lines if it
    fails, is not there, or takes more than `limit` seconds."""
    late = False
    try:
        running = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]} is not there") from None

    def stop() -> None:
        nonlocal late
        late = True
        running.kill()

    timer = Timer(limit, stop)
    timer.start()
    seen: list[str] = []
    try:
        assert running.stdout is not None
        for raw in running.stdout:
            seen.append(raw.decode("utf-8", "replace").rstrip())
            line(seen[-1])
        code = running.wait()
    except BaseException:
        running.kill()  # an interrupt ends what we started
        raise
    finally:
        timer.cancel()
    if late:
        raise CommandFailed(f"{_short(argv)} took more than {limit:g} s and was stopped")
    if code != 0:
        raise failed(argv, code, seen)
    return seen


def failed(argv: Sequence[str], code: int, lines: Sequence[str]) -> CommandFailed:
    """That it failed, with its last lines."""
    last = deque((line.strip() for line in lines if line.strip()), LAST)
    return CommandFailed(f"{_short(argv)} ended with {code}: {' | '.join(last) or 'it said nothing'}")


def _short(argv: Sequence[str]) -> str:
    return " ".join((Path(argv[0]).name, *argv[1:2]))
