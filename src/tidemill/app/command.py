"""Events as processes of other programs: one event (or a list) as JSON on standard input, the exit code is the verdict.

No shell is asked, and nothing of an event stands in arguments. The process leads a group of its own, which ends with
it, whatever it has started: at its end, at its time limit, and at a drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from tidemill.core.duration import Duration, seconds
from tidemill.core.scrub import scrub
from tidemill.errors import ConfigurationError, Reject, Retry

MOST = 16 * 1024 * 1024
"""Bytes of an event that are handed over."""

KEPT = 2_000
"""Bytes of what it wrote last that are told of a failure. More is read and dropped, so that it never waits for us."""

PATIENCE = 5.0
"""Seconds between SIGTERM and SIGKILL."""

DATA_ERROR, TEMPORARY = 65, 75
"""Of sysexits.h: what it got can never be worked on; not now."""

OWN = "TIDEMILL_"
"""Variables of ours are not handed on: there are passwords among them."""


@dataclass(frozen=True, slots=True)
class Command:
    """What is started for each event. `limit` in seconds."""

    words: tuple[str, ...]
    limit: float = 600.0

    def open(self) -> None:
        """Raises `ConfigurationError` if there is no such program."""
        if shutil.which(self.words[0]) is None:
            raise ConfigurationError(f"command {self.words[0]!r}: there is no such program on PATH (no shell is asked)")


def command(words: Sequence[str], *, time_limit: Duration = 600.0) -> Command:
    """What `app.forward(…, to=command(["resize", "--to", "80"]))` starts. Exit code 0: done. 65: it can never be, so it
    goes to the dead letters. 75: not now. Any other, or a signal: a failure. All but the first two are tried again."""
    if isinstance(words, str) or not words or not all(isinstance(word, str) and word for word in words):
        raise ConfigurationError(f'command({words!r}): write a list of words, as ["resize", "--to", "80"]; no shell')
    return Command(tuple(words), seconds(time_limit))


async def call(command: Command, body: bytes) -> None:
    """Start it with this on standard input, and wait for its end. Raises `Retry` or `Reject`."""
    if len(body) > MOST:
        raise Reject(f"{len(body)} bytes are too many for a process; {MOST} at most")
    name = command.words[0]
    with Tail() as tail:
        try:
            process = await asyncio.create_subprocess_exec(
                *command.words,
                stdin=asyncio.subprocess.PIPE,
                stdout=tail.write,
                stderr=tail.write,
                env=_environment(os.environ),
                start_new_session=True,
            )
        except OSError as error:
            raise Retry(None, f"{name} cannot be started: {error.strerror or error}") from None
        tail.started()
        try:
            async with asyncio.timeout(command.limit):
                await _feed(process, body)
                code = await process.wait()
        except TimeoutError:
            raise Retry(None, f"{name} ran longer than its limit of {command.limit:g} s") from None
        finally:
            await asyncio.shield(_end(process))
        _judge(name, code, tail.kept)


class Tail:
    """A pipe whose last bytes are kept. Ours instead of asyncio's: with that the end of a process is not seen while
    something that it has started holds the pipe."""

    def __init__(self) -> None:
        read, write = os.pipe()
        self._read = read
        self.write: int = write
        os.set_blocking(self._read, False)
        self._loop = asyncio.get_running_loop()
        self._kept = b""
        self._writing = True

    def __enter__(self) -> Self:
        self._loop.add_reader(self._read, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.remove_reader(self._read)
        os.close(self._read)
        self.started()

    def started(self) -> None:
        """The other end is the process's alone from now on."""
        if self._writing:
            self._writing = False
            os.close(self.write)

    @property
    def kept(self) -> bytes:
        """With what is still in the pipe."""
        while self._take():
            pass
        return self._kept

    def _take(self) -> bool:
        try:
            piece = os.read(self._read, 65536)
        except BlockingIOError:
            return False
        if not piece:
            self._loop.remove_reader(self._read)  # all ends are closed
        self._kept = (self._kept + piece)[-KEPT:]
        return bool(piece)


def _judge(name: str, code: int, said: bytes) -> None:
    if code == 0:
        return
    last = scrub(" | ".join(said.decode("utf-8", "replace").split("\n")[-4:]).strip(" |"))
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    why = f"{name} {how}" + (f": {last}" if last else "")
    if code == DATA_ERROR:
        raise Reject(why)
    raise Retry(None, why)


async def _feed(process: asyncio.subprocess.Process, body: bytes) -> None:
    """Hand over the body and the end of it. One that ends without having read it is judged by its exit code."""
    assert process.stdin is not None
    with contextlib.suppress(ConnectionError):
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()


async def _end(process: asyncio.subprocess.Process) -> None:
    """End the whole group: kindly, if its leader runs, then for good."""
    if process.returncode is None:
        _signal(process.pid, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), PATIENCE)
    _signal(process.pid, signal.SIGKILL)
    await process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in ours.items() if not name.upper().startswith(OWN)}
