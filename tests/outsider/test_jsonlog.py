"""An adapter from outside: one file, no registration, held to the same contract as ours."""

from __future__ import annotations

import ast
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.outsider import jsonlog
from tests.outsider.jsonlog import JsonLog
from tidemill.engine.clock import SystemClock
from tidemill.errors import BackendFull
from tidemill.model import Later, Outcome, Record, Swap
from tidemill.ports import Database
from tidemill.testing import conformance
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance import QUEUE
from tidemill.testing.conformance.suite import message, take, take_one


class TestJsonLog(
    conformance.DatabaseConformance,
    conformance.StoreConformance,
    conformance.QueueConformance,
    conformance.DeadLettersConformance,
    conformance.CommitConformance,
):
    @pytest.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[conformance.Bench]:
        clock = FakeClock()
        async with conformance.opened(JsonLog(tmp_path / "log.jsonl", clock), clock) as bench:
            yield bench


async def reopened(path: Path) -> Database:
    database = JsonLog(path, SystemClock())
    await database.open([], [QUEUE])
    return database


async def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = await reopened(path)
    (record,) = await first.store().swap([Swap("a", None, {"n": 1})])
    await first.queue(QUEUE).send([message("tried"), message("held")])
    tried, held = await take(first.queue(QUEUE), "dead")
    await first.queue(QUEUE).settle([Outcome(tried, Later(0.0, "why"))])
    await first.close()
    second = await reopened(path)
    assert list(await second.store().get(["a"])) == [record]
    again = await take_one(second.queue(QUEUE))
    assert (again.id, again.attempt, again.reason) == ("tried", 1, "why")
    assert list(await second.queue(QUEUE).free([])) == ["a", "dead"]
    assert list(await second.queue(QUEUE).extend([held])) == [float("inf")]
    await second.close()


async def test_a_version_never_comes_again_after_a_restart(tmp_path: Path) -> None:
    versions = []
    for _ in range(3):
        database = await reopened(tmp_path / "log.jsonl")
        (record,) = await database.store().swap([Swap("a", None, {})])
        assert isinstance(record, Record)
        versions.append(record.version)
        await database.store().swap([Swap("a", record.version, None)])
        await database.close()
    assert len(set(versions)) == 3


@pytest.mark.parametrize("lines", [0, 2])
async def test_a_torn_last_line_is_a_call_that_never_was(tmp_path: Path, lines: int) -> None:
    path = tmp_path / "log.jsonl"
    database = await reopened(path)
    for n in range(lines):
        await database.store().swap([Swap(f"whole{n}", None, {})])
    await database.close()
    with path.open("ab") as file:
        file.write(b'[["record", "torn", {"ver')
    database = await reopened(path)
    await database.store().swap([Swap("next", None, {})])
    await database.close()
    database = await reopened(path)
    keys = [record.key for record in await database.store().scan("", "", 10)]
    assert keys == ["next", *(f"whole{n}" for n in range(lines))]
    await database.close()


async def test_a_full_disk_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = await reopened(tmp_path / "log.jsonl")
    await database.store().swap([Swap("there", None, {})])

    with monkeypatch.context() as patch:
        write = os.write
        patch.setattr("tests.outsider.jsonlog.os.write", lambda file, line: write(file, line[:9]))
        with pytest.raises(BackendFull):
            await database.store().swap([Swap("more", None, {})])
    assert [record.key for record in await database.store().scan("", "", 10)] == ["there"]
    await database.store().swap([Swap("after", None, {})])
    await database.close()
    database = await reopened(tmp_path / "log.jsonl")
    assert [record.key for record in await database.store().scan("", "", 10)] == ["after", "there"]
    await database.close()


def test_it_needs_the_ports_and_nothing_else() -> None:
    tree = ast.parse(Path(jsonlog.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in imported if name and name.startswith("tidemill")}
    assert ours == {"tidemill.ports", "tidemill.model", "tidemill.errors"}
