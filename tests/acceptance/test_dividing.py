"""Three processes on one file: told to end, killed, taken for a host that is gone, and stopped.

Every change carries the moment at which it was written, so the longest wait of a change is the gap that its
partition had: while one owner was gone and the next had not begun.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.acceptance.deliveries import doubles, in_order, item
from tests.acceptance.journal import Line
from tests.acceptance.processes import Fleet, Replica, until
from tidemill.errors import TidemillError

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

KEYS = 48
RATE = 100.0
CHECKPOINT = 1.0
QUOTA = [5, 5, 6]


class Division:
    """The fleet, and what a writer writes beside it."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.written: dict[tuple[str, int], float] = {}
        self._writing = True

    # --- the store ------------------------------------------------------------------------------------------

    def owners(self) -> Counter[str]:
        """How many partitions each member holds."""
        return Counter(owner for owner in self._leases().values() if owner)

    def owned_by(self, member: str) -> set[str]:
        return {partition for partition, owner in self._leases().items() if owner == member}

    def balanced(self) -> bool:
        return sorted(self.owners().values()) == QUOTA

    def member(self, name: str) -> str:
        """The id under which the replica of this name is a member now."""
        found = self._records("work-members.db", "member/")
        [member] = [key for key, value in found.items() if value.get("name") == name and value.get("state") != "buried"]
        return member

    def lock_file(self, member: str) -> Path:
        return self.fleet.folder / "work.d" / f"member-{member}.lock"

    def free(self) -> bool:
        """Whether nobody holds the lock of the writers."""
        base = sqlite3.connect(self.fleet.folder / "work.db", timeout=1.0, isolation_level=None)
        try:
            base.execute("BEGIN IMMEDIATE")
            base.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
        finally:
            base.close()
        return True

    def _leases(self) -> dict[str, str | None]:
        return {key: value["owner"] for key, value in self._records("work.db", "lease/watch/").items()}

    def _records(self, file: str, prefix: str) -> dict[str, dict[str, str]]:
        base = sqlite3.connect(self.fleet.folder / file, timeout=30.0)
        with suppress(sqlite3.OperationalError):  # not there yet
            rows = base.execute("SELECT key, value FROM tidemill_record WHERE key LIKE ?", (prefix + "%",)).fetchall()
            base.close()
            return {key.removeprefix(prefix): json.loads(value) for key, value in rows}
        base.close()
        return {}

    # --- the writer -----------------------------------------------------------------------------------------

    async def write(self) -> None:
        """One change after the other, evenly; each is repeated until it is accepted."""
        from tests.acceptance.apps.dividing import app, things

        async with app.client(database=self.fleet.database):
            count, began = 0, time.monotonic()
            while self._writing:
                key, n = f"k{count % KEYS}", count // KEYS
                self.written[f"{key}", n] = time.monotonic()
                while True:
                    with suppress(TidemillError):
                        await things.put({"id": key, "key": key, "n": n})
                        break
                    await asyncio.sleep(0.05)
                count += 1
                await asyncio.sleep(max(began + count / RATE - time.monotonic(), 0.0))

    async def stop_the_one_inside_a_commit(self) -> Replica:
        """Have one of them stop while it holds the file; which one it is."""
        from tests.acceptance.apps.dividing import app, things

        async with app.client(database=self.fleet.database):
            await things.put({"id": "stop", "key": "stop", "n": 0})
        await until(lambda: bool(self.fleet.journal.lines("stopped")), 10.0)
        [line] = self.fleet.journal.lines("stopped")
        [replica] = [replica for replica in self.fleet.replicas if replica.pid == line.process]
        return replica

    async def finish(self, writing: asyncio.Task[None]) -> list[Line]:
        """Write no more, and wait until all is handled; the journal."""
        self._writing = False
        await writing
        await until(lambda: not self.missing(), 30.0, lambda: f"lost: {sorted(self.missing())[:5]}")
        return self.fleet.journal.lines()

    def missing(self) -> set[tuple[str, int]]:
        return self.written.keys() - {item(line) for line in self.fleet.journal.lines("end")}

    def longest_wait(self, since: float) -> float:
        """Of the changes written from a second before then on: from the write to the first start."""
        first: dict[tuple[str, int], float] = {}
        for line in self.fleet.journal.lines("start"):
            first.setdefault(item(line), line.at)
        return max(first[one] - at for one, at in self.written.items() if at > since - 1.0 and one in first)


