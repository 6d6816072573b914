"""`tidemill status`: members, groups, who holds which partition, what waits; as tables and as JSON."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tidemill import App
from tidemill.adapters.sqlite import SQLite
from tidemill.cli.reading import pieces_of
from tidemill.cli.show import Table
from tidemill.core.lease import Lease
from tidemill.core.lease import key_of as lease_key
from tidemill.core.member import Member, key_of
from tidemill.engine.clock import SystemClock
from tidemill.model import CollectionSpec, Depth, Lag, Message, Put, QueueSpec, Swap
from tidemill.operations import FeedWork, GroupState, Partition, Status
from tidemill.operations.overview import _queue_of

from .conftest import Run

INVOICES = QueueSpec("invoices")
ORDERS = CollectionSpec("orders", 2)


async def at_work(database: SQLite) -> None:
    """Two replicas share `bill`, one of them drains; of `audit` one holder is gone; messages are claimed."""
    store, feed, queue = database.store(), database.feed(ORDERS), database.queue(INVOICES)
    starts = {name: await feed.start(name, "now") for name in ("0", "1")}
    for replica in (
        Member("m1", "pod-1", ("feeds", "queues"), started_at=1_700_000_000.0),
        Member("m2", "pod-2", ("feeds",), draining=True),
    ):
        await store.swap([Swap(key_of(replica.id), None, replica.to_value())])
    for worker, partition, owner, state in (
        ("bill", "0", "m1", "running"),
        ("bill", "1", "m2", "halted"),
        ("audit", "0", "gone", "running"),
    ):
        held = Lease(starts[partition], owner, epoch=1, nonce="n", state=state)  # type: ignore[arg-type]
        await store.swap([Swap(lease_key(worker, partition), None, held.to_value())])
    await database.documents(ORDERS).write([Put("orders", str(n), str(n), b"{}") for n in range(10)])
    await queue.send([Message("invoices", str(n), b"{}") for n in range(5)])
    assert len(await queue.receive("m1", 2, 0.0)) == 2


@pytest.fixture
def working(folder: Path) -> None:
    async def opened() -> None:
        database = SQLite(folder / "tidemill.db", SystemClock())
        await database.open([ORDERS], [INVOICES])
        try:
            await at_work(database)
        finally:
            await database.close()

    asyncio.run(opened())


def rows(out: str, title: str) -> list[list[str]]:
    """The lines of one table, as words."""
    lines = out.split(f"{title}:\n", 1)[1].splitlines()
    end = next((n for n, line in enumerate(lines) if not line.startswith("  ")), len(lines))
    return [line.split() for line in lines[:end]]


def test_groups_replicas_and_feeds(run: Run, working: None) -> None:
    ran = run("status")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("groups:\n")
    header, feeds, queues, timers = rows(ran.out, "groups")
    assert header == ["GROUP", "REPLICAS", "DRAINING", "PARTITIONS", "LAG", "BEHIND", "READY", "CLAIMED", "OLDEST"]
    assert feeds[:6] == ["feeds", "2", "1", "2", "of", "4"]
    assert int(feeds[6]) > 10, "both workers' lags"
    assert queues[:4] == ["queues", "1", "3", "2"]
    assert timers == ["timers", "0"]
    _, one, two = rows(ran.out, "replicas")
    assert one == ["pod-1", "m1", "feeds,", "queues", "works", "2023-11-14", "22:13:20Z", "1"]
    assert (two[0], two[3], two[-1]) == ("pod-2", "draining", "1")
    holders = {(row[0], row[1], row[2]): row[3] for row in rows(ran.out, "feeds")[1:]}
    assert holders["bill", "pod-1", "running"] == "0"
    assert holders["bill", "pod-2", "halted"] == "1"
    assert holders["audit", "gone", "running"] == "0"
    assert "nobody works group timers\n" in ran.out


def test_groups_as_json(run: Run, working: None) -> None:
    status = json.loads(run("status", "--json").out)
    groups = {one["name"]: one for one in status["work"]}
    assert list(groups) == status["groups"] == ["feeds", "queues", "timers"]
    feeds, queues = groups["feeds"], groups["queues"]
    assert (feeds["replicas"], feeds["draining"], feeds["queues"]) == (2, 1, {})
    assert feeds["holds"] == {"pod-1": 1, "pod-2": 1}
    works = {one["worker"]: one for one in feeds["feeds"]}
    bill, audit = works["bill"], works["audit"]
    assert (bill["partitions"], bill["held"], bill["halted"], bill["lag"]["items"]) == (2, 2, 1, 10)
    assert bill["lag"]["seconds"] >= 0
    assert (audit["partitions"], audit["held"]) == (2, 0)
    assert queues["holds"] == {"pod-1": 0}
    depth = queues["queues"]["invoices"]
    assert (depth["ready"], depth["claimed"]) == (3, 2)
    assert depth["oldest"] >= 0
    assert groups["timers"] == {"name": "timers", "replicas": 0, "draining": 0, "holds": {}, "feeds": [], "queues": {}}


def test_a_queue_with_a_key_counts_for_the_group_that_works_it_as_a_feed() -> None:
    app = App("avalon")
    invoices = app.queue("invoices", dict, key="number")
    app.on_message(invoices, name="send")(lambda invoice: None)
    app.every("1h", name="tick")(lambda: None)
    assert {worker.name: _queue_of(worker) for worker in app.declared().workers} == {"send": "invoices", "tick": ""}


def shown(status: Status, title: str) -> list[tuple[object, ...]]:
    [table] = [piece for piece in pieces_of(status) if isinstance(piece, Table) and piece.title == title]
    return [tuple(row) for row in table.rows]


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["0"], "0"),
        (["0", "1"], "0, 1"),
        (["0", "1", "2", "5"], "0–2, 5"),
        ([str(n) for n in range(16)], "0–15"),
        (["0", "2", "4", "6"], "0, 2, 4, 6"),
        (["0", "2", "4", "6", "8"], "5"),
        (["a", "b", "c"], "a, b, c"),
    ],
)
def test_partitions_are_named_as_long_as_that_is_short(names: list[str], told: str) -> None:
    status = Status("app", (), partitions=tuple(Partition("bill", name, "m", 1, "0", "running") for name in names))
    [row] = shown(status, "feeds")
    assert row[3] == told


def test_the_sums_of_a_group() -> None:
    feeds = (
        FeedWork("bill", 8, 7, 1, Lag(10, 3.0)),
        FeedWork("audit", 2, 2, 0, Lag(5, 90.0)),
        FeedWork("new", 4, 0, 0, None),
    )
    queues = {"a": Depth(1, 2, 3, 4.0), "b": Depth(10, 20, 30, 2.0)}
    group = GroupState("feeds", 3, 0, {}, feeds, queues)
    assert group.lag == Lag(15, 90.0)
    assert group.depth == Depth(11, 22, 33, 4.0)
    [row] = shown(Status("app", ("feeds",), work=(group,)), "groups")
    assert row == ("feeds", 3, "", "9 of 14", 15, "90.0 s", 11, 33, "4.0 s")
    empty = GroupState("api", 1, 1, {}, (), {})
    assert (empty.lag, empty.depth) == (None, None)
    assert shown(Status("app", ("api",), work=(empty,)), "groups") == [("api", 1, 1, "", "", "", "", "", "")]
