"""What a queue and a send may say: each option does what it says, and each mistake is one clear line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tidemill import App, Backoff, Context
from tidemill.adapters.memory import Memory
from tidemill.app.handles import Queue
from tidemill.engine.admission import AGE, Admission
from tidemill.engine.places import places
from tidemill.errors import BadOption, ConfigurationError, QueueFull, TidemillError, TooLarge, Unavailable, Unfit
from tidemill.model import Depth, Limits
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness

Row = dict[str, int]


def shop(**options: Any) -> tuple[App, Queue[Row]]:
    app = App("shop")
    return app, app.queue("jobs", Row, **options)


@pytest.fixture
async def jobs() -> AsyncIterator[Queue[Row]]:
    app, queue = shop()
    async with Harness(app):
        yield queue


class Narrow(Memory):
    """A backend with few abilities, as brokers are."""

    @property
    def features(self) -> frozenset[str]:
        return super().features - {"delay", "priority", "peek", "purge"}


class Short(Memory):
    """A backend with limits."""

    @property
    def limits(self) -> Limits:
        return Limits(body=20, delay=900.0)


# --- at the declaration -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "many"])
def test_a_limit_is_a_number_of_messages(limit: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^queue 'jobs': limit=.* must be a whole number of 1 or more"):
        shop(limit=limit)


@pytest.mark.parametrize("window", [-1, "soon", float("nan"), None])
def test_a_dedup_window_is_a_duration(window: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"^dedup_window: "):
        shop(dedup_window=window)


def test_order_per_key_is_refused_where_the_backend_has_none() -> None:
    app, _ = shop(key="n")
    app.queue("mails", Row, key="to")
    app.queue("plain", Row)
    with pytest.raises(ConfigurationError) as refused:
        places(app.declared(), Memory(FakeClock()))
    assert [line.partition(",")[0] for line in refused.value.problems] == [
        "queue 'jobs': key='n' asks for order per key",
        "queue 'mails': key='to' asks for order per key",
    ]
    assert all("which the backend memory cannot do" in line for line in refused.value.problems)


async def test_keys_come_from_the_field_where_the_backend_keeps_order() -> None:
    class Ordered(Memory):
        @property
        def features(self) -> frozenset[str]:
            return super().features | {"key_order"}

    app, jobs = shop(key="n")
    database = Ordered(FakeClock())
    async with Harness(app, database=database):
        await jobs.send({"n": 7})
        [seen] = await database.queue(jobs.spec).peek("", 10)
        assert seen.key == "7"
        with pytest.raises(Unfit, match=r"dict\.n is None"):
            await jobs.send({"m": 7})
        with pytest.raises(BadOption, match=r"^queue 'jobs': key='8': the queue takes its keys from the field 'n'$"):
            await jobs.send({"n": 7}, key="8")


# --- at the call --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"delay": -5}, "delay: -5 is no duration: it must be a finite length of 0 or more"),
        ({"delay": float("inf")}, "delay: inf is no duration"),
        ({"delay": "soon"}, "delay: 'soon' is no duration: write \"30s\""),
        ({"delay": None}, "delay: "),
        ({"priority": 1_001}, "priority=1001 must be a whole number from -1000 to 1000"),
        ({"priority": -1_001}, "priority=-1001 must be"),
        ({"priority": 1.0}, "priority=1.0 must be"),
        ({"priority": True}, "priority=True must be"),
        ({"priority": "high"}, "priority='high' must be"),
        ({"dedup": ""}, "dedup='' names nothing"),
        ({"key": ""}, "key='' names nothing; leave it out"),
        ({"headers": {"n": 1}}, "header 'n': 1 is no text"),
    ],
)
async def test_a_bad_option_is_one_line_at_the_call(jobs: Queue[Row], options: dict[str, Any], line: str) -> None:
    with pytest.raises(BadOption) as refused:
        await jobs.send({"n": 1}, **options)
    assert str(refused.value).startswith(f"queue 'jobs': {line}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"delay": 901}, "delay=901 s, its backend takes 900 s at most; let the handler raise Snooze for the rest"),
        ({}, "the body has 28 bytes, its backend takes 20; keep the content elsewhere and send where it is"),
    ],
)
async def test_what_the_backend_does_not_take(options: dict[str, Any], line: str) -> None:
    app, jobs = shop()
    async with Harness(app, database=Short(FakeClock())):
        await jobs.send({"n": 1}, delay=900)
        with pytest.raises(TidemillError) as refused:
            await jobs.send({"n": 1} if options else {"a long name of a field": 1}, **options)
    assert str(refused.value) == f"queue 'jobs': {line}"
    assert type(refused.value) is (BadOption if options else TooLarge)


@pytest.mark.parametrize(
    ("options", "line"), [({"delay": 1}, "delay=1 s: its backend has no delays"), ({"priority": 1}, "priority=1: ")]
)
async def test_what_the_backend_cannot_do(options: dict[str, Any], line: str) -> None:
    app, jobs = shop()
    async with Harness(app, database=Narrow(FakeClock())):
        with pytest.raises(BadOption, match=f"^queue 'jobs': {line}"):
            await jobs.send({"n": 1}, **options)


async def test_a_transaction_refuses_at_the_call_too() -> None:
    app, jobs = shop()
    mails = app.queue("mails", Row)
    refused: list[str] = []

    @app.on_message(jobs)
    async def work(row: Row, context: Context) -> None:
        for options in ({"delay": 901}, {"priority": 5_000}):
            with pytest.raises(BadOption) as error:
                context.transaction.send(mails, row, **options)
            refused.append(str(error.value).partition(",")[0].partition(" must")[0])
        context.transaction.send(mails, row, delay=900)

    async with Harness(app, database=Short(FakeClock())) as harness:
        await jobs.send({"n": 1})
        await harness.idle()
        assert refused == ["queue 'mails': delay=901 s", "queue 'mails': priority=5000"]
        assert (await harness.places.queue("mails").depth()).delayed == 1


async def test_a_bad_message_among_many_sends_none(jobs: Queue[Row]) -> None:
    app, jobs = shop()
    async with Harness(app, database=Short(FakeClock())) as harness:
        with pytest.raises(TooLarge):
            await jobs.send_many([{"n": 1}, {"a long name of a field": 1}])
        assert (await harness.places.queue("jobs").depth()).ready == 0


async def test_a_key_goes_along() -> None:
    app, jobs = shop()
    keys: list[str | None] = []

    @app.on_message(jobs)
    async def work(row: Row, context: Context) -> None:
        keys.append(context.key)
        if row["n"]:
            context.transaction.send(jobs, {"n": 0}, key="from a transaction")

    async with Harness(app) as harness:
        await jobs.send({"n": 1}, key="k")
        await harness.idle()
    assert keys == ["k", "from a transaction"]


# --- bounded queues -----------------------------------------------------------------------------------------


async def test_a_full_queue_refuses_and_says_why() -> None:
    app, jobs = shop(limit=3)
    async with Harness(app) as harness:
        for n in range(3):
            await jobs.send({"n": n}, delay=n)
        with pytest.raises(QueueFull) as refused:
            await jobs.send({"n": 3})
        assert str(refused.value) == (
            "queue 'jobs' is full: 3 of limit=3 messages are in it and 1 more were to be sent;"
            " nothing of this call was sent"
        )
        depth = await harness.places.queue("jobs").depth()
        assert depth.ready + depth.delayed == 3


async def test_many_that_do_not_all_fit_are_all_refused() -> None:
    app, jobs = shop(limit=3)
    async with Harness(app) as harness:
        await jobs.send_many([{"n": 1}, {"n": 2}])
        with pytest.raises(QueueFull):
            await jobs.send_many([{"n": 3}, {"n": 4}])
        await jobs.send({"n": 3})
        assert (await harness.places.queue("jobs").depth()).ready == 3


async def test_of_senders_at_once_only_those_that_fit_are_admitted() -> None:
    app, jobs = shop(limit=5)
    async with Harness(app) as harness:
        sent = await asyncio.gather(*(jobs.send({"n": n}) for n in range(12)), return_exceptions=True)
        assert [type(one) for one in sent].count(QueueFull) == 7
        assert (await harness.places.queue("jobs").depth()).ready == 5


async def test_there_is_room_again_as_soon_as_work_is_done() -> None:
    """No matter how young the last reading is: time stands still here."""
    app, jobs = shop(limit=2)

    @app.on_message(jobs)
    async def work(row: Row) -> None: ...

    async with Harness(app) as harness:
        for n in range(10):
            await jobs.send({"n": n})
            await jobs.send({"n": n})
            await harness.idle()
        assert len(harness.verdicts) == 20


async def test_what_is_claimed_counts_and_retries_are_never_refused() -> None:
    app, jobs = shop(limit=1)
    tried: list[int] = []

    @app.on_message(jobs, retry=Backoff(attempts=3, first="10s"))
    async def work(row: Row) -> None:
        with pytest.raises(QueueFull):
            await jobs.send({"n": row["n"] + 1})
        tried.append(row["n"])
        if len(tried) == 1:
            raise ConnectionError

    async with Harness(app) as harness:
        await jobs.send({"n": 1})
        await harness.idle()
        await harness.advance("1m")
        assert tried == [1, 1]
        assert harness.verdicts == [("work", "failed"), ("work", "done")]


async def test_sends_of_a_transaction_are_not_refused() -> None:
    app, jobs = shop(limit=1)
    mails = app.queue("mails", Row, limit=1)

    @app.on_message(jobs)
    async def work(row: Row, context: Context) -> None:
        context.transaction.send(mails, row)
        context.transaction.send(mails, row)

    async with Harness(app) as harness:
        await jobs.send({"n": 1})
        await harness.idle()
        assert (await harness.places.queue("mails").depth()).ready == 2
        with pytest.raises(QueueFull):
            await mails.send({"n": 1})


async def test_on_a_file_the_own_sends_count_at_once(tmp_path: Path) -> None:
    app, jobs = shop(limit=3)
    async with app.client(database=f"sqlite:///{tmp_path}/work.db"):
        for n in range(3):
            await jobs.send({"n": n})
        with pytest.raises(QueueFull):
            await jobs.send({"n": 3})


class Counted:
    """A queue that says how often its depth was read, and what others left in it."""

    def __init__(self) -> None:
        self.depths = 0
        self.inside = 0

    async def depth(self) -> Depth:
        self.depths += 1
        return Depth(self.inside, 0, 0, 0.0)


async def admission(limit: int, queue: object, now: list[float]) -> Admission:
    app, _ = shop(limit=limit)
    where = places(app.declared(), Memory(FakeClock()))

    class Where:
        queues = where.queues

        def queue(self, name: str) -> object:
            return queue

    found: Any = Where()
    return Admission(found, lambda: now[0])


async def test_the_depth_is_read_once_a_second_until_it_looks_full() -> None:
    queue, now = Counted(), [0.0]
    gate = await admission(100, queue, now)
    for _ in range(99):
        assert await gate.admit("jobs", [1]) == [None]
    assert queue.depths == 1
    now[0] = AGE
    queue.inside = 98
    assert await gate.admit("jobs", [1]) == [None]
    assert queue.depths == 2, "the reading was a second old"
    queue.inside = 99
    first, second, third = await gate.admit("jobs", [2, 1, 1])
    assert [first is None, second, third is None] == [False, None, False]
    assert queue.depths == 3, "it seemed full"
    queue.inside = 40
    assert await gate.admit("jobs", [60]) == [None]
    assert queue.depths == 4, "and was not any more"


async def test_a_depth_that_cannot_be_read_is_the_senders_error(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(self: object) -> None:
        raise Unavailable("no route")

    app, jobs = shop(limit=3)
    async with Harness(app, workers=[]):
        with monkeypatch.context() as patch:
            patch.setattr("tidemill.adapters.memory.queue.MemoryQueue.depth", away)
            with pytest.raises(Unavailable, match="no route"):
                await jobs.send({"n": 1})
        await jobs.send({"n": 1})
