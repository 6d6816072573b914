"""A file as an earlier release left it, half worked, is opened and worked off by this one.

The dump's moments are moved to now: what is old enough to be thrown away is another test's matter.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.processes import Fleet, until
from tidemill.model import FORMAT

FILES = sorted((Path(__file__).parent / "releases").glob("format-*.sql"))
MOMENT = re.compile(r"1\.79542\d+e\+09|17954\d{5}\.\d+")


def moved_to_now(dump: str) -> str:
    """All its moments, so much later that the newest is now."""
    newest = max(float(found) for found in MOMENT.findall(dump))
    later = time.time() - newest
    return MOMENT.sub(lambda found: repr(float(found[0]) + later), dump)


def test_there_is_a_file_of_each_format() -> None:
    assert [file.stem for file in FILES] == [f"format-{number}" for number in range(1, FORMAT + 1)]


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("dump", FILES, ids=lambda file: file.stem)
async def test_what_an_earlier_release_left_is_worked_off(dump: Path, tmp_path: Path) -> None:
    with Fleet(tmp_path, "tests.acceptance.apps.releases:app") as fleet:
        with closing(sqlite3.connect(tmp_path / "work.db")) as base:
            base.executescript("PRAGMA journal_mode = WAL;" + moved_to_now(dump.read_text()))
        journal = fleet.journal
        replica = fleet.start("two", "--profile", "fast")
        await replica.ready()
        await until(lambda: len(journal.lines("later")) == 4, 30, replica.tail)
        await until(lambda: bool(journal.lines("deleted") and journal.lines("thing", "t9")), 60, replica.tail)
        await until(lambda: bool(journal.lines("often")), 30, replica.tail)
        assert not journal.lines("job"), "what was done is not done again"
        assert not journal.lines("thing", "b1"), "a parked key waits until somebody decides"
        await _replay(fleet)
        await until(lambda: bool(journal.lines("thing", "b2")), 30, replica.tail)
        await until(lambda: bool(journal.lines("job", "dead")), 30, replica.tail)
        assert [line.words[1] for line in journal.lines("thing") if line.words[2] == "bad"] == ["b1", "b2"]
        assert await replica.stop() == 0


async def _replay(fleet: Fleet) -> None:
    words = ("-m", "tidemill", "dead-letter", "replay", fleet.app, "--all", "--database", fleet.database)
    environ = fleet.environ("operator", 0, {})
    process = await asyncio.create_subprocess_exec(sys.executable, *words, env=environ)
    assert await process.wait() == 0
