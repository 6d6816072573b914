"""What an autoscaler is told: from the backends to the page, of one replica and of two that share the work."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest

from tidemill import App, Change
from tidemill.core.backlog import OLD, Backlog, Source
from tidemill.core.member import Member, from_value, key_of
from tidemill.core.probes import USUAL, Longest, Snapshot
from tidemill.engine.backlog import backlogs
from tidemill.engine.health_pages import answer
from tidemill.engine.publish import Publisher
from tidemill.engine.work import Stuck
from tidemill.errors import Unavailable
from tidemill.model import StreamSpec
from tidemill.testing.harness import Harness

Row = dict[str, Any]

Handler = Callable[[Any], Coroutine[Any, Any, None]]


class Shop:
    """Two feeds and a queue in two groups, and a timer; what is in `gate` waits in its handler."""

    def __init__(self) -> None:
        self.app = App("shop")
        self.gate = asyncio.Event()
        self.orders = self.app.collection("orders", Row, id="id", partitions=4)
        self.jobs = self.app.queue("jobs", Row)
        self.app.on_change(self.orders, name="bill", concurrency=2)(self._hold)
        self.app.on_change(self.orders, name="jobs", group="queues")(self._pass)
        self.app.on_message(self.jobs, name="work", concurrency=2)(self._hold)
        self.app.every("1h", name="tick")(self._tick)

    async def _hold(self, item: Any) -> None:
        await self.gate.wait()

    async def _pass(self, item: Change[Row]) -> None: ...

    def _tick(self) -> None: ...


def seen(harness: Harness) -> dict[str, Backlog]:
    return {one.group: one for one in backlogs(harness.engine)}


def asked(snapshot: Snapshot, path: str, now: float, method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    request = f"{method} {path} HTTP/1.1\r\nHost: here\r\n\r\n".encode()
    head, _, body = answer(request, snapshot, now, USUAL, lambda snapshot, now: "").decode().partition("\r\n\r\n")
    return int(head.split()[1]), body


# --- what is counted ----------------------------------------------------------------------------------------


async def test_what_waits_and_what_runs_is_counted_by_group() -> None:
    shop = Shop()
    async with Harness(shop.app) as harness:
        assert set(seen(harness)) == {"feeds", "queues"}
        for n in range(30):
            await shop.jobs.send({"id": f"{n}"})
            await shop.orders.put({"id": f"{n}"})
        await shop.jobs.send({"id": "later"}, delay="1h")
        await harness.advance("11s")
        now = seen(harness)
        work, bill = harness.engine.queues[0], harness.engine.feeds[0]
        assert work.held > 0
        assert now["queues"].sources[0] == Source("jobs", 30 - work.held, work.held)
        assert now["queues"].sources[1] == Source("feed/jobs", 0, 0)
        assert now["queues"].work == 30
        assert now["feeds"].sources == (Source("bill", 30, 0),)
        assert len(bill.running) == 2, "what runs of a feed is among what its mark has not passed"
        shop.gate.set()
        await harness.idle()
        await harness.advance("6s")
        assert {one.work for one in seen(harness).values()} == {0}


async def test_a_queue_with_a_key_is_still_that_queue() -> None:
    shop = Shop()
    async with Harness(shop.app, workers=["bill"]) as harness:
        [feed] = harness.engine.feeds
        feed.trigger = replace(feed.trigger, source=StreamSpec.of("notes"))
        assert seen(harness)["feeds"].sources == (Source("notes", 0, 0),)


async def test_one_that_was_never_measured_is_not_known() -> None:
    shop = Shop()
    async with Harness(shop.app) as harness:
        assert seen(harness)["queues"].at is None
        await harness.advance("1s")
        [queue] = harness.engine.queues
        assert seen(harness)["queues"].at == queue.measured
        harness.engine.feeds[1].measured = None
        assert seen(harness)["queues"].at is None


async def test_a_backend_that_is_away_leaves_the_last_value_and_it_ages() -> None:
    shop = Shop()
    async with Harness(shop.app) as harness:
        await shop.jobs.send({"id": "1"})
        await harness.advance("6s")
        before = seen(harness)

        async def away(*_: object) -> None:
            raise Unavailable("away")

        [queue] = harness.engine.queues
        queue.queue.depth = away  # type: ignore[method-assign, assignment]
        for feed in harness.engine.feeds:
            feed.feed.lag = away  # type: ignore[method-assign, assignment]
        await harness.advance("60s")
        assert seen(harness) == before
        shop.gate.set()


async def test_two_replicas_know_the_lag_of_all_partitions() -> None:
    shop = Shop()
    async with (
        Harness(shop.app, replica="one") as one,
        Harness(shop.app, database=one.places.main, clock=one.clock, replica="two") as two,
    ):
        await one.advance("20s")
        held = [len(harness.engine.feeds[0].parts) for harness in (one, two)]
        assert sum(held) == 4
        assert min(held) >= 1, "both hold some"
        for n in range(40):
            await shop.orders.put({"id": f"{n}"})
        await one.advance("15s")
        own = [sum(harness.engine.feeds[0].behind().values()) for harness in (one, two)]
        assert sum(own) == 40
        assert min(own) > 0
        for harness in (one, two):
            assert seen(harness)["feeds"].work == 40
            [member] = harness.engine.feeds[0].others()
            assert member.behind == {"bill": {k: v for k, v in member.behind["bill"].items() if v > 0}}
        shop.gate.set()
        await one.advance("20s")
        assert seen(one)["feeds"].work == seen(two)["feeds"].work == 0
        assert one.engine.feeds[0].others()[0].behind == {}, "nothing is noted of what is not behind"


async def test_what_moved_is_counted_once() -> None:
    shop = Shop()
    async with Harness(shop.app) as harness:
        for n in range(10):
            await shop.orders.put({"id": f"{n}"})
        await harness.advance("11s")
        [feed, _] = harness.engine.feeds
        own = feed.behind()
        name = next(iter(own))
        other = Member("other", "two", ("feeds",), behind={"bill": {name: 1_000, "gone": 5}, "else": {"0": 7}})
        feed.others = lambda: [other]  # type: ignore[method-assign]
        assert seen(harness)["feeds"].work == 10 + 5
        shop.gate.set()


async def test_noting_it_costs_no_write_of_its_own() -> None:
    """It stands in the renewal that is written in any case."""
    shop = Shop()
    async with Harness(shop.app) as harness:
        [membership] = harness.engine.memberships
        key = key_of(membership.member)
        versions = set()
        noted = None
        for n in range(60):
            await shop.orders.put({"id": f"{n}"})
            await harness.advance("1s")
            [record] = await harness.places.shared_store().get([key])
            assert record is not None
            versions.add(record.version)
            noted = from_value(record.value)
        assert len(versions) <= 15, "60 s are 12 renewals, give or take"
        assert isinstance(noted, Member)
        assert sum(noted.behind["bill"].values()) > 40
        shop.gate.set()


def test_a_note_that_makes_no_sense_is_passed_over() -> None:
    value = Member("a", "one", ("feeds",)).to_value()
    assert "behind" not in value
    for behind, read in [
        ("much", {}),
        ({"bill": 7}, {}),
        ({"bill": {"0": 7, "1": "many"}}, {"bill": {"0": 7}}),
    ]:
        found = from_value({**value, "behind": behind})  # type: ignore[dict-item]
        assert isinstance(found, Member)
        assert found.behind == read


# --- what is answered ---------------------------------------------------------------------------------------

UP = Snapshot(
    at=100.0,
    started=True,
    backlogs=(
        Backlog("queues", 95.8, (Source("invoices", 100, 23),)),
        Backlog("feeds", None, (Source("bill", 0, 0),)),
    ),
)


def test_the_page_of_a_group() -> None:
    status, body = asked(UP, "/scale/queues", 100.0)
    assert status == 200
    assert json.loads(body) == {
        "group": "queues",
        "work": 123,
        "sources": {"invoices": {"waiting": 100, "running": 23}},
        "age": 4.2,
    }
    assert asked(UP, "/scale/queues?x=1", 100.0) == (status, body)
    assert asked(UP, "/scale/%71ueues", 100.0) == (status, body)
    assert asked(UP, "/scale/queues", 100.0, "HEAD") == (200, "")
    assert json.loads(asked(UP, "/scale/queues", 90.0)[1])["age"] == 0.0


def test_what_is_not_known_is_no_answer() -> None:
    assert asked(UP, "/scale/feeds", 100.0) == (503, "not measured yet\n")
    assert asked(Snapshot(at=100.0), "/scale/queues", 100.0) == (503, "not measured yet\n")
    assert asked(UP, "/scale/queues", 95.8 + OLD)[0] == 200
    assert asked(UP, "/scale/queues", 96.8 + OLD) == (503, "not measured for 301 s\n")


@pytest.mark.parametrize("group", ["timers", "", "api%0d%0aX-Evil:%201", "%ff"])
def test_a_group_without_work_here_is_not_found(group: str) -> None:
    status, body = asked(UP, f"/scale/{group}", 100.0)
    assert status == 404
    assert body.endswith("is worked here (groups with one: queues, feeds)\n")
    assert body.count("\n") == 1
    assert asked(replace(UP, backlogs=()), "/scale/api", 100.0)[1].endswith("(groups with one: none)\n")


# --- what is published --------------------------------------------------------------------------------------


class Silence:
    """The handlers' side as it is told to be."""

    now = Stuck(0.0)


