"""`feed`, `timer`, the filters of `dead-letter`, `status --watch` and completion, on a database of `tidemill dev`."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tidemill.adapters.sqlite import SQLite
from tidemill.cli.asked import moment
from tidemill.cli.show import drawn
from tidemill.core import lease
from tidemill.core.lease import Lease
from tidemill.core.member import Member, key_of
from tidemill.errors import ConfigurationError
from tidemill.model import Dead, Message, Outcome, Put, Swap

from .conftest import Run
from .test_commands import INVOICES, ORDERS, prepare


@pytest.fixture
def worked(folder: Path) -> None:
    """`bill` has worked three of five changes of partition 0; pod-1 holds it; partition 1 is halted and nobody's."""

    async def work(database: SQLite) -> None:
        feed, documents, store = database.feed(ORDERS), database.documents(ORDERS), database.store()
        start = {name: await feed.start(name, "beginning") for name in ("0", "1")}
        for n in range(20):
            await documents.write([Put("orders", str(n), str(n), b'{"number": 1}')])
        pages = await feed.read(start, 3, 0.0)
        held = Lease(pages["0"].cursor, "m1", epoch=2, nonce="n", source="orders")  # type: ignore[union-attr]
        halted = Lease(start["1"], None, epoch=2, nonce="n", state="halted", source="orders")
        await store.swap(
            [
                Swap(key_of("m1"), None, Member("m1", "pod-1", ("feeds",)).to_value()),
                Swap(lease.key_of("bill", "0"), None, held.to_value()),
                Swap(lease.key_of("bill", "1"), None, halted.to_value()),
            ]
        )

    prepare(folder, work)


def feeds(run: Run) -> dict[str, dict[str, object]]:
    return {one["worker"]: one for one in json.loads(run("feed", "ls", "--json").out)}


def timers(run: Run) -> dict[str, dict[str, object]]:
    return {one["name"]: one for one in json.loads(run("timer", "ls", "--json").out)}


# --- feed ---------------------------------------------------------------------------------------------------


def test_feeds_are_listed(run: Run, worked: None) -> None:
    lines = run("feed", "ls").out.splitlines()
    assert lines[1].split()[:6] == ["WORKER", "SOURCE", "GROUP", "STATE", "PARTITIONS", "HELD"]
    assert lines[2].split()[:7] == ["bill", "orders", "feeds", "1", "halted", "2", "1"]
    assert lines[3].split()[:6] == ["audit", "orders", "feeds", "nobody", "2", "0"]


def test_a_feed_is_paused_and_resumed(run: Run, worked: None) -> None:
    assert run("feed", "pause", "audit").out.startswith("audit is paused within a second or two: what runs goes on")
    assert run("feed", "pause", "audit").out == "audit was paused already\n"
    assert feeds(run)["audit"]["paused"] is True
    assert run("feed", "resume", "audit").out == "audit goes on\n"
    assert run("feed", "resume", "audit").out == "audit was not paused\n"


def test_resume_frees_halted_partitions(run: Run, worked: None) -> None:
    assert run("feed", "resume", "bill").out.splitlines() == [
        "bill was not paused",
        "halted partitions that try again: 1",
        "nobody holds partition(s) 1 now: the wish waits for who takes them next",
    ]
    assert feeds(run)["bill"]["wishes"] == ["1: resume"]


def test_a_reset_says_first_what_would_come_again(run: Run, worked: None) -> None:
    ran = run("feed", "reset", "bill", "--partition", "0", "--to", "beginning", "--dry-run")
    assert ran.code == 0
    assert ran.out.splitlines()[-2:] == [
        "3 change(s) come again, 0 are passed over",
        "nothing was reset (--dry-run)",
    ]
    assert "  0          pod-1   " in ran.out
    assert feeds(run)["bill"]["wishes"] == []


def test_a_reset_asks_and_nobody_answers(run: Run, worked: None) -> None:
    ran = run("feed", "reset", "bill", "--to", "now", stdin="y\n")
    assert (ran.code, ran.err) == (2, "tidemill: nothing was reset: add --yes\n")
    assert feeds(run)["bill"]["wishes"] == []


