"""A double as a process of its own: how a test starts it, and how it waits for its end."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def started(name: str, *words: str) -> Iterator[str]:
    """`python -m tests.doubles.<name> words…` until the end of the block; the first line that it says."""
    line = [sys.executable, "-m", f"tests.doubles.{name}", *words]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate()


async def until_told() -> None:
    """In the double: until SIGTERM or Ctrl-C."""
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    await ended.wait()
