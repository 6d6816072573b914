"""The smaller parts of the engine: outbox, outlet, rules, drain, patience, places, housekeeping's turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from tidemill import App, Backoff, Context, Health
from tidemill.adapters.memory import Memory
from tidemill.app.worker import Rule
from tidemill.core.backoff import Backoff as CoreBackoff
from tidemill.core.codec import Codec
from tidemill.core.duration import seconds
from tidemill.core.fence import Fence
from tidemill.core.flow import Flow
from tidemill.core.health import Check
from tidemill.engine.drain import drain
from tidemill.engine.outlet import Outlet
from tidemill.engine.patience import Patience
from tidemill.engine.places import places
from tidemill.engine.rules import LONGEST, Rules
from tidemill.engine.tasks import Tasks
from tidemill.engine.work import Budget, Stuck
from tidemill.errors import ConfigurationError, TidemillError, TooLarge, Unavailable, Unfit
from tidemill.model import Message
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness


async def test_the_outbox_forwards_to_another_database() -> None:
    app = App("test")
    inside = app.queue("inside", dict)
    outside = app.queue("outside", dict)
    things = app.collection("things", dict, id="id")

    @app.on_message(inside)
    async def work(job: dict[str, Any], context: Context) -> None:
        context.transaction.put(things, {"id": job["n"]})
        context.transaction.send(outside, {"n": job["n"]}, dedup=f"d{job['n']}", headers={"h": "1"})

    clock = FakeClock()
    other = Memory(clock)
    async with Harness(app, clock=clock, queues={"outside": other}) as harness:
        for n in range(3):
            await inside.send({"n": n})
        await harness.advance("5s")
        deliveries = await other.queue(outside.spec).receive("test", 10, 0.0)
        assert sorted(d.body for d in deliveries) == [b'{"n":0}', b'{"n":1}', b'{"n":2}']
        assert dict(deliveries[0].headers) == {"h": "1"}
        assert (await harness.places.main.queue(inside.spec).depth()).ready == 0
        [forwarder] = harness.engine.forwarders
        assert forwarder.idle


async def test_the_outlet_splits_a_batch_for_one_bad_item() -> None:
    clock = FakeClock()
    app = App("test")
    app.queue("jobs", dict)
    where = places(app.declared(), Memory(clock))
    await where.open()
    outlet = Outlet(where, asyncio.get_running_loop())
    sent: list[int] = []

    class Narrow:
        async def send(self, messages: Sequence[Message]) -> Sequence[str]:
            sent.append(len(messages))
            if any(len(m.body) > 5 for m in messages):
                raise TooLarge
            return [m.id for m in messages]

    outlet._places = type("P", (), {"queue": lambda self, name: Narrow()})()
    calls = [outlet.send("jobs", [Message("jobs", f"{n}", b"x" * n)]) for n in (1, 9, 2)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [list, TooLarge, list]
    assert sent == [3, 1, 1, 1]
    assert outlet.idle
    await outlet.close()
    with pytest.raises(Unavailable, match="stopped"):
        await outlet.send("jobs", [Message("jobs", "late", b"x")])


async def test_the_outlet_tells_unknown_outcomes_and_foreign_errors() -> None:
    clock = FakeClock()
    app = App("test")
    app.collection("things", dict, id="id")
    outlet = Outlet(places(app.declared(), Memory(clock)), asyncio.get_running_loop())

    class Broken:
        async def get(self, ids: Sequence[str]) -> Sequence[None]:
            raise Unavailable if ids == ["a"] else KeyError("x")

    outlet._places = type("P", (), {"documents": lambda self, name: Broken()})()
    with pytest.raises(Unavailable):
        await outlet.get("things", ["a"])
    with pytest.raises(Unavailable, match="get things: KeyError"):
        await outlet.get("things", ["b"])


async def test_rules_keep_their_last_answer_and_say_when_they_hang() -> None:
    clock = FakeClock()
    release = asyncio.Event()
    release.set()

    async def hangs() -> Health:
        await release.wait()
        return Health.degraded("so so")

    def raises() -> Health:
        raise ValueError("secret")

    rules = [
        Rule("a", hangs, (), frozenset({"ready"})),
        Rule("b", raises, (), frozenset({"live"})),
        Rule("c", lambda: "fine", (), frozenset({"ready"})),
    ]

    async def ask(work: Any) -> Sequence[Check]:
        found: Sequence[Check] = await work()
        return found

    watched = Rules(rules, clock, ask)
    assert {check.health.why for check in watched.checks()} == {"not asked yet"}
    running = asyncio.ensure_future(watched.run())
    await clock.advance(1.0)
    words = [check.health.why for check in watched.checks()]
    assert words == ["so so", "the rule failed (see the log)", "the rule returned str, not Health"]
    release.clear()
    await clock.advance(LONGEST + 5)
    assert all("no answer" in check.health.why for check in watched.checks())
    running.cancel()


async def test_rules_end_with_the_handlers() -> None:
    async def ask(work: Any) -> Sequence[Check]:
        raise TidemillError("the handlers are not running")

    await Rules([Rule("a", Health.healthy, (), frozenset())], FakeClock(), ask).run()


async def test_a_drain_waits_then_cancels_then_gives_back() -> None:
    app = App("test")
    jobs = app.queue("jobs", dict)
    ended: list[str] = []

    @app.on_message(jobs, concurrency=3)
    async def work(job: dict[str, Any], context: Context) -> None:
        try:
            await harness.clock.sleep(job["seconds"])
            ended.append("done")
        except asyncio.CancelledError:
            ended.append(f"cancelled in attempt {context.attempt}")
            raise

    async with Harness(app) as harness:
        for length in (5, 100, 200):
            await jobs.send({"seconds": length})
        await harness.advance("1s")
        database, clock = harness.places.main, harness.clock
    assert sorted(ended) == ["cancelled in attempt 1", "cancelled in attempt 1", "done"]
    deliveries = await database.queue(jobs.spec).receive("next", 10, 0.0)
    assert [(d.attempt, d.deliveries) for d in deliveries] == [(0, 1), (0, 1)]
    assert await database.store().scan("member/", "member/", 10) == []
    assert clock.monotonic() < 1_000 + 40


async def test_a_drain_does_not_give_back_what_runs_on() -> None:
    app = App("test")
    jobs = app.queue("jobs", dict)

    @app.on_message(jobs)
    async def work(job: dict[str, Any]) -> None:
        while not over.is_set():
            try:
                await harness.clock.wait(over, 1_000)
            except asyncio.CancelledError:
                continue

    over = asyncio.Event()
    async with Harness(app) as harness:
        await jobs.send({})
        await harness.advance("1s")
        ending = asyncio.ensure_future(drain(harness.engine, harness, Budget(), asyncio.Event()))
        await harness.clock.run_until(ending.done, 60.0)
        ended = await ending
        assert ended.code == 1
        assert any("work" in line and "taken over" in line for line in ended.left)
        assert await harness.places.main.queue(jobs.spec).receive("next", 10, 0.0) == []
        over.set()
        await harness.kill()


async def test_a_second_signal_hurries_the_drain() -> None:
    app = App("test")
    jobs = app.queue("jobs", dict)

    @app.on_message(jobs)
    async def work(job: dict[str, Any]) -> None:
        await harness.clock.sleep(1_000)

    async with Harness(app) as harness:
        await jobs.send({})
        await harness.advance("1s")
        hurry = asyncio.Event()
        hurry.set()
        began = harness.clock.monotonic()
        ending = asyncio.ensure_future(drain(harness.engine, harness, Budget(lame_duck=5.0), hurry))
        await harness.clock.run_until(ending.done, 60.0)
        assert (await ending).code == 0
        assert harness.clock.monotonic() - began < 8
        await harness.kill()


async def test_a_second_signal_at_once_cuts_no_web_api_off_where_there_is_none() -> None:
    app = App("test")
    app.queue("jobs", dict)
    async with Harness(app) as harness:
        hurry = asyncio.Event()
        hurry.set()
        ending = asyncio.ensure_future(drain(harness.engine, harness, Budget(), hurry))
        await harness.clock.run_until(ending.done, 60.0)
        assert (await ending).left == []
        await harness.kill()


async def test_patience_asks_again_and_waits_for_the_fence() -> None:
    clock = FakeClock()
    fence = Fence(clock.monotonic() + 5)
    patience = Patience(clock, Random(0), fence)
    asked: list[float] = []

    async def call() -> str:
        asked.append(clock.monotonic())
        if len(asked) < 4:
            raise Unavailable
        return "yes"

    waiting = asyncio.ensure_future(patience.until_answered(call))
    await clock.run_until(waiting.done, 10.0)
    assert await waiting == "yes"
    assert len(asked) == 4
    fence.drop()
    late = asyncio.ensure_future(patience.until_answered(call))
    await clock.advance(3.0)
    assert not late.done()
    fence.extend(clock.monotonic(), 10.0)
    await clock.advance(1.0)
    assert late.done()


async def test_tasks_keep_their_first_failure() -> None:
    tasks = Tasks()

    async def fails() -> None:
        raise ValueError("first")

    tasks.spawn(fails())
    assert len(tasks) == 1
    await asyncio.sleep(0.01)
    with pytest.raises(ValueError, match="first"):
        tasks.check()


def test_places_know_what_is_declared() -> None:
    where = places(App("test").declared(), Memory(FakeClock()))
    with pytest.raises(ConfigurationError, match="queue 'x' is not declared"):
        where.queue("x")
    with pytest.raises(ConfigurationError, match="collection 'x' is not declared"):
        where.documents("x")


def test_flow_lets_in_what_can_start_and_no_more() -> None:
    flow = Flow(10, None, 0.0)
    assert flow.room(0, 0.0) == 10
    assert flow.room(10, 0.0) == 0
    for tick in range(1, 30):
        flow.ended(100, tick * 0.2)
    assert flow.room(10, 6.0) > 100
    assert not flow.worthwhile(5, 200)
    limited = Flow(10, 2.0, 0.0)
    assert limited.room(0, 0.0) == 2
    limited.took(2)
    assert limited.room(0, 0.0) == 0
    assert limited.room(0, 1.0) == 2


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"attempts": 0}, "at least 1"),
        ({"factor": 0.5}, "factor"),
        ({"jitter": 2.0}, "jitter"),
        ({"first": "soon"}, "no duration"),
    ],
)
def test_backoff_refuses_what_makes_no_sense(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        Backoff(**wrong)
    assert CoreBackoff(attempts=1).delay(1, Random(0)) is None


@pytest.mark.parametrize(("text", "length"), [("1h30m", 5400.0), ("250ms", 0.25), (3, 3.0), ("2d", 172800.0)])
def test_durations(text: Any, length: float) -> None:
    assert seconds(text) == length


@pytest.mark.parametrize("wrong", ["", "5 apples", "-3s", float("nan"), -1])
def test_what_is_no_duration(wrong: Any) -> None:
    with pytest.raises(ValueError, match="duration"):
        seconds(wrong)


def test_the_codec_explains_and_never_shows() -> None:
    codec: Codec[Any] = Codec(list[int])
    with pytest.raises(Unfit, match="and 1 more") as caught:
        codec.decode(b'["secret", "b", "c", "d"]')
    assert "secret" not in str(caught.value)
    with pytest.raises(Unfit, match="does not fit"):
        codec.encode(object())
    with pytest.raises(Unfit):
        codec.check("x")
    assert codec.check([1]) == [1]


async def test_a_store_that_does_not_answer_holds_up_no_tick() -> None:
    app = App("test")
    jobs = app.queue("jobs", dict)

    @app.on_message(jobs)
    async def work(job: dict[str, Any]) -> None: ...

    async with Harness(app) as harness:
        [worker] = harness.engine.queues

        class Away:
            async def depth(self) -> None:
                await harness.clock.sleep(3_600)

        queue, worker.queue = worker.queue, Away()  # type: ignore[assignment]
        await harness.advance("60s")
        assert harness.clock.monotonic() - harness.engine.ticked < 1
        worker.queue = queue


async def test_a_freeze_of_our_own_is_not_the_handlers_silence() -> None:
    app = App("test")
    jobs = app.queue("jobs", dict)

    @app.on_message(jobs)
    async def work(job: dict[str, Any]) -> None: ...

    async with Harness(app) as harness:
        await harness.advance("1s")
        silence = 0.0
        harness.engine._stuck = lambda: Stuck(silence, "work", "app.py:12")
        silence = 20.0
        harness.clock._move(harness.clock.monotonic() + 20.0)  # one step: nobody ticked meanwhile
        await harness.advance("1s")
        assert not harness.engine.stalled
        await harness.advance("5s")
        assert harness.engine.stalled, "it is silent beside an engine that ticks"
        (told,) = (fact for fact in harness.facts if fact.name == "stalled")
        assert (told.worker, told.detail) == ("work", {"where": "app.py:12"})
        silence = 0.0
        await harness.advance("1s")
        assert not harness.engine.stalled


async def test_a_driver_that_takes_no_cancellation_does_not_hold_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A queue's client that swallows it in its own loop would: the process has nothing left to do then."""
    monkeypatch.setattr("tidemill.engine.engine.ENDING", 0.05)
    free = asyncio.Event()

    async def deaf() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass

    async with Harness(App("test")) as harness:
        harness.engine.spawn("deaf", deaf())
        await asyncio.sleep(0)
        await harness.engine.end_services()
        free.set()
