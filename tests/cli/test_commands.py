"""The commands that read and decide, on a database of `tidemill dev`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite
from tidemill.core.member import Member, key_of
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Dead, DeadLetter, Message, Outcome, QueueSpec, Swap

from .conftest import Run

INVOICES = QueueSpec("invoices")
ORDERS = CollectionSpec("orders", 2)


def prepare(folder: Path, work: Callable[[SQLite], Awaitable[None]]) -> None:
    """Do this in the folder's tidemill.db."""

    async def opened() -> None:
        database = SQLite(folder / "tidemill.db", SystemClock())
        await database.open([ORDERS], [INVOICES])
        try:
            await work(database)
        finally:
            await database.close()

    asyncio.run(opened())


async def die(database: SQLite) -> None:
    """Two dead messages and a parked key."""
    queue = database.queue(INVOICES)
    await queue.send([Message("invoices", id, b'{"number": 1}') for id in ("m-1", "m-2")])
    found = await queue.receive("x", 10, 0.0)
    await queue.settle([Outcome(one, Dead("no rate"), error="Traceback\n  ValueError: no rate") for one in found])
    parked = DeadLetter("feed/bill/0", "c-1", "4711", 1, b"{}", 3, "Timeout", "", 1_700_000_000.0)
    await database.dead_letters().put([parked])


@pytest.fixture
def dead(folder: Path) -> None:
    prepare(folder, die)


# --- the frame ----------------------------------------------------------------------------------------------


def test_help_has_examples(run: Run) -> None:
    for words in (["--help"], ["run", "-h"], ["dead-letter", "replay", "--help"]):
        ran = run(*words)
        assert ran.code == 0
        assert "Examples:\n    tidemill " in ran.out


def test_the_release(run: Run) -> None:
    assert run("--version").out == "tidemill 0.1.0\n"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["runn"], "No such command 'runn'. Did you mean 'run'? (see tidemill --help)"),
        (["run", "--grup", "x"], "No such option: --grup"),
        (["dead-letter", "show"], "Missing argument 'id'. (see tidemill dead-letter show --help)"),
        (["run", "--grace", "soon"], "--grace: 'soon' is no duration"),
        (["workers", "--group", "feed"], "group 'feed' is not declared in app 'avalon'; did you mean feeds?"),
        (["status", "--database", "sqllite:///x"], "sqllite:///x: no adapter for sqllite: (did you mean sqlite:?)"),
    ],
)
def test_a_mistake_is_one_line(run: Run, words: list[str], line: str) -> None:
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"tidemill: {line}")
    assert ran.err.count("\n") == 1


@pytest.mark.parametrize("command", ["run", "status"])
def test_without_a_database_nothing_starts_and_none_is_made(run: Run, folder: Path, command: str) -> None:
    ran = run(command)
    assert ran.code == 2
    assert ran.err.startswith("tidemill: no database for queue 'invoices', collection 'orders', timers and leases: set")
    assert [path.name for path in folder.glob("*.db*")] == []


def test_every_mistake_of_the_settings_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMILL_DATABSE", "memory:")
    monkeypatch.setenv("TIDEMILL_GRACE", "soon")
    ran = run("run")
    assert ran.code == 2
    assert [line.partition(" ")[0] for line in ran.err.splitlines()] == ["tidemill:", "tidemill:"]


# --- workers ------------------------------------------------------------------------------------------------


def test_workers(run: Run) -> None:
    lines = run("workers").out.splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["NAME", "KIND", "TRIGGER", "GROUP", "CONCURRENCY", "TIME", "LIMIT", "DELETES"],
        ["bill", "feed", "orders", "feeds", "1", "10", "min", "not", "delivered"],
    ]
    assert len(lines) == 7


def test_workers_as_json(run: Run) -> None:
    workers = {row["name"]: row for row in json.loads(run("workers", "--json").out)}
    assert workers["audit"] == {
        "name": "audit",
        "kind": "feed",
        "trigger": "orders",
        "group": "feeds",
        "concurrency": 16,
        "time_limit": None,
        "deletes": "delivered",
    }
    assert workers["bill"]["deletes"] == "not delivered"
    assert workers["send_invoice"]["deletes"] is None
    assert workers["refresh"]["trigger"] == "every 30 s in each replica"
    assert workers["nightly"]["trigger"] == "0 3 * * * (Europe/Berlin)"


def test_workers_of_a_group(run: Run) -> None:
    rows = json.loads(run("workers", "--json", "--group", "queues").out)
    assert [row["name"] for row in rows] == ["send_invoice", "refresh"]


# --- status -------------------------------------------------------------------------------------------------


