"""When the process ends itself, and when it must not."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from tidemill.core.probes import NEVER, USUAL, Snapshot, Thresholds
from tidemill.engine.watchdog import Watchdog

UP = Snapshot(at=0.0, started=True, handlers=0.0)


class Deaths:
    def __init__(self) -> None:
        self.told: list[str] = []
        self.codes: list[int] = []


def watch(published: Snapshot, looks: list[float], *, stuck: bool = True, limits: Thresholds = USUAL) -> Deaths:
    """Look at these times; the engine goes on publishing unless it is the engine that is `stuck`."""
    deaths = Deaths()
    dog = Watchdog(end=deaths.codes.append, dump=deaths.told.append, limits=limits)
    for now in looks:
        dog(published if stuck else replace(published, at=now), now)
        if deaths.codes:
            break
    return deaths


def seconds(until: int) -> list[float]:
    return [float(i) for i in range(until + 1)]


@pytest.mark.parametrize(("until", "codes"), [(119, []), (120, [1])])
def test_a_silent_engine_ends_the_process_after_120_s(until: int, codes: list[int]) -> None:
    assert watch(UP, seconds(until)).codes == codes


def test_a_silent_handlers_loop_ends_the_process_and_says_where() -> None:
    deaths = watch(replace(UP, stuck_in="bill", where="app.py:12"), seconds(120), stuck=False)
    assert deaths.codes == [1]
    assert deaths.told == [
        "the handlers loop has not ticked for 30 s, in bill at app.py:12: /livez fails; all stacks follow",
        "the handlers loop has not ticked for 120 s, in bill at app.py:12: all stacks follow, then exit 1",
    ]


def test_what_the_probe_is_about_to_say_is_told_once_each_time() -> None:
    told: list[str] = []
    dog = Watchdog(dump=told.append, end=lambda code: None)
    for now in range(100):
        ticked = 0.0 if now < 50 else max(50.0, now - 40.0)  # silent from 0 to 50 s, and from 50 s on again
        dog(replace(UP, at=float(now), handlers=ticked), float(now))
    assert [line[:45] for line in told] == ["the handlers loop has not ticked for 30 s: /l"] * 2


def test_a_freeze_of_the_whole_process_is_nobodys_fault() -> None:
    assert watch(UP, [*seconds(10), *(500.0 + i for i in range(100))]).codes == []


def test_a_loop_that_is_stuck_after_a_freeze_is_found() -> None:
    assert watch(UP, [*seconds(10), *(500.0 + i for i in range(121))]).codes == [1]


@pytest.mark.parametrize(
    "snapshot",
    [replace(UP, started=False), replace(UP, draining=True)],
    ids=["a lifespan that loads for minutes", "a drain has its own budget"],
)
def test_handlers_are_not_watched(snapshot: Snapshot) -> None:
    assert watch(snapshot, seconds(300), stuck=False).codes == []


def test_an_engine_that_is_stuck_in_its_drain_is_found() -> None:
    assert watch(replace(UP, draining=True), seconds(120)).codes == [1]


def test_a_debugger_may_wait() -> None:
    assert watch(UP, seconds(1000), limits=NEVER).codes == []


def test_the_end_prints_the_stacks_even_if_nobody_reads_them() -> None:
    """stderr is a full pipe: a blocking write would hold the GIL for ever, so nothing would end."""
    program = (
        "import os\n"
        "from tidemill.core.probes import Snapshot\n"
        "from tidemill.engine.watchdog import Watchdog\n"
        "os.set_blocking(2, False)\n"
        "try:\n"
        "    while True: os.write(2, b'x' * 4096)\n"
        "except BlockingIOError: os.set_blocking(2, True)\n"
        "dog = Watchdog()\n"
        "for i in range(121): dog(Snapshot(at=0.0, started=True), float(i))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE)
    assert process.wait(30) == 1
    process.communicate()


def test_the_end_names_the_loop_and_prints_the_stacks() -> None:
    program = (
        "from tidemill.core.probes import Snapshot\n"
        "from tidemill.engine.watchdog import Watchdog\n"
        "def somewhere():\n"
        "    dog = Watchdog()\n"
        "    for i in range(121): dog(Snapshot(at=0.0, started=True), float(i))\n"
        "somewhere()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("tidemill: the engine loop has not ticked for 120 s: all stacks follow")
    assert "in somewhere" in ended.stderr
