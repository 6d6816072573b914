"""Commands of others: run with a time limit, without a shell, their output by line or as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from tidemill.errors import TidemillError

LAST = 8
"""Lines of a failed command that are told."""

PATIENCE = 5.0
"""Seconds that a command has to end by itself after SIGTERM."""


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
    with _started(argv, folder=folder, both=False) as running:
        try:
            out, err = running.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            _end(running)
            raise CommandFailed(f"{_short(argv)} took more than {limit:g} s and was stopped") from None
        except BaseException:
            _end(running)  # an interrupt ends what we started
            raise
    return Said(running.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def follow(
    argv: Sequence[str], *, limit: float, line: Callable[[str], object], environment: Mapping[str, str] | None = None
) -> list[str]:
    """Run it, and hand over each line that it writes; all of them. Raises `CommandFailed` with its last lines if it
    fails, is not there, or takes more than `limit` seconds."""
    late = False
    seen: list[str] = []

    def stop() -> None:
        nonlocal late
        late = True
        _end(running)

    with _started(argv, environment=environment, both=True) as running:
        timer = Timer(limit, stop)
        timer.start()
        try:
            for raw in running.stdout or ():
                seen.append(raw.decode("utf-8", "replace").rstrip())
                line(seen[-1])
            code = running.wait()
        except BaseException:
            _end(running)  # an interrupt ends what we started
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


def _started(
    argv: Sequence[str], *, both: bool, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """In a process group of its own: what it starts (docker has plug-ins) can be ended with it. `both`: its errors come
    with its output."""
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if both else subprocess.PIPE,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    except FileNotFoundError:
        raise CommandFailed(f"{argv[0]} is not there") from None
    except OSError as error:
        raise CommandFailed(f"{argv[0]} cannot be run: {error.strerror}") from None


def _end(running: subprocess.Popen[bytes]) -> None:
    """End it and what it started: asked first, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(running.pid, number)
        with suppress(subprocess.TimeoutExpired):
            running.wait(PATIENCE)


def _short(argv: Sequence[str]) -> str:
    return " ".join((Path(argv[0]).name, *argv[1:2]))