def test_a_reset_waits_where_nobody_holds_the_partition(run: Run, worked: None) -> None:
    ran = run("feed", "reset", "bill", "--to", "beginning", "--yes")
    assert ran.out.splitlines()[-2:] == [
        "bill goes on from beginning in 2 partition(s), within a second or two; parked keys stay parked",
        "nobody holds partition(s) 1 now: the wish waits for who takes them next",
    ]
    assert feeds(run)["bill"]["wishes"] == ["0: reset", "1: reset"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["feed", "pause", "bil"], "feed worker 'bil' is not declared in app 'avalon'; did you mean bill?"),
        (
            ["feed", "pause", "refresh"],
            "feed worker 'refresh' is not declared in app 'avalon' (there are: bill, audit)",
        ),
        (["timer", "run", "nightl"], "timer 'nightl' is not declared in app 'avalon'; did you mean nightly?"),
        (["feed", "reset", "bill"], "Missing option '--to'."),
        (["feed", "reset", "bill", "--to", "soon"], "--to beginning, now or a time; got soon: write a time, as"),
        (["feed", "reset", "bill", "--to", "2999-01-01"], "--to 2999-01-01 lies in the future: write now to pass over"),
        (
            ["feed", "reset", "bill", "-p", "9", "--to", "now"],
            "partition '9' is none of 'orders': its partitions are 0, 1",
        ),
        (
            ["feed", "rename", "bill", "audit"],
            "'bill' is still declared in app 'avalon': rename its worker there first",
        ),
        (
            ["feed", "rename", "old", "billing"],
            "feed worker 'billing' is not declared in app 'avalon'; did you mean bill?",
        ),
        (["timer", "rename", "nightly", "nightly"], "'nightly' is still declared in app 'avalon'"),
        (["dlq", "ls", "--since", "soon"], "--since soon: write a time, as 2026-05-01T12:00:00Z (UTC unless it says"),
        (["dlq", "replay", "--all", "--rate", "0"], "--rate 0: write how many a second, more than 0"),
        (["dlq", "replay", "--all", "--rate", "nan"], "--rate nan: write how many a second, more than 0"),
        (["status", "--watch", "--interval", "0"], "--interval 0: write seconds, 0.1 or more"),
    ],
)
def test_a_mistake_is_one_line(run: Run, worked: None, words: list[str], line: str) -> None:
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith(f"tidemill: {line}")
    assert ran.err.count("\n") == 1


def test_a_feed_is_renamed(run: Run, folder: Path) -> None:
    async def work(database: SQLite) -> None:
        left = Lease("0", None, epoch=2, nonce="n", source="orders")
        await database.store().swap([Swap(lease.key_of("invoice", "0"), None, left.to_value())])

    prepare(folder, work)
    said = "from invoice to bill: 1 partition(s), 0 key(s) in the park, 0 letter(s)\n"
    assert run("feed", "rename", "invoice", "bill", "--dry-run").out == f"would move {said}"
    assert run("feed", "rename", "invoice", "bill").out == f"moved {said}"
    ran = run("feed", "rename", "invoice", "bill")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "tidemill: nothing is known of a feed worker 'invoice': there is nothing to rename\n"


def test_a_feed_that_is_held_is_not_renamed(run: Run, folder: Path) -> None:
    async def work(database: SQLite) -> None:
        held = Lease("0", "m1", epoch=2, nonce="n", source="orders")
        member = Member("m1", "pod-1", ("feeds",))
        swaps = [Swap(lease.key_of("invoice", "0"), None, held.to_value()), Swap(key_of("m1"), None, member.to_value())]
        await database.store().swap(swaps)

    prepare(folder, work)
    ran = run("feed", "rename", "invoice", "bill", "--dry-run")
    assert (ran.code, ran.out) == (1, "")
    ran = run("feed", "rename", "invoice", "bill")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("tidemill: pod-1 holds partition 0 of 'invoice': stop it first; if it was killed, start")


# --- timer --------------------------------------------------------------------------------------------------


def test_timers_are_listed(run: Run, worked: None) -> None:
    lines = run("timer", "ls").out.splitlines()
    assert lines[1].split() == ["TIMER", "SCHEDULE", "GROUP", "STATE", "NEXT", "LAST", "ATTEMPTS", "ERROR"]
    assert "in each replica" in lines[2]
    assert "never ran" in lines[3]


