"""SQLite with several real processes on one file: fairness, death, pauses, presence and waking up.

Times have generous bounds: they tell a starved or wedged process from a busy machine, nothing finer.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

import pytest

from tests.adapters.sqlite_child import ORDERS, QUEUE
from tidemill.adapters.sqlite import SQLite, lane
from tidemill.engine.clock import SystemClock
from tidemill.errors import Unavailable
from tidemill.model import Done, Message, Outcome, Page, Put, Swap

Child: TypeAlias = "subprocess.Popen[str]"
Start: TypeAlias = Callable[..., Child]

CHILD = Path(__file__).with_name("sqlite_child.py")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a job in a process of its own; whatever still runs is killed at the end."""
    children: list[Child] = []

    def run(job: str, name: str) -> Child:
        command = [sys.executable, str(CHILD), job, str(tmp_path / "shared.db"), name]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        return child

    yield run
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SQLite]:
    database = SQLite(tmp_path / "shared.db", SystemClock())
    await database.open([ORDERS], [QUEUE])
    yield database
    await database.close()


async def line(child: Child) -> str:
    """The next line a child tells."""
    assert child.stdout is not None
    return (await asyncio.to_thread(child.stdout.readline)).strip()


async def lines(child: Child) -> list[str]:
    """All that a child has still to tell; waits for its end. (`communicate` would pass over what is buffered.)"""
    assert child.stdout is not None
    told = await asyncio.to_thread(child.stdout.read)
    return [line.strip() for line in told.splitlines()]


async def test_four_writers_lose_nothing_and_none_starves(database: SQLite, start: Start) -> None:
    children = [start("send", f"w{n}") for n in range(4)]
    told = [await lines(child) for child in children]
    assert all(part[-1] == "end" for part in told)
    sends = [line.split() for part in told for line in part[:-1]]
    assert max(float(seconds) for _, seconds in sends) < 3.0
    queue = database.queue(QUEUE)
    found: list[str] = []
    while deliveries := await queue.receive("me", 500, 0):
        found += [delivery.id for delivery in deliveries]
        await queue.settle([Outcome(delivery, Done()) for delivery in deliveries])
    assert sorted(found) == sorted(id for id, _ in sends)
    assert len(found) == 600


async def test_killed_writer_loses_nothing_it_told(database: SQLite, start: Start, tmp_path: Path) -> None:
    for round in range(3):
        child = start("write", f"r{round}")
        told = [await line(child) for _ in range(20 + round)]
        child.kill()
        told += [rest for rest in await lines(child) if rest]
        stored = await database.documents(ORDERS).get(told)
        assert all(stored), "a write that was told is missing"
        with closing(sqlite3.connect(tmp_path / "shared.db")) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            documents = f"SELECT etag FROM tidemill_document_{database._session.source('orders').number}"
            odd = connection.execute(f"{documents} EXCEPT SELECT seq FROM tidemill_log").fetchall()
            assert odd == []  # a document and its change are one step


async def test_claims_of_the_killed_are_freed(database: SQLite, start: Start) -> None:
    queue, presence = database.queue(QUEUE), database.presence()
    await queue.send([Message("work", str(n), b"{}") for n in range(5)])
    child = start("claim", "m1")
    while (told := await line(child)) != "held":
        assert told
    assert await presence.gone(["m1", "never seen"]) == []
    assert await queue.free([]) == ["m1"]
    assert await queue.receive("me", 10, 0) == ()
    child.kill()
    child.wait()
    assert await presence.gone(["m1", "never seen"]) == ["m1"]
    assert await presence.gone(["m1"]) == ["m1"]  # every observer can see it
    assert await queue.free(["m1"]) == []
    deliveries = await queue.receive("me", 10, 0)
    assert sorted(delivery.id for delivery in deliveries) == list("01234")
    assert {delivery.deliveries for delivery in deliveries} == {2}


async def test_presence_within_one_process(tmp_path: Path) -> None:
    mine, other = (SQLite(tmp_path / "shared.db", SystemClock()).presence() for _ in range(2))
    await mine.hold("a/1")
    await mine.hold("b")
    await mine.hold("b")
    assert await mine.gone(["a/1", "b", "c"]) == []
    assert await other.gone(["a/1", "b", "c"]) == []
    with pytest.raises(Unavailable):
        await other.hold("b")
    await mine.drop("b")
    await mine.drop("b")
    assert await other.gone(["a/1", "b"]) == []  # dropped: tells nothing
    await mine.drop("a/1")