async def test_the_longest_silence_is_kept_with_who_it_was() -> None:
    app = App("shop")
    app.every("1h", name="tick")(lambda: None)
    async with Harness(app) as harness:
        published: list[Snapshot] = []
        silence = Silence()
        publisher = Publisher(harness.engine, publish=published.append, stuck=lambda: silence.now, rules=lambda: ())

        async def tick(seconds: float, silent: Stuck) -> Snapshot:
            await harness.advance(seconds)
            silence.now = silent
            publisher.tick()
            return published[-1]

        assert (await tick(20.0, Stuck(20.0, "start"))).longest == {}, "the start is not watched"
        publisher.started = True
        snapshot = await tick(1.0, Stuck(21.0, "start"))
        assert (snapshot.ready, snapshot.longest) == (snapshot.at, {})
        snapshot = await tick(0.25, Stuck(0.25))
        assert snapshot.longest["handlers"].seconds == 0.25
        snapshot = await tick(3.0, Stuck(2.5, "bill", "shop.py:7"))
        assert snapshot.longest == {"engine": Longest(3.0), "handlers": Longest(2.5, "bill", "shop.py:7")}
        snapshot = await tick(1.0, Stuck(1.0, "other"))
        assert snapshot.longest["handlers"].worker == "bill"
        snapshot = await tick(60.0, Stuck(60.0, "frozen"))
        assert snapshot.longest == {"engine": Longest(60.0), "handlers": Longest(2.5, "bill", "shop.py:7")}
        assert (await tick(4.0, Stuck(64.0, "really"))).longest["handlers"] == Longest(4.0, "really")
        publisher.draining = True
        assert (await tick(4.0, Stuck(68.0, "drain"))).longest["handlers"] == Longest(4.0, "really")
        assert snapshot.ready == published[-1].ready