def test_a_timer_is_run_now(run: Run, worked: None) -> None:
    assert run("timer", "run", "nightly").out.splitlines() == [
        "nightly runs once, as soon as nothing of it runs; its schedule stays as it is",
        "nobody works group timers now: it runs when somebody does",
    ]
    assert timers(run)["nightly"]["wished"] is True
    assert "never ran, run wished" in run("timer", "ls").out


def test_a_timer_of_each_replica_is_not_run(run: Run, worked: None) -> None:
    ran = run("timer", "run", "refresh")
    assert (ran.code, ran.out, ran.err.count("\n")) == (1, "", 1)
    assert ran.err.startswith("tidemill: timer 'refresh' runs in each replica by itself: it cannot be run once for all")


def test_a_timer_is_paused_and_resumed(run: Run, worked: None) -> None:
    assert run("timer", "pause", "nightly").out == "nightly is paused within a second or two; what runs goes on\n"
    assert run("timer", "pause", "nightly").out == "nightly was paused already\n"
    assert (timers(run)["nightly"]["paused"], timers(run)["nightly"]["next"]) == (True, None)
    assert "  nightly        paused " in run("status").out
    assert run("timer", "resume", "nightly").out == "nightly goes on; what fell into the pause is skipped\n"
    assert run("timer", "resume", "nightly").out == "nightly was not paused\n"


def test_a_timer_is_renamed(run: Run, folder: Path) -> None:
    async def work(database: SQLite) -> None:
        record = {"format": 1, "schedule": "cron", "setter": "m1", "last": 5.0, "state": "done"}
        await database.store().swap([Swap("timer/report", None, record)])

    prepare(folder, work)
    assert run("timer", "rename", "report", "nightly").out == "moved from report to nightly\n"
    ran = run("timer", "rename", "report", "nightly")
    assert (ran.code, ran.err) == (
        1,
        "tidemill: nothing is known of a timer 'report': there is nothing to rename\n",
    )


# --- dead letters -------------------------------------------------------------------------------------------


@pytest.fixture
def dead(folder: Path) -> None:
    """Six dead messages: three for one reason, three for another."""

    async def die(database: SQLite) -> None:
        queue = database.queue(INVOICES)
        await queue.send([Message("invoices", f"m-{n}", b"{}") for n in range(6)])
        found = await queue.receive("x", 10, 0.0)
        await queue.settle([Outcome(d, Dead("no rate" if d.id < "m-3" else "No Route to host")) for d in found])

    prepare(folder, die)


def listed(run: Run, *words: str) -> list[str]:
    return sorted(letter["id"] for letter in json.loads(run("dlq", "ls", "--json", *words).out))


def test_letters_are_selected_by_time_and_reason(run: Run, dead: None) -> None:
    assert listed(run, "--reason", "no route") == ["m-3", "m-4", "m-5"]
    assert len(listed(run, "--since", "1h")) == 6
    assert listed(run, "--until", "1h") == []
    assert listed(run, "--since", "2999-01-01T00:00:00+02:00") == []
    assert len(listed(run, "--until", "2999-01-01")) == 6


def test_what_a_dry_run_counts_is_what_is_done(run: Run, dead: None) -> None:
    words = ("dlq", "replay", "--reason", "rate", "--limit", "2")
    assert run(*words, "--dry-run").out == "would replay 2 letter(s) and 0 parked key(s)\n"
    assert run(*words, "--rate", "1000").out == "2 letter(s) went back to their queues\n"
    assert len(listed(run)) == 4
    assert run("dlq", "drop", "--all", "--limit", "3", "--yes").out == "3 letter(s) were dropped\n"
    assert len(listed(run)) == 1


def test_no_bar_is_drawn_in_a_pipe(run: Run, dead: None) -> None:
    assert run("dlq", "replay", "--all").err == ""