@asynccontextmanager
async def division(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Division, asyncio.Task[None]]]:
    """Three replicas that share the work evenly, and a writer."""
    with Fleet(folder, "tests.acceptance.apps.dividing:app") as fleet:
        monkeypatch.setenv("JOURNAL", str(fleet.journal.path))
        importlib.invalidate_caches()
        made = Division(fleet)
        replicas = [fleet.start(name) for name in ("one", "two", "three")]
        await asyncio.gather(*(replica.ready() for replica in replicas))
        took = await until(made.balanced, 10.0, lambda: f"shares: {made.owners()}")
        assert took <= 5.0, made.owners()
        writing = asyncio.create_task(made.write())
        try:
            await asyncio.sleep(3.0)
            yield made, writing
        finally:
            writing.cancel()
            await asyncio.wait([writing])


async def test_who_is_told_to_end_leaves_a_gap_of_a_second_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with division(tmp_path, monkeypatch) as (made, writing):
        told = time.monotonic()
        assert await made.fleet.replicas[0].stop() == 0
        await asyncio.sleep(3.0)
        lines = await made.finish(writing)
        assert made.longest_wait(told) <= 1.0
        assert doubles(lines) == []
        assert in_order(lines)


async def test_who_is_killed_is_followed_within_two_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with division(tmp_path, monkeypatch) as (made, writing):
        made.fleet.replicas[0].kill()
        killed = time.monotonic()
        await asyncio.sleep(4.0)
        lines = await made.finish(writing)
        assert made.longest_wait(killed) <= 2.0
        assert all(first.at >= killed - CHECKPOINT - 0.5 for first, _ in doubles(lines))
        assert in_order(lines)


async def test_who_dies_with_its_host_is_followed_within_sixteen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with division(tmp_path, monkeypatch) as (made, writing):
        made.lock_file(made.member("one")).unlink()  # as on another host, where nobody sees whether it is locked
        made.fleet.replicas[0].kill()
        killed = time.monotonic()
        await asyncio.sleep(18.0)
        lines = await made.finish(writing)
        assert 5.0 < made.longest_wait(killed) <= 16.0
        assert all(first.at >= killed - CHECKPOINT - 0.5 for first, _ in doubles(lines))
        assert in_order(lines)


async def test_who_is_stopped_for_twenty_seconds_writes_nothing_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with division(tmp_path, monkeypatch) as (made, writing):
        sleeper, former = made.fleet.replicas[0], made.member("one")
        had = made.owned_by(former)
        sleeper.signal(signal.SIGSTOP)
        while not await asyncio.to_thread(made.free):  # it stopped inside a commit: that is another test
            sleeper.signal(signal.SIGCONT)
            await asyncio.sleep(0.05)
            sleeper.signal(signal.SIGSTOP)
        stopped = time.monotonic()
        await asyncio.sleep(20.0)
        assert len(had) in QUOTA
        assert made.owned_by(former) == set()
        sleeper.signal(signal.SIGCONT)
        woken = time.monotonic()
        await until(made.balanced, 15.0, lambda: f"shares: {made.owners()}")
        lines = await made.finish(writing)
        assert made.longest_wait(stopped) <= 16.0
        assert made.member("one") != former
        assert made.owned_by(former) == set(), "a late write of the sleeper took effect"
        assert all(first.at >= stopped - CHECKPOINT - 0.5 for first, _ in doubles(lines))
        own = [line for line in lines if line.process == sleeper.pid and line.words[0] == "start"]
        taken = max(second.at for _, second in doubles(lines)) if doubles(lines) else stopped
        assert not [line for line in own if woken <= line.at < woken + 0.2 and line.at < taken]
        assert await sleeper.stop() == 0


async def test_who_is_stopped_inside_a_commit_stops_everybody_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with division(tmp_path, monkeypatch) as (made, writing):
        sleeper = await made.stop_the_one_inside_a_commit()
        await asyncio.sleep(20.0)
        assert sum(made.owners().values()) == 16
        sleeper.signal(signal.SIGCONT)
        woken = time.monotonic()
        others = {replica.pid for replica in made.fleet.replicas} - {sleeper.pid}

        def resumed() -> bool:
            starts = made.fleet.journal.lines("start")
            return others <= {line.process for line in starts if line.at > woken}

        assert await until(resumed, 10.0) <= 2.0
        lines = await made.finish(writing)
        assert in_order(lines)
        for replica in made.fleet.replicas:
            assert await replica.stop() == 0
