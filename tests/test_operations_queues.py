"""What an operator sees and does of queues, on the reference backend."""

from __future__ import annotations

from typing import Any

import pytest

from tidemill.adapters.memory import Memory
from tidemill.app.app import App
from tidemill.app.handles import Queue
from tidemill.engine.controls import PAUSE
from tidemill.engine.places import places
from tidemill.errors import ConfigurationError, QueueFull, TooLarge, Unavailable
from tidemill.model import Limits, Message, Stale, Swap
from tidemill.operations import queues as operations
from tidemill.operations.queues import Sent
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness

Row = dict[str, int]


class Broker(Memory):
    """A backend that can neither show nor remove what waits, and takes little at once."""

    @property
    def features(self) -> frozenset[str]:
        return super().features - {"peek", "purge", "store"}

    @property
    def limits(self) -> Limits:
        return Limits(batch=3, body=10)


def shop(**options: Any) -> tuple[App, Queue[Row]]:
    app = App("shop")
    jobs = app.queue("jobs", Row, **options)

    @app.on_message(jobs)
    async def work(row: Row) -> None: ...

    @app.on_message(jobs)
    async def audit(row: Row) -> None: ...

    return app, jobs


async def test_a_paused_queue_waits_and_goes_on() -> None:
    app, jobs = shop()
    async with Harness(app) as harness:
        declared = app.declared()
        wished = await operations.pause(harness.places, declared, "jobs")
        assert wished.workers == wished.changed == ("work", "audit")
        await harness.advance("2s")
        await jobs.send({"n": 1})
        await harness.advance("10s")
        assert harness.verdicts == []
        [state] = await operations.queues(harness.places, declared)
        assert (state.depth and state.depth.ready, state.paused) == (1, ("work", "audit"))
        await operations.resume(harness.places, declared, "jobs")
        await harness.advance("2s")
        await harness.idle()
        assert [seen.verdict for seen in harness.verdicts] == ["done"]


async def test_a_pause_holds_for_a_replica_that_starts_later() -> None:
    app, jobs = shop()
    database = Memory(FakeClock())
    async with Harness(app, database=database, workers=[]) as sender:
        await operations.pause(sender.places, app.declared(), "jobs")
        await jobs.send({"n": 1})
    async with Harness(app, database=database, replica="later") as harness:
        await harness.advance("10s")
        assert harness.verdicts == []


async def test_a_wish_that_meets_another_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    app, _ = shop()
    async with Harness(app, workers=[]) as harness:
        store = harness.places.shared_store()
        swap, met = store.swap, list[object]()

        async def late(swaps: list[Swap]) -> Any:
            if not met:
                await swap([Swap(PAUSE + "work", None, {"wish": "something newer"})])
            replies = await swap(swaps)
            met.extend(replies)
            return replies

        class Late:
            get = staticmethod(store.get)

        setattr(Late, "swap", staticmethod(late))  # noqa: B010
        monkeypatch.setattr("tidemill.engine.places.Places.shared_store", lambda self: Late())
        wished = await operations.pause(harness.places, app.declared(), "jobs")
        assert wished.changed == ("work", "audit")
        assert isinstance(met[0], Stale)
        [record] = await store.get([PAUSE + "work"])
        assert record is not None
        assert record.value["wish"] == "pause"


async def test_a_backend_that_can_do_less() -> None:
    app, _ = shop()
    where = places(app.declared(), Broker(FakeClock()))
    await where.open()
    with pytest.raises(ConfigurationError, match=r"^queue 'jobs': its backend broker cannot peek$"):
        await operations.peek(where, "jobs", limit=1)
    with pytest.raises(ConfigurationError, match=r"^queue 'jobs': its backend broker cannot purge$"):
        await operations.purge(where, "jobs")
    with pytest.raises(ConfigurationError, match=r"^queue 'jobs': a pause is kept in the store, and there is none"):
        await operations.pause(where, app.declared(), "jobs")
    [state] = await operations.queues(where, app.declared())
    assert state.paused == ()


async def test_a_backend_that_is_away_costs_what_it_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: object, prefix: object) -> None:
        raise Unavailable("no route")

    app, jobs = shop()
    async with Harness(app, workers=[]) as harness:
        await jobs.send({"n": 1})
        monkeypatch.setattr("tidemill.adapters.memory.letters.MemoryDeadLetters.count", away)
        monkeypatch.setattr("tidemill.adapters.memory.store.MemoryStore.get", away)
        [state] = await operations.queues(harness.places, app.declared())
        assert (state.depth and state.depth.ready, state.dead, state.paused) == (1, None, ())
        assert state.problem == "no route"
        monkeypatch.undo()


async def test_messages_go_in_batches_that_the_backend_takes() -> None:
    app, _ = shop()
    where = places(app.declared(), Broker(FakeClock()))
    await where.open()
    told: list[Sent] = []
    messages = [Message("jobs", f"{n}", b"{}", dedup=f"{n % 7}") for n in range(8)]
    await operations.send(where, "jobs", iter(messages), told=told.append)
    assert [(len(some.ids), some.duplicates) for some in told] == [(3, 0), (3, 0), (2, 1)]
    check = operations.checker(where, "jobs")
    check(Message("jobs", "x", b"{}"))
    with pytest.raises(TooLarge):
        check(Message("jobs", "x", b"x" * 11))


async def test_what_was_sent_before_the_queue_was_full_is_told() -> None:
    app, _ = shop(limit=5)
    where = places(app.declared(), Broker(FakeClock()))
    await where.open()
    told: list[Sent] = []
    with pytest.raises(QueueFull):
        await operations.send(where, "jobs", (Message("jobs", f"{n}", b"{}") for n in range(8)), told=told.append)
    assert [some.ids for some in told] == [("0", "1", "2")]


async def test_peek_goes_by_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.operations.queues.PAGE", 3)
    app, jobs = shop()
    async with Harness(app, workers=[]) as harness:
        await jobs.send_many([{"n": n} for n in range(10)])
        found = await operations.peek(harness.places, "jobs", limit=8)
        assert [one.body for one in found] == [b'{"n":%d}' % n for n in range(8)]
        rest = await operations.peek(harness.places, "jobs", limit=8, after=found[-1].place)
        assert [one.body for one in rest] == [b'{"n":8}', b'{"n":9}']


async def test_a_purge_tells_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.adapters.memory.queue.PURGED", 4)
    app, jobs = shop()
    async with Harness(app, workers=[]) as harness:
        await jobs.send_many([{"n": n} for n in range(10)])
        told: list[int] = []
        assert await operations.purge(harness.places, "jobs", dry_run=True) == 10
        assert await operations.purge(harness.places, "jobs", told=told.append) == 10
        assert told == [4, 4, 2]