def test_a_bar_is_drawn_on_a_terminal(folder: Path, dead: None) -> None:
    ours, theirs = pty.openpty()
    process = child(folder, "dlq", "replay", "--all", "--rate", "500", stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    try:
        said = read_until(ours, b"6/6", 1)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"replay" in said
    assert (process.returncode, out) == (0, b"6 letter(s) went back to their queues\n")


# --- times --------------------------------------------------------------------------------------------------


def test_moments() -> None:
    assert moment("1970-01-01T00:01:00Z", "--since", 0.0) == 60.0
    assert moment("1970-01-01 01:01+01:00", "--since", 0.0) == 60.0
    assert moment("1970-01-02", "--since", 0.0) == 86_400.0
    assert moment("1h30m", "--since", 6_000.0) == 600.0
    with pytest.raises(ConfigurationError, match="--until gone: write a time"):
        moment("gone", "--until", 0.0)


# --- watching -----------------------------------------------------------------------------------------------


def child(folder: Path, *words: str, stdout: int, stderr: int | None = None) -> subprocess.Popen[bytes]:
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"}
    return subprocess.Popen(
        [sys.executable, "-m", "tidemill", *words], cwd=folder, env=env, stdout=stdout, stderr=stderr
    )


def read_until(fd: int, text: bytes, times: int) -> bytes:
    """What was written until `text` has come so many times."""
    said = b""
    while said.count(text) < times:
        ready, _, _ = select.select([fd], [], [], 60)
        assert ready, said
        more = os.read(fd, 65_536)
        assert more, said
        said += more
    return said


def test_status_is_printed_again_and_again_until_ctrl_c(folder: Path, worked: None) -> None:
    read, write = os.pipe()
    process = child(folder, "status", "--watch", "--interval", "0.1", stdout=write)
    os.close(write)
    try:
        said = read_until(read, b"dead letters: none", 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(read)
    assert said.startswith(b"as of ")
    assert said.count(b"\nreplicas:\n") == 3


def test_on_a_terminal_the_picture_stays_in_its_place(folder: Path, worked: None) -> None:
    ours, theirs = pty.openpty()
    process = child(folder, "status", "--watch", "--interval", "0.1", stdout=theirs)
    os.close(theirs)
    try:
        said = read_until(ours, b"Ctrl-C ends it", 3)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"\x1b[1A" in said, "the cursor goes back up"


def test_a_line_and_an_empty_table_are_drawn() -> None:
    from tidemill.cli.show import Table

    assert str(drawn("nobody works group feeds")) == "nobody works group feeds"
    assert str(drawn(Table("queues", ["queue"], []))) == "queues: none"


# --- completion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("tidemill fe", {"feed"}),
        ("tidemill feed re", {"resume", "reset", "rename"}),
        ("tidemill timer r", {"run", "resume", "rename"}),
    ],
)
def test_the_shell_completes_commands(folder: Path, typed: str, found: set[str]) -> None:
    words = typed.split(" ")
    env = {**os.environ, "_TIDEMILL_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(len(words) - 1)}
    ran = subprocess.run([sys.executable, "-m", "tidemill"], cwd=folder, env=env, capture_output=True, check=False)
    assert set(ran.stdout.decode().split()) == found
    assert ran.stderr == b""


def test_the_script_for_a_shell_is_shown_and_installed(folder: Path) -> None:
    # By itself it asks which shell it was started from; there may be none above a test.
    env = {**os.environ, "HOME": str(folder), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    command = [sys.executable, "-m", "tidemill"]
    shown = subprocess.run([*command, "--show-completion", "bash"], env=env, capture_output=True, check=True)
    assert b"complete -o default -F _tidemill_completion tidemill" in shown.stdout
    subprocess.run([*command, "--install-completion", "bash"], env=env, capture_output=True, check=True)
    [installed] = (folder / ".bash_completions").iterdir()
    assert "_TIDEMILL_COMPLETE=complete_bash" in installed.read_text()
    assert str(installed) in (folder / ".bashrc").read_text()


def test_only_the_first_level_offers_completion(run: Run) -> None:
    assert "--install-completion" in run("--help").out
    assert "--install-completion" not in run("feed", "--help").out


def test_help_loads_neither_the_engine_nor_rich() -> None:
    code = (
        "import sys; from tidemill.__main__ import main; main(['feed', '--help']);"
        "print([n for n in ('rich', 'tidemill.engine.engine', 'tidemill.operations') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ran.stdout.decode().splitlines()[-1] == "[]"
