"""What an operator sees and does, on the reference backend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from random import Random
from typing import Protocol

import pytest

from tidemill import operations
from tidemill.adapters.memory import Memory
from tidemill.app.app import App
from tidemill.app.values import Change
from tidemill.core import lease, member, park
from tidemill.core.lease import Lease
from tidemill.core.member import Member, Tombstone
from tidemill.engine.controls import PAUSE
from tidemill.engine.places import Places, places
from tidemill.errors import Unavailable
from tidemill.model import Dead, DeadLetter, Message, Outcome, Put, Swap, Value
from tidemill.operations import Acted, Manner, Pace, Selection
from tidemill.operations.records import scan
from tidemill.testing.clock import FakeClock

Row = dict[str, int]


class Act(Protocol):
    async def __call__(
        self,
        places: Places,
        selection: Selection,
        *,
        random: Random,
        dry_run: bool = False,
        manner: Manner | None = None,
    ) -> Acted: ...


def avalon() -> App:
    app = App("avalon")
    orders = app.collection("orders", Row, id="number", partitions=2)
    invoices = app.queue("invoices", Row)

    @app.on_change(orders)
    def bill(change: Change[Row]) -> None: ...

    @app.on_message(invoices)
    def send_invoice(invoice: Row) -> None: ...

    @app.every("30s")
    def refresh() -> None: ...

    return app


@pytest.fixture
async def here() -> AsyncIterator[Places]:
    home = places(avalon().declared(), Memory(FakeClock()))
    await home.open()
    yield home
    await home.close()


async def write(home: Places, key: str, value: Value) -> None:
    await home.shared_store().swap([Swap(key, None, value)])


async def controls(home: Places) -> list[Value]:
    return [record.value async for record in scan(home.shared_store(), "control/")]


def letter(source: str, id: str, order: int, key: str | None = None) -> DeadLetter:
    return DeadLetter(source, id, key, order, b"{}", 3, "no rate", "Traceback", 0.0)


async def die(home: Places, *ids: str) -> None:
    """Send messages and let them die."""
    queue = home.queue("invoices")
    await queue.send([Message("invoices", id, b"{}") for id in ids])
    deliveries = await queue.receive("m1", len(ids), 0.0)
    await queue.settle([Outcome(delivery, Dead("no rate")) for delivery in deliveries])


# --- status -------------------------------------------------------------------------------------------------


async def test_a_system_that_never_ran(here: Places) -> None:
    status = await operations.status(here, avalon().declared())
    assert status.members == ()
    assert [(p.worker, p.name, p.state) for p in status.partitions] == [
        ("bill", name, "never worked") for name in await here.feed("orders").partitions()
    ]
    assert status.queues["invoices"].ready == 0
    assert [(t.name, t.last, t.state) for t in status.timers] == [("refresh", None, "never ran")]
    assert operations.groups_without_members(status) == ["feeds", "queues", "timers"]
    assert status.problems == ()


async def test_members_and_who_holds_what(here: Places) -> None:
    first, second = await here.feed("orders").partitions()
    await write(here, member.key_of("m1"), Member("m1", "pod-1", ("feeds", "queues"), draining=True).to_value())
    await write(here, member.key_of("m0"), Tombstone("m0", "m1", 0.0).to_value())
    held = Lease(await here.feed("orders").start(first, "now"), "m1", epoch=3, nonce="n")
    await write(here, lease.key_of("bill", first), held.to_value())
    await write(here, lease.key_of("bill", second), Lease("", state="halted", crashes=2).to_value())
    index = park.Index(3, {
        "a": park.Parked(1, 1, 1, 10, "parked"),
        "b": park.Parked(2, 2, 1, 10, "waiting"),
    })  # fmt: skip
    await write(here, f"park/bill/{first}", park.to_value(index, "w"))
    await write(here, PAUSE + "bill", {"wish": "pause"})
    status = await operations.status(here, avalon().declared())
    assert [(m.id, m.name, m.draining) for m in status.members] == [("m1", "pod-1", True)]
    assert operations.groups_without_members(status) == ["timers"]
    one, two = status.partitions
    assert (one.owner, one.epoch, one.parked, one.waiting) == ("m1", 3, 1, 1)
    assert (two.owner, two.state, two.crashes) == (None, "halted", 2)
    assert status.paused == ("bill",)


async def test_lag_counts_from_the_checkpoint(here: Places) -> None:
    feed = here.feed("orders")
    cursors = {name: await feed.start(name, "now") for name in await feed.partitions()}
    for name, cursor in cursors.items():
        await write(here, lease.key_of("bill", name), Lease(cursor, "m1").to_value())
    await here.documents("orders").write([Put("orders", str(i), str(i), b"{}") for i in range(10)])
    status = await operations.status(here, avalon().declared())
    assert sum(p.lag.items for p in status.partitions if p.lag) == 10


async def test_depths_and_dead_letters(here: Places) -> None:
    await die(here, "a", "b")
    await here.queue("invoices").send([Message("invoices", "c", b"{}")])
    status = await operations.status(here, avalon().declared())
    assert (status.queues["invoices"].ready, status.dead_letters) == (1, {"queue/invoices": 2})


async def test_a_backend_that_is_away_costs_its_own_part_only(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        async def depth(self) -> None:
            raise Unavailable("no route")

    monkeypatch.setattr(Places, "queue", lambda self, name: Away())
    status = await operations.status(here, avalon().declared())
    assert status.problems == ("queue invoices: no route",)
    assert status.queues == {}
    assert len(status.partitions) == 2


# --- dead letters -------------------------------------------------------------------------------------------


async def seen(home: Places, selection: Selection, limit: int | None = None) -> list[str]:
    return [found.id async for found in operations.letters(home, selection, limit=limit)]


async def test_letters_are_selected_by_source_key_and_id(here: Places) -> None:
    await die(here, "a", "b")
    letters = [letter("feed/bill/0", "x", 1, "k"), letter("feed/bill/1", "y", 2, "l"), letter("feed/billing/0", "z", 3)]
    await here.letters_of_feed("orders").put(letters)
    assert await seen(here, Selection()) == ["x", "y", "z", "a", "b"]
    assert await seen(here, Selection("queue/invoices")) == ["a", "b"]
    assert await seen(here, Selection("feed/bill")) == ["x", "y"]
    assert await seen(here, Selection("feed/bill/1")) == ["y"]
    assert await seen(here, Selection(key="k")) == ["x"]
    assert await seen(here, Selection(ids=("b", "y"))) == ["y", "b"]
    assert await seen(here, Selection(), limit=2) == ["x", "y"]


async def test_replayed_messages_are_due_again(here: Places) -> None:
    await die(here, "a", "b")
    acted = await operations.replay(here, Selection("queue/invoices", ids=("b",)), random=Random(1))
    assert acted == Acted(letters=1)
    assert await seen(here, Selection()) == ["a"]
    [again] = await here.queue("invoices").receive("m1", 10, 0.0)
    assert (again.id, again.attempt) == ("b", 0)


async def test_dropped_messages_are_gone(here: Places) -> None:
    await die(here, "a", "b")
    assert await operations.drop(here, Selection("queue/invoices"), random=Random(1)) == Acted(letters=2)
    assert await seen(here, Selection()) == []
    assert await here.queue("invoices").receive("m1", 10, 0.0) == []


async def test_many_letters_are_worked_in_pages(here: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.operations.dead_letters.PAGE", 3)
    await die(here, *(f"{i:02}" for i in range(10)))
    assert await operations.replay(here, Selection(), random=Random(1)) == Acted(letters=10)
    assert len(await here.queue("invoices").receive("m1", 20, 0.0)) == 10


@pytest.mark.parametrize("act", [operations.replay, operations.drop])
async def test_a_dry_run_does_nothing(here: Places, act: Act) -> None:
    await die(here, "a")
    await here.letters_of_feed("orders").put([letter("feed/bill/0", "x", 1, "k")])
    assert await act(here, Selection(), random=Random(1), dry_run=True) == Acted(letters=1, keys=1)
    assert await seen(here, Selection()) == ["x", "a"]
    assert await controls(here) == []


async def test_parked_keys_are_left_to_the_owner(here: Places) -> None:
    """One wish for each key, however many bodies it has; the bodies stay."""
    letters = [
        letter("feed/bill/0", id, order, key) for order, (id, key) in enumerate([("x", "k"), ("y", "k"), ("z", "l")])
    ]
    await here.letters_of_feed("orders").put(letters)
    assert await operations.replay(here, Selection("feed/bill"), random=Random(1)) == Acted(keys=2)
    wishes = await controls(here)
    assert sorted((str(w["wish"]), str(w["key"])) for w in wishes) == [("replay", "k"), ("replay", "l")]
    assert await seen(here, Selection()) == ["x", "y", "z"]


async def test_a_later_wish_replaces_an_earlier_one(here: Places) -> None:
    await here.letters_of_feed("orders").put([letter("feed/bill/0", "x", 1, "k/ä")])
    await operations.replay(here, Selection(), random=Random(1))
    await operations.drop(here, Selection(), random=Random(2))
    [wish] = await controls(here)
    assert (wish["wish"], wish["key"]) == ("drop", "k/ä")


async def test_skipped_changes_can_only_be_dropped(here: Places) -> None:
    await here.letters_of_feed("orders").put([letter("feed/bill/0/skipped", "x", 1, "k")])
    acted = await operations.replay(here, Selection(), random=Random(1))
    assert acted.refused == ("feed/bill/0/skipped x: it was skipped and its order given up; it can only be dropped",)
    assert await operations.drop(here, Selection(), random=Random(1)) == Acted(letters=1)
    assert await seen(here, Selection()) == []


async def test_letters_are_selected_by_time_and_reason(here: Places) -> None:
    letters = [
        replace(letter("feed/bill/0", id, order), reason=reason, error=error, at=at)
        for order, (id, reason, error, at) in enumerate(
            [("x", "No route", "", 10.0), ("y", "late", "OSError: no ROUTE to host", 20.0), ("z", "late", "", 30.0)]
        )
    ]
    await here.letters_of_feed("orders").put(letters)
    assert await seen(here, Selection(since=20.0)) == ["y", "z"]
    assert await seen(here, Selection(until=20.0)) == ["x"]
    assert await seen(here, Selection(since=10.0, until=30.0)) == ["x", "y"]
    assert await seen(here, Selection(reason="no route")) == ["x", "y"]


@pytest.mark.parametrize("act", [operations.replay, operations.drop])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 9])
async def test_a_dry_run_counts_what_is_done(here: Places, act: Act, limit: int) -> None:
    """Messages and keys together are no more than the limit; a key counts once, however many bodies it has."""
    await die(here, "a", "b")
    parked = [
        letter("feed/bill/0", "x", 1, "k"),
        letter("feed/bill/0", "y", 2, "k"),
        letter("feed/bill/0", "z", 3, "l"),
    ]
    await here.letters_of_feed("orders").put(parked)
    plan = await act(here, Selection(), random=Random(1), manner=Manner(limit=limit, dry_run=True))
    assert plan.letters + plan.keys == min(limit, 4)
    told: list[int] = []
    done = await act(here, Selection(), random=Random(1), manner=Manner(limit=limit, told=told.append))
    assert done == plan
    assert sum(told) == plan.letters + plan.keys
    assert len(await controls(here)) == plan.keys


async def test_a_replay_keeps_its_pace(here: Places) -> None:
    """Each quarter of a second as many go as the rate allows; parked keys count with all that is theirs."""
    await die(here, *(f"{i:02}" for i in range(30)))
    await here.letters_of_feed("orders").put([letter("feed/bill/0", f"x{n}", n, "k") for n in range(40)])
    clock = FakeClock()
    began, went = clock.monotonic(), list[tuple[float, int]]()
    manner = Manner(pace=Pace(clock, 20.0), told=lambda done: went.append((round(clock.monotonic() - began, 6), done)))
    replaying = asyncio.create_task(operations.replay(here, Selection(), random=Random(1), manner=manner))
    await clock.advance(60)
    assert await replaying == Acted(letters=30, keys=1)
    assert went == [(0.0, 5), (0.25, 5), (0.5, 5), (0.75, 5), (1.0, 5), (1.25, 5), (1.5, 1)]


async def test_what_dies_again_meanwhile_is_not_replayed_again(here: Places) -> None:
    """A slow replay of what still fails ends."""
    await die(here, "a", "b", "c")
    queue = here.queue("invoices")
    replayed: list[str] = []

    async def fail(done: int) -> None:
        for delivery in await queue.receive("m1", 10, 0.0):
            replayed.append(delivery.id)
            await queue.settle([Outcome(delivery, Dead("no rate"))])

    class Failing(Pace):
        chunk = 1

        def __init__(self) -> None: ...

        async def wait(self, letters: int) -> None:
            await fail(letters)

    acted = await operations.replay(here, Selection(), random=Random(1), manner=Manner(pace=Failing()))
    await fail(0)
    assert acted == Acted(letters=3)
    assert sorted(replayed) == ["a", "b", "c"]
