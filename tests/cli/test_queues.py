"""`tidemill queue`, on a database of `tidemill dev`."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite
from tidemill.cli.main import main
from tidemill.engine.clock import SystemClock
from tidemill.engine.controls import PAUSE
from tidemill.errors import Unavailable
from tidemill.model import Dead, Message, Outcome, QueueSpec
from tidemill.signals import Signals

from .conftest import Run

APP = """
from dataclasses import dataclass
from tidemill import App


@dataclass(frozen=True)
class Invoice:
    number: int
    total: int = 0


app = App("avalon")
invoices = app.queue("invoices", Invoice)
small = app.queue("small", Invoice, limit=3)
mails = app.queue("mails", str)


@app.on_message(invoices)
async def send_invoice(invoice: Invoice) -> None: ...


@app.on_message(invoices)
async def audit(invoice: Invoice) -> None: ...
"""

INVOICES = QueueSpec("invoices")


@pytest.fixture(autouse=True)
def shop(folder: Path) -> None:
    (folder / "app.py").write_text(APP)
    prepare(folder, nothing)


async def nothing(database: SQLite) -> None: ...


def prepare(folder: Path, work: Callable[[SQLite], Awaitable[None]]) -> None:
    """Do this in the folder's tidemill.db, which is made by it."""

    async def opened() -> None:
        database = SQLite(folder / "tidemill.db", SystemClock())
        await database.open([], [INVOICES])
        try:
            await work(database)
        finally:
            await database.close()

    asyncio.run(opened())


async def three_and_a_dead_one(database: SQLite) -> None:
    queue = database.queue(INVOICES)
    await queue.send([Message("invoices", "dead", b"{}"), Message("invoices", "held", b"{}")])
    first, _ = await queue.receive("x", 10, 0.0)
    await queue.settle([Outcome(first, Dead("no rate"))])
    await queue.send(
        [
            Message("invoices", "later", b'{"number": 3}', delay=3600.0),
            Message("invoices", "a", b'{"number": 1}', key="4711", headers={"who": "Ada"}),
            Message("invoices", "first", b'{"number": 2}', priority=9),
        ]
    )


@pytest.fixture
def waiting(folder: Path) -> None:
    prepare(folder, three_and_a_dead_one)


def peeked(run: Run, *words: str) -> list[dict[str, object]]:
    ran = run("queue", "peek", *words, "--json")
    assert ran.code == 0, ran.err
    found: list[dict[str, object]] = json.loads(ran.out)
    return found


# --- the frame ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["ls", "peek", "send", "pause", "resume", "purge"])
def test_help_has_examples(run: Run, verb: str) -> None:
    ran = run("queue", verb, "--help")
    assert ran.code == 0
    assert f"Examples:\n    tidemill queue {verb}" in ran.out


@pytest.mark.parametrize(
    "words", [["peek", "invoces"], ["send", "invoces", "{}"], ["pause", "invoces"], ["resume", "invoces"],
              ["purge", "invoces", "--yes"]],
)  # fmt: skip
def test_a_queue_that_is_not_declared(run: Run, words: list[str]) -> None:
    ran = run("queue", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == "tidemill: queue 'invoces' is not declared in app 'avalon'; did you mean invoices?\n"


def test_a_name_that_is_near_to_nothing(run: Run) -> None:
    ran = run("queue", "peek", "orders")
    assert ran.err.endswith("not declared in app 'avalon' (there are: invoices, small, mails)\n")


# --- ls and peek --------------------------------------------------------------------------------------------


def test_ls(run: Run, waiting: None) -> None:
    run("queue", "pause", "invoices")
    ran = run("queue", "ls")
    assert ran.code == 0
    lines = [line.split() for line in ran.out.splitlines()]
    assert lines[1] == ["QUEUE", "READY", "DELAYED", "CLAIMED", "OLDEST", "LIMIT", "DEAD", "WORKERS"]
    assert lines[2][:4] == ["invoices", "2", "1", "1"]
    assert lines[2][-5:] == ["1", "send_invoice", "(paused),", "audit", "(paused)"]
    assert lines[4][-3:] == ["3", "0", "none"]


def test_ls_as_json(run: Run, waiting: None) -> None:
    found = {one["name"]: one for one in json.loads(run("queue", "ls", "--json").out)}
    assert sorted(found) == ["invoices", "mails", "small"]
    invoices = found["invoices"]
    assert (invoices["depth"]["ready"], invoices["depth"]["delayed"], invoices["depth"]["claimed"]) == (2, 1, 1)
    assert (invoices["dead"], invoices["workers"], invoices["paused"]) == (1, ["send_invoice", "audit"], [])
    assert found["small"]["limit"] == 3


def test_a_queue_that_cannot_be_read_costs_its_own_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: object) -> None:
        raise Unavailable("no route")

    monkeypatch.setattr("tidemill.adapters.sqlite.queue.Queue.depth", away)
    ran = run("queue", "ls")
    assert ran.code == 1
    assert "  invoices  ?      ?        ?" in ran.out
    assert "not read: queue mails: no route\n" in ran.out


