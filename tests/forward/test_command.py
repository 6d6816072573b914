"""Processes: what they get, what their end means, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from tidemill import command
from tidemill.app.command import MOST, call
from tidemill.errors import ConfigurationError, Reject, Retry

BODY = b'{"id":"c-1","data":{"who":"$(touch x)"}}'


async def run(program: str, *, time_limit: float = 20.0, body: bytes = BODY) -> None:
    await call(command([sys.executable, "-c", program], time_limit=time_limit), body)


async def test_it_gets_the_event_on_standard_input(tmp_path: Path) -> None:
    out = tmp_path / "out"
    await run(f"import sys; open({str(out)!r}, 'wb').write(sys.stdin.buffer.read())")
    assert out.read_bytes() == BODY


async def test_it_gets_none_of_our_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_DATABASE", "postgresql://u:p@host/db")
    monkeypatch.setenv("MINE", "1")
    await run("import os, sys; sys.exit('MINE' not in os.environ or any(n.startswith('TIDEMILL') for n in os.environ))")


async def test_data_that_can_never_be_worked_on() -> None:
    with pytest.raises(Reject, match=r"ended with exit code 65: no such country"):
        await run("import sys; print('no such country'); sys.exit(65)")


@pytest.mark.parametrize(("code", "said"), [(75, "exit code 75"), (1, "exit code 1"), (2, "exit code 2")])
async def test_a_failure_is_tried_again(code: int, said: str) -> None:
    with pytest.raises(Retry, match=said):
        await run(f"import sys; sys.exit({code})")


async def test_a_signal_is_a_failure() -> None:
    with pytest.raises(Retry, match="was ended by SIGKILL"):
        await run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")


async def test_one_that_does_not_read_is_judged_by_its_end() -> None:
    await run("pass", body=b"x" * 1_000_000)


async def test_one_that_floods_never_waits_for_us() -> None:
    with pytest.raises(Retry) as told:
        await run("import sys\nfor _ in range(2000): print('x' * 10_000)\nprint('password=abc'); sys.exit(3)")
    assert str(told.value).endswith("password=***")
    assert len(str(told.value)) < 2_500


async def test_one_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    program = (
        "import os, signal, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import signal, time;"
        " signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(Retry, match=r"ran longer than its limit of 4 s"):
        await run(program, time_limit=4)
    _all_gone(pids)


async def test_what_it_leaves_behind_is_ended_at_once(tmp_path: Path) -> None:
    """Though it holds our pipe open."""
    pids = tmp_path / "pids"
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pids)!r}, 'w').write(str(child.pid))\n"
    )
    begun = time.monotonic()
    await run(program)
    assert time.monotonic() - begun < 10
    _all_gone(pids)


async def test_a_call_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    calling = asyncio.create_task(
        run(f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    )
    while not (pids.exists() and pids.read_text()):
        await asyncio.sleep(0.01)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    _all_gone(pids)


async def test_a_body_that_is_too_large() -> None:
    with pytest.raises(Reject, match="too many for a process"):
        await run("pass", body=b"x" * (MOST + 1))


async def test_a_program_that_went_away() -> None:
    with pytest.raises(Retry, match="cannot be started"):
        await call(command(["/nowhere/at-all"]), BODY)


async def test_no_descriptor_is_left() -> None:
    await run("pass")
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(5):
        await run("print('x')")
    assert (len(os.listdir("/proc/self/fd")) if before else 0) == before


@pytest.mark.parametrize("words", [[], "ls -l", [""], ["ls", 1]])
def test_words_that_are_none(words: object) -> None:
    with pytest.raises(ConfigurationError, match="write a list of words"):
        command(words)  # type: ignore[arg-type]


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="there is no such program on PATH"):
        command(["no-such-program-here"]).open()


def _all_gone(pids: Path) -> None:
    """A signal takes a moment; whoever is gone may wait for its new parent to notice."""
    end = time.monotonic() + 5
    left = [int(pid) for pid in pids.read_text().split()]
    while left := [pid for pid in left if _lives(pid)]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return str(psutil.Process(pid).status()) != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