def test_status(run: Run, folder: Path, dead: None) -> None:
    async def join(database: SQLite) -> None:
        member = Member("m1", "pod-1", ("queues",), started_at=1_700_000_000.0)
        await database.store().swap([Swap(key_of("m1"), None, member.to_value())])

    prepare(folder, join)
    ran = run("status")
    assert ran.code == 0
    assert "  pod-1  m1  queues  works  2023-11-14 22:13:20Z" in ran.out
    assert "  bill    nobody  never worked  0, 1" in ran.out
    assert "nobody works group feeds\nnobody works group timers\n" in ran.out


def test_status_as_json(run: Run, dead: None) -> None:
    status = json.loads(run("status", "--json").out)
    assert status["app"] == "avalon"
    assert status["dead_letters"] == {"feed/bill/0": 1, "queue/invoices": 2}
    assert status["queues"]["invoices"]["ready"] == 0
    assert len(status["partitions"]) == 4


# --- dead letters -------------------------------------------------------------------------------------------


def listed(run: Run, *words: str) -> list[str]:
    return [letter["id"] for letter in json.loads(run("dlq", "ls", "--json", *words).out)]


def test_letters_are_listed_and_selected(run: Run, dead: None) -> None:
    assert sorted(listed(run)) == ["c-1", "m-1", "m-2"]
    assert listed(run, "--source", "feed/bill", "--key", "4711") == ["c-1"]
    assert listed(run, "--id", "m-2") == ["m-2"]
    assert listed(run, "--key", "nobody") == []
    assert run("dead-letter", "ls", "--id", "nobody").out == "dead letters: none\n"


def test_a_long_list_is_cut_and_says_so(run: Run, dead: None) -> None:
    ran = run("dead-letter", "ls", "--limit", "2")
    assert ran.out.endswith("and more: --limit 2 reached\n")
    assert len(ran.out.splitlines()) == 5


def test_a_letter_is_shown_with_body_and_error(run: Run, dead: None) -> None:
    out = run("dead-letter", "show", "m-1").out
    assert "source:    queue/invoices\nid:        m-1\n" in out
    assert "error:\n  Traceback\n    ValueError: no rate\n" in out
    assert 'body:\n  {\n    "number": 1\n  }\n' in out


def test_a_letter_that_is_not_there(run: Run, dead: None) -> None:
    ran = run("dead-letter", "show", "nobody")
    assert (ran.code, ran.err) == (1, "tidemill: there is no dead letter 'nobody'\n")


def test_replay(run: Run, dead: None) -> None:
    assert run("dlq", "replay", "--id", "m-1", "--dry-run").out == "would replay 1 letter(s) and 0 parked key(s)\n"
    assert run("dlq", "replay", "--id", "m-1").out == "1 letter(s) went back to their queues\n"
    assert sorted(listed(run)) == ["c-1", "m-2"]
    assert json.loads(run("status", "--json").out)["queues"]["invoices"]["ready"] == 1
    assert run("dlq", "replay", "--id", "m-1").out == "there was nothing to do\n"


def test_a_parked_key_is_for_the_owner(run: Run, dead: None) -> None:
    ran = run("dead-letter", "replay", "--source", "feed/bill")
    assert ran.out == "1 key(s): the owners of their partitions will replay them\n"


@pytest.mark.parametrize("verb", ["replay", "drop"])
def test_all_letters_only_when_it_is_said(run: Run, dead: None, verb: str) -> None:
    ran = run("dead-letter", verb)
    assert (ran.code, ran.out) == (2, "")
    assert (
        ran.err == "tidemill: which ones? Give --source, --key or --id, or another filter, or --all for all of them\n"
    )
    assert run("dead-letter", verb, "--all", "--dry-run").out == f"would {verb} 2 letter(s) and 1 parked key(s)\n"


def test_drop_asks_and_nobody_answers(run: Run, dead: None) -> None:
    ran = run("dead-letter", "drop", "--id", "m-1", stdin="y\n")
    assert (ran.code, ran.err) == (2, "tidemill: nothing was dropped: add --yes\n")
    assert "m-1" in listed(run)


def test_drop(run: Run, dead: None) -> None:
    assert run("dead-letter", "drop", "--source", "queue/invoices", "--yes").out == "2 letter(s) were dropped\n"
    assert listed(run) == ["c-1"]


def test_a_source_of_an_unknown_kind(run: Run, dead: None) -> None:
    ran = run("dead-letter", "ls", "--source", "invoices")
    assert (ran.code, ran.err) == (
        2,
        "tidemill: --source invoices: write queue/NAME, feed/WORKER or feed/WORKER/PARTITION\n",
    )