def test_peek(run: Run, waiting: None) -> None:
    lines = run("queue", "peek", "invoices").out.splitlines()
    assert lines[0] == "waiting in invoices:"
    assert [line.split()[0] for line in lines[2:]] == ["first", "a", "later"]
    assert '{"number": 1}' in lines[3]


def test_peek_as_json(run: Run, waiting: None) -> None:
    first, second, third = peeked(run, "invoices")
    assert (first["id"], first["priority"], first["body"]) == ("first", 9, '{"number": 2}')
    assert (second["key"], second["headers"]) == ("4711", {"who": "Ada"})
    assert isinstance(third["due"], float)
    assert peeked(run, "invoices") == [first, second, third], "nothing was claimed"


def test_peek_goes_on_behind_a_place(run: Run, waiting: None) -> None:
    ran = run("queue", "peek", "invoices", "--limit", "2")
    told = ran.out.splitlines()[-1]
    assert told.startswith("and more: --limit 2 reached; go on with --after 0/")
    assert [one["id"] for one in peeked(run, "invoices", "--after", told.rpartition(" ")[2])] == ["later"]


def test_peek_of_nothing(run: Run) -> None:
    assert run("queue", "peek", "mails").out == "waiting in mails: none\n"


@pytest.mark.parametrize("place", ["soon", "1/2", "1/x/3", f"{1 << 70}/0/0", f"0/0/{1 << 70}"])
def test_peek_behind_no_place(run: Run, place: str) -> None:
    ran = run("queue", "peek", "mails", "--after", place)
    assert (ran.code, ran.err) == (
        2,
        f"tidemill: --after {place!r} is no place in a queue; take it from the page before\n",
    )


# --- send ---------------------------------------------------------------------------------------------------