async def test_waiting_receive_wakes_for_another_process(database: SQLite, start: Start) -> None:
    async def wait() -> str:
        while not (deliveries := await database.queue(QUEUE).receive("me", 1, 1.0)):
            continue
        return deliveries[0].id

    waiting = asyncio.create_task(wait())
    child = start("one", "hello")
    assert await asyncio.wait_for(waiting, 20) == "hello"
    assert "end" in await lines(child)


async def test_waiting_feed_wakes_for_another_process(database: SQLite, start: Start) -> None:
    feed = database.feed(ORDERS)
    cursors = {name: await feed.start(name, "now") for name in await feed.partitions()}

    async def wait() -> str:
        while True:
            for page in (await feed.read(cursors, 10, 1.0)).values():
                if isinstance(page, Page) and page.changes:
                    return page.changes[0].document

    waiting = asyncio.create_task(wait())
    child = start("document", "hello")
    assert await asyncio.wait_for(waiting, 20) == "hello"
    assert "end" in await lines(child)


async def test_waiting_takes_no_write_lock(database: SQLite) -> None:
    """Nothing is due: however long it waits, nothing is written."""
    version = await database._session.slow.submit(lambda c: c.execute("PRAGMA data_version").fetchone())
    assert await database.queue(QUEUE).receive("me", 1, 0.3) == ()
    assert version == await database._session.slow.submit(lambda c: c.execute("PRAGMA data_version").fetchone())


async def test_process_stopped_inside_a_commit_wedges_nobody(
    database: SQLite, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = start("hog", "released")
    assert await line(child) == "inside"
    os.kill(child.pid, signal.SIGSTOP)
    monkeypatch.setattr(lane, "PATIENCE", 0.2)
    queue = database.queue(QUEUE)
    for _ in range(3):
        with pytest.raises(Unavailable):
            await queue.send([Message("work", "given up", b"{}")])
    assert await database.documents(ORDERS).get(["x"]) == [None]  # reads go on
    await database.store().swap([Swap("member/me", None, {"alive": True})])  # members renew
    monkeypatch.setattr(lane, "PATIENCE", 10.0)
    sending = asyncio.create_task(queue.send([Message("work", "sent", b"{}")]))
    await asyncio.sleep(0.05)
    os.kill(child.pid, signal.SIGCONT)
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()
    began = time.monotonic()
    await sending
    assert time.monotonic() - began < 5.0
    assert [delivery.id for delivery in await queue.receive("me", 10, 0)] == ["sent"]


async def test_process_killed_inside_a_commit_frees_the_file(database: SQLite, start: Start) -> None:
    child = start("hog", "never")
    assert await line(child) == "inside"
    sending = asyncio.create_task(database.documents(ORDERS).write([Put("orders", "1", "1", b"{}")]))
    await asyncio.sleep(0.05)
    assert not sending.done()
    child.kill()
    await asyncio.wait_for(sending, 10)


@pytest.mark.chaos
async def test_killed_consumers_lose_and_repeat_nothing(database: SQLite, start: Start) -> None:
    queue, presence = database.queue(QUEUE), database.presence()
    sent: list[str] = []
    told: list[str] = []
    kills = 12
    for number in range(kills):
        child, neighbour = start("work", f"a{number}"), start("work", f"b{number}")
        for one in (child, neighbour):
            assert await line(one) == "up"
        fresh = [f"{number}-{n}" for n in range(500)]
        sent += await queue.send([Message("work", id, b"{}") for id in fresh])
        await asyncio.sleep(0.005 * number)
        for one in (child, neighbour):
            one.kill()
            told += [id for id in await lines(one) if id]
        owners = await queue.free([])
        assert list(await presence.gone(owners)) == list(owners)
        await queue.free(owners)
    rest: list[str] = []
    while deliveries := await queue.receive("me", 500, 0):
        rest += [delivery.id for delivery in deliveries]
        await queue.settle([Outcome(delivery, Done()) for delivery in deliveries])
    assert len(set(told)) == len(told), "settled twice"
    assert not set(told) & set(rest), "settled, and came again"
    untold = set(sent) - set(told) - set(rest)
    assert len(untold) <= kills * 2 * 10  # settled, but killed before it could say so
