"""SIGTERM at any moment, in real processes: what finished runs once, what was cancelled runs again with its attempt
unchanged, what runs on is left to its burial, and the exit code says which of these it was."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.acceptance.apps.terminating import AT_ONCE, app, deafs, jobs, sticks
from tests.acceptance.processes import Fleet, Replica, until
from tidemill.engine.work import Budget

APP = "tests.acceptance.apps.terminating:app"
GRACE = 3.0
BUDGET = Budget(grace=GRACE)

LAST = "told to stop for the third time, ending at once"


def fleet_in(folder: Path) -> Fleet:
    return Fleet(folder, APP, TIDEMILL_GRACE=f"{GRACE:g}")


def after(fleet: Fleet) -> Replica:
    """The replica that takes over. It makes short work of it."""
    return fleet.start("two", LONGEST="0.05")


# --- 200 messages in work -----------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.timeout(120)
@pytest.mark.parametrize("second", ["beside", "afterwards"])
async def test_200_in_work_end_once_or_run_again_unchanged(tmp_path: Path, second: str) -> None:
    random = Random(f"{second}")
    # A few have failed before, fewer than would open the breaker: their attempt is 2 and must stay 2.
    values = [job(n, random.uniform(0.1, 2 * GRACE), fails=int(n % 25 == 0)) for n in range(AT_ONCE)]
    waiting = [job(n, 0.0) for n in range(AT_ONCE, 2 * AT_ONCE)]
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one")
        await _work(fleet, values)
        async with app.client(database=fleet.database):
            await jobs.send_many(waiting)
        told = await _go_and_stop(fleet, one)
        if second == "afterwards":
            assert await one.ended(_limit()) == 0, one.tail()
        two = after(fleet)
        assert await one.ended(_limit()) == 0, one.tail()
        await _all_ended(fleet, len(values) + len(waiting))
        assert await two.stop() == 0
    _check_history(fleet, one, told)
    cancelled = {line.words[1] for line in fleet.journal.lines("cancelled")}
    assert 50 <= len(cancelled) <= 150
    assert cancelled <= {value["id"] for value in values if value["seconds"] > GRACE / 2}
    assert "stopped, exit code 0" in one.log.read_text()


def _check_history(fleet: Fleet, one: Replica, told: float) -> None:
    """Each message: failures that were recorded, at most one run that was cancelled, and one that ended."""
    story: dict[str, list[tuple[str, ...]]] = {}
    for line in fleet.journal.lines():
        who = "one" if line.process == one.pid else "two"
        match line.words:
            case ("start", id, attempt, delivery):
                assert who == "two" or line.at < told + 1.0, f"{line} was started after the SIGTERM"
                story.setdefault(id, []).append(("start", who, attempt, delivery))
            case ("end" | "cancelled" as word, id):
                story.setdefault(id, []).append((word, who))
    for id, steps in story.items():
        attempt = "2" if ("start", "one", "2", "1") in steps else "1"
        failed = [("start", "one", "1", "1")] if attempt == "2" else []
        ended = [("start", "one", attempt, "1"), ("end", "one")]
        again = [("start", "one", attempt, "1"), ("cancelled", "one"), ("start", "two", attempt, "1"), ("end", "two")]
        other = [("start", "two", attempt, "1"), ("end", "two")]
        assert steps in (failed + ended, failed + again, other), f"{id}: {steps}"


def job(n: int, seconds: float, *, fails: int = 0, cleanup: float = 0.0, sends: bool = False) -> dict[str, Any]:
    return {"id": f"{n}", "seconds": seconds, "fails": fails, "cleanup": cleanup, "sends": sends}


async def _work(fleet: Fleet, values: list[dict[str, Any]]) -> None:
    """Send these, and wait until the last attempt of all runs at once; none of them ends before it is told to go."""
    async with app.client(database=fleet.database):
        await jobs.send_many(values)
    expected = {(value["id"], f"{value['fails'] + 1}") for value in values}
    await until(lambda: {line.words[1:3] for line in fleet.journal.lines("start")} >= expected, 30.0)
    assert not fleet.journal.lines("end")


async def _go_and_stop(fleet: Fleet, replica: Replica) -> float:
    """The word to go on, and SIGTERM; the moment."""
    fleet.folder.joinpath("go").touch()
    replica.signal(signal.SIGTERM)
    return time.monotonic()


async def _all_ended(fleet: Fleet, count: int, limit: float = 30.0) -> None:
    await until(lambda: len(_ended(fleet)) >= count, limit, lambda: f"{len(_ended(fleet))} of {count} ended")
    assert max(_ended(fleet).values()) == 1


def _ended(fleet: Fleet) -> Counter[str]:
    return Counter(line.words[1] for line in fleet.journal.lines("end"))


def _limit() -> float:
    """Seconds that a drain may take, all in all."""
    return BUDGET.total()


# --- before it is ready -------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5])
async def test_from_the_first_import_on_it_is_a_clean_exit(tmp_path: Path, moment: float) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one")
        await until(lambda: catches(one.pid), 10.0, every=0.002)
        await asyncio.sleep(moment)
        one.signal(signal.SIGTERM)
        assert await one.ended(_limit()) == 0, one.tail()
        assert "Traceback" not in one.tail()
        noted = [line.words[0] for line in fleet.journal.lines()]
        assert noted in ([], ["entering", "entered", "left"])


@pytest.mark.chaos
@pytest.mark.timeout(60)
async def test_told_while_the_app_is_imported_it_opens_nothing(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one", IMPORT="3")
        await until(lambda: bool(fleet.journal.lines("importing")), 20.0)
        one.signal(signal.SIGTERM)
        assert await one.ended(_limit()) == 0, one.tail()
        assert [line.words[0] for line in fleet.journal.lines()] == ["importing", "imported"]
        assert one.log.read_text() == ""
        assert not tmp_path.joinpath("work.db").exists()


@pytest.mark.chaos
@pytest.mark.timeout(60)
async def test_told_three_times_while_the_app_is_imported_it_ends_at_once(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one", IMPORT="600")
        await until(lambda: bool(fleet.journal.lines("importing")), 20.0)
        await _three_times(one)
        assert await one.ended(3.0) == 1
        assert one.log.read_text() == f"tidemill: {LAST}\n"


@pytest.mark.chaos
@pytest.mark.timeout(60)
@pytest.mark.parametrize(("lifespan", "code"), [("2", 0), ("600", 1), ("stuck", 1)])
async def test_told_while_it_starts_it_leaves_what_was_opened(tmp_path: Path, lifespan: str, code: int) -> None:
    """A lifespan that is being entered may end that in its 5 s, and is left again; the others are given up."""
    with fleet_in(tmp_path) as fleet:
        async with app.client(database=fleet.database):
            await jobs.send(job(0, 0.0))
        fleet.folder.joinpath("go").touch()
        one = fleet.start("one", LIFESPAN=lifespan)
        await until(lambda: bool(fleet.journal.lines("entering")), 20.0)
        one.signal(signal.SIGTERM)
        assert await one.ended(_limit()) == code, one.tail()
        expected = ["entering", "entered", "left"] if code == 0 else ["entering"]
        assert [line.words[0] for line in fleet.journal.lines()] == expected
        assert ("the lifespan did not end within 5 s" in one.log.read_text()) is (code == 1)
        assert members(fleet) == 0
        two = after(fleet)
        await _all_ended(fleet, 1)
        assert await two.stop() == 0


def catches(pid: int) -> bool:
    """Whether this process has a handler for SIGTERM."""
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("SigCgt:"):
            return bool(int(text.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


# --- told again ---------------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.timeout(60)
async def test_told_twice_it_cancels_at_once(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one", TIDEMILL_GRACE="300")
        await _work(fleet, [job(n, 600.0, fails=int(n == 7), cleanup=0.5) for n in range(AT_ONCE)])
        told = await _go_and_stop(fleet, one)
        await asyncio.sleep(2.0)
        assert not fleet.journal.lines("cancelled")
        one.signal(signal.SIGTERM)
        assert await one.ended(BUDGET.total() - BUDGET.grace) == 0, one.tail()
        assert len(fleet.journal.lines("cancelled")) == AT_ONCE
        two = after(fleet)
        await _all_ended(fleet, AT_ONCE)
        assert await two.stop() == 0
    _check_history(fleet, one, told)


@pytest.mark.chaos
@pytest.mark.timeout(60)
async def test_told_three_times_it_ends_at_once_and_loses_nothing(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one", TIDEMILL_GRACE="300")
        await _work(fleet, [job(n, 600.0) for n in range(10)])
        async with app.client(database=fleet.database):
            await deafs.send(job(10, 600.0))
        await until(lambda: bool(fleet.journal.lines("start", "10")), 10.0)
        await _three_times(one)
        assert await one.ended(3.0) == 1
        assert LAST in one.log.read_text()
        fleet.folder.joinpath("go").touch()
        two = after(fleet)
        await _all_ended(fleet, 11)
        assert await two.stop() == 0
        assert {line.words[2] for line in fleet.journal.lines("start")} == {"1"}


async def _three_times(replica: Replica) -> None:
    """Signals that come too close are one: each is seen before the next is sent."""
    for _ in range(3):
        replica.signal(signal.SIGTERM)
        await asyncio.sleep(0.3)


# --- what does not end --------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.timeout(90)
@pytest.mark.parametrize("how", ["sleep", "spin", "deaf"])
async def test_what_runs_on_is_named_and_not_given_back(tmp_path: Path, how: str) -> None:
    with fleet_in(tmp_path) as fleet:
        one, two = fleet.start("one"), None
        await one.ready()
        async with app.client(database=fleet.database):
            await (deafs if how == "deaf" else sticks).send(job(0, 600.0) | {"how": how})
            await until(lambda: bool(fleet.journal.lines("start", "0")), 10.0)
            two = after(fleet)
            await two.ready()
            one.signal(signal.SIGTERM)
            code = await one.ended(_limit())
            end = time.monotonic()
        assert code == 1
        worker = "ignore" if how == "deaf" else "stick"
        assert f"still running, will be taken over: {worker}" in one.log.read_text()
        await _all_ended(fleet, 1)
        assert await two.stop() == 0
        first, again = fleet.journal.lines("start", "0")
        assert (first.process, first.words[2:]) == (one.pid, ("1", "1"))
        assert (again.process, again.words[2:]) == (two.pid, ("1", "2"))
        assert again.at > end - 0.5, "it was taken over while it ran"


# --- where it runs ------------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.timeout(60)
@pytest.mark.parametrize("moment", ["importing", "start"])
async def test_as_pid_1_it_ends_like_any_other(tmp_path: Path, moment: str) -> None:
    prefix = ("unshare", "--fork", "--pid", "--mount-proc", "--kill-child")
    if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare may not make a PID namespace here: it needs root, or CAP_SYS_ADMIN")
    with fleet_in(tmp_path) as fleet:
        async with app.client(database=fleet.database):
            await jobs.send_many([job(0, 0.1), job(1, 600.0)])
        early = moment == "importing"
        one = fleet.start("one", prefix=prefix, IMPORT="2" if early else "0")
        await until(lambda: len(fleet.journal.lines(moment)) == (1 if early else 2), 20.0)
        fleet.folder.joinpath("go").touch()
        os.kill(child_of(one.pid), signal.SIGTERM)
        assert await one.ended(_limit()) == 0, one.tail()
        assert {line.process for line in fleet.journal.lines()} == {1}
        assert [line.words[1] for line in fleet.journal.lines("end")] == ([] if early else ["0"])
        two = after(fleet)
        await _all_ended(fleet, 2)
        assert await two.stop() == 0


@pytest.mark.chaos
@pytest.mark.timeout(60)
async def test_with_stdin_closed_it_ends_like_any_other(tmp_path: Path) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one", prefix=("sh", "-c", 'exec "$@" <&-', "sh"))
        await _work(fleet, [job(0, 0.1), job(1, 600.0)])
        told = await _go_and_stop(fleet, one)
        assert await one.ended(_limit()) == 0, one.tail()
        two = after(fleet)
        await _all_ended(fleet, 2)
        assert await two.stop() == 0
    _check_history(fleet, one, told)
    assert [line.words[1] for line in fleet.journal.lines("cancelled")] == ["1"]


def child_of(pid: int) -> int:
    [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(child)


# --- the database locked ------------------------------------------------------------------------------------


@pytest.mark.chaos
@pytest.mark.timeout(90)
@pytest.mark.parametrize("file", ["work.db", "work-members.db"])
@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
async def test_locked_for_a_moment_the_drain_waits(tmp_path: Path, file: str, mode: str) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one")
        await _work(fleet, [job(n, 0.5 if n % 2 else 600.0) for n in range(20)])
        with locked(tmp_path / file, mode):
            told = await _go_and_stop(fleet, one)
            await asyncio.sleep(2.0)
            assert one.process.poll() is None
        assert await one.ended(_limit()) == 0, one.tail()
        two = after(fleet)
        await _all_ended(fleet, 20)
        assert await two.stop() == 0
    _check_history(fleet, one, told)
    assert len(fleet.journal.lines("cancelled")) == 10


@pytest.mark.chaos
@pytest.mark.timeout(120)
@pytest.mark.parametrize("sends", [False, True])
@pytest.mark.parametrize("files", [("work.db",), ("work-members.db",), ("work.db", "work-members.db")])
async def test_locked_for_good_it_ends_in_its_budget_and_says_what_was_not_written(
    tmp_path: Path, files: tuple[str, ...], sends: bool
) -> None:
    with fleet_in(tmp_path) as fleet:
        one = fleet.start("one", LEAVING="600" if sends else "0")
        await _work(fleet, [job(n, 0.5 if n % 2 else 600.0, sends=sends) for n in range(20)])
        with ExitStack() as stack:
            for file in files:
                stack.enter_context(locked(tmp_path / file, "EXCLUSIVE"))
            await _go_and_stop(fleet, one)
            assert await one.ended(_limit()) == 1
        two = after(fleet)
        await until(lambda: len(_ended(fleet)) == (40 if sends else 20), 30.0)
        assert await two.stop() == 0
    said = one.log.read_text()
    assert ("20 outcomes could not be written" in said) is ("work.db" in files)
    assert ("the member record could not be removed" in said) is ("work-members.db" in files)
    assert "is silent" not in said
    assert len(fleet.journal.lines("cancelled")) == (20 if sends and "work.db" in files else 10)
    assert {line.words[2] for line in fleet.journal.lines("start")} == {"1"}


@contextmanager
def locked(path: Path, mode: str) -> Iterator[None]:
    """A foreign program holds the file."""
    with closing(sqlite3.connect(path, timeout=10.0, isolation_level=None)) as connection:
        connection.execute(f"BEGIN {mode}")
        yield
        connection.execute("ROLLBACK")


def members(fleet: Fleet) -> int:
    """Records of members that have neither left nor been buried."""
    with closing(sqlite3.connect(fleet.folder / "work-members.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM tidemill_record").fetchone()[0])