def test_send_one(run: Run) -> None:
    ran = run(
        "queue", "send", "invoices", '{"number": 7}', "--delay", "1h", "--key", "k", "--priority", "5",
        "--header", "who=Ada", "--header", "formula=a=b",
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    [one] = peeked(run, "invoices")
    assert ran.out == f"sent {one['id']}\n"
    assert (one["body"], one["key"], one["priority"]) == ('{"number":7,"total":0}', "k", 5)
    assert one["headers"] == {"who": "Ada", "formula": "a=b"}
    assert 3590 < float(str(one["due"])) - float(str(one["sent_at"])) < 3610


def test_send_again_with_a_dedup_key(run: Run) -> None:
    first = run("queue", "send", "invoices", '{"number": 7}', "--dedup", "x").out.split()[1]
    assert run("queue", "send", "invoices", '{"number": 7}', "--dedup", "x").out == f"{first} was there already\n"


def test_send_a_text(run: Run) -> None:
    assert run("queue", "send", "mails", '"hello"').code == 0
    assert [one["body"] for one in peeked(run, "mails")] == ['"hello"']


def test_send_lines_of_a_file(run: Run, folder: Path) -> None:
    lines = [f'{{"number": {n}}}' for n in range(1_200)]
    (folder / "in.jsonl").write_text("\ufeff" + "\n\n".join(lines), "utf-8")
    assert run("queue", "send", "invoices", "@in.jsonl", "--dedup", "in").out == "sent 1200 messages to invoices\n"
    again = run("queue", "send", "invoices", "@in.jsonl", "--dedup", "in")
    assert again.out == "sent 1200 messages to invoices; 1200 of them were there already\n"
    assert len(peeked(run, "invoices", "--limit", "5000")) == 1_200


def test_send_lines_of_stdin(run: Run) -> None:
    ran = run("queue", "send", "invoices", "-", stdin='{"number": 1}\n{"number": 2}\n')
    assert ran.out == "sent 2 messages to invoices\n"


def test_send_a_whole_file(run: Run, folder: Path) -> None:
    (folder / "one.json").write_text('{\n  "number": 1\n}\n')
    assert run("queue", "send", "invoices", "@one.json").code == 0
    assert [one["body"] for one in peeked(run, "invoices")] == ['{"number":1,"total":0}']


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["{number: 1}"],
            "BODY: the body is not JSON (Invalid JSON: key must be a string at line 1 column 2); write JSON",
        ),
        (["{}"], "BODY: number: Field required (the queue takes Invoice)"),
        (['{"number": "x"}'], "BODY: number: Input should be a valid integer"),
        (["@no.jsonl"], "@no.jsonl: No such file or directory"),
        (["@."], "@.: Is a directory"),
        (["-"], "standard input is empty: there is nothing to send"),
        (['{"number": 1}', "--delay", "soon"], "queue 'invoices': delay: 'soon' is no duration: write \"30s\""),
        (['{"number": 1}', "--delay", "-5"], "queue 'invoices': delay: -5.0 is no duration"),
        (['{"number": 1}', "--priority", "9999"], "queue 'invoices': priority=9999 must be a whole number from"),
        (['{"number": 1}', "--dedup", ""], "queue 'invoices': dedup='' names nothing; leave it out"),
        (['{"number": 1}', "--header", "who"], "--header who: write name=value"),
        (['{"number": 1}', "--header", "=x"], "--header =x: write name=value"),
    ],
)
def test_what_does_not_fit_is_one_line(run: Run, words: list[str], line: str) -> None:
    ran = run("queue", "send", "invoices", *words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"tidemill: {line}")
    assert ran.err.count("\n") == 1
    assert peeked(run, "invoices") == []


def test_each_line_that_does_not_fit_is_named_and_none_is_sent(run: Run, folder: Path) -> None:
    (folder / "in.jsonl").write_text('{"number": 1}\n{}\n\n{"number": "x"}\n' + "no\n" * 6)
    ran = run("queue", "send", "invoices", "@in.jsonl")
    assert (ran.code, ran.out) == (2, "")
    lines = ran.err.splitlines()
    assert lines[0] == "tidemill: @in.jsonl, line 2: number: Field required (the queue takes Invoice)"
    assert lines[1].startswith("tidemill: @in.jsonl, line 4: number: Input should be a valid integer")
    assert lines[-1] == "tidemill: @in.jsonl: and 3 more of 9 lines do not fit; nothing was sent"
    assert len(lines) == 6
    assert peeked(run, "invoices") == []


def test_an_option_that_does_not_fit_is_told_once(run: Run) -> None:
    ran = run("queue", "send", "invoices", "-", "--delay", "soon", stdin='{"number": 1}\n' * 3)
    assert ran.err.count("\n") == 1


def test_a_full_queue(run: Run) -> None:
    ran = run("queue", "send", "small", "-", stdin='{"number": 1}\n' * 4)
    assert ran.code == 1
    assert ran.err == (
        "tidemill: 0 of 4 messages were sent: queue 'small' is full: 0 of limit=3 messages are in it and 4 more were to"
        " be sent; nothing of this call was sent\n"
    )
    for _ in range(3):
        assert run("queue", "send", "small", '{"number": 1}').code == 0
    assert run("queue", "send", "small", '{"number": 1}').err.startswith(
        "tidemill: queue 'small' is full: 3 of limit=3"
    )


def test_a_send_that_ends_in_the_middle_says_how_far_it_came(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.operations.queues.PAGE", 2)
    ran = run("queue", "send", "small", "-", stdin='{"number": 1}\n' * 4)
    assert ran.code == 1
    assert ran.err.startswith(
        "tidemill: 2 of 4 messages were sent; with --dedup a second try would send none of them twice: queue 'small'"
    )
    assert len(peeked(run, "small")) == 2


def test_a_terminal_is_shown_how_far_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    def told(count: int) -> str:
        terminal = Terminal()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.StringIO('{"number": 1}\n' * count))
            patch.setattr(sys, "stderr", terminal)
            assert main(["queue", "send", "invoices", "-"], Signals()) == 0
        return terminal.getvalue()

    assert "sending to invoices" in told(1_000)
    assert told(999) == ""


# --- pause, resume, purge -----------------------------------------------------------------------------------


def test_pause_and_resume(run: Run, folder: Path) -> None:
    assert run("queue", "pause", "invoices").out == (
        "paused send_invoice, audit: replicas see it within a second or two and take in nothing more\n"
    )
    assert run("queue", "pause", "invoices").out == "nothing to do: send_invoice, audit were paused already\n"
    assert sorted(json.loads(run("status", "--json").out)["paused"]) == ["audit", "send_invoice"]
    assert run("queue", "resume", "invoices").out.startswith("resumed send_invoice, audit: ")
    assert run("queue", "resume", "invoices").out == "nothing to do: send_invoice, audit were not paused\n"

    async def none_left(database: SQLite) -> None:
        assert await database.store().scan(PAUSE, PAUSE, 10) == []

    prepare(folder, none_left)


def test_a_queue_without_workers_cannot_be_paused(run: Run) -> None:
    ran = run("queue", "pause", "mails")
    assert ran.code == 2
    assert ran.err == "tidemill: queue 'mails' has no worker in app 'avalon': there is nothing to pause\n"


def test_purge(run: Run, waiting: None) -> None:
    assert run("queue", "purge", "invoices", "--dry-run").out == "would remove about 3 message(s) of invoices\n"
    assert len(peeked(run, "invoices")) == 3
    ran = run("queue", "purge", "invoices", "--yes")
    assert ran.out == "removed 3 message(s) of invoices; what workers hold stays\n"
    assert peeked(run, "invoices") == []
    [invoices] = [one for one in json.loads(run("queue", "ls", "--json").out) if one["name"] == "invoices"]
    assert (invoices["depth"]["claimed"], invoices["dead"]) == (1, 1)


def test_purge_asks_and_nobody_answers(run: Run, waiting: None) -> None:
    ran = run("queue", "purge", "invoices", stdin="y\n")
    assert (ran.code, ran.err) == (2, "tidemill: nothing was removed: add --yes\n")
    assert len(peeked(run, "invoices")) == 3


@pytest.mark.parametrize(
    "words", [["run", "--database", "sqlite:///tidemill.db"], ["queue", "ls"], ["queue", "send", "invoices", "{}"]]
)
def test_order_per_key_is_refused_at_the_start(run: Run, folder: Path, words: list[str]) -> None:
    (folder / "app.py").write_text(APP.replace('"invoices", Invoice', '"invoices", Invoice, key="number"'))
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        "tidemill: queue 'invoices': key='number' asks for order per key, which the backend sqlite cannot do; leave"
        " key= out, or let a feed (app.collection and on_change) keep the order\n"
    )


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ("limit=0", "app.py:14: queue 'small': limit=0 must be a whole number of 1 or more, or None"),
        ('dedup_window="soon"', "app.py:14: dedup_window: 'soon' is no duration"),
    ],
)
def test_a_declaration_that_does_not_fit(run: Run, folder: Path, options: str, line: str) -> None:
    (folder / "app.py").write_text(APP.replace("limit=3", options))
    ran = run("queue", "ls")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert ran.err.startswith(f"tidemill: {line}")
