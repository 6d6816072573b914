"""Claims that end by a deadline of their own, and queues on a backend without a store."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.engine.broker import Broker, BrokerQueue, apart
from tests.engine.hands import Sink, delivery, message_worker
from tidemill import App, Backoff, Context
from tidemill.engine.keeper import OVERRUN, Keeper
from tidemill.engine.places import places, worked
from tidemill.engine.work import Call
from tidemill.errors import ConfigurationError
from tidemill.model import Delivery, Done, Fact, Lost, Message, Outcome, QueueSpec
from tidemill.operations import groups_without_members, status
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness


async def test_a_claim_is_kept_while_its_handler_runs() -> None:
    clock = FakeClock()
    broker = Broker(clock)
    app = App("test")
    jobs = app.queue("jobs", int)
    seen: list[int] = []

    @app.on_message(jobs)
    async def work(job: int) -> None:
        seen.append(job)
        await clock.sleep(500)

    async with Harness(app, clock=clock, queues=apart(broker, "jobs")) as harness:
        await jobs.send(7)
        await harness.advance("9m")
        assert seen == [7]
        assert [v.verdict for v in harness.verdicts] == ["done"]
        assert 500 / 21 <= len(broker.queues["jobs"].extended) <= 500 / 19, "every 20 s of a claim of 60 s"
        assert (await broker.queues["jobs"].depth()).claimed == 0


async def test_a_coroutine_that_ignores_its_limit_is_not_kept_for_ever() -> None:
    clock = FakeClock()
    broker = Broker(clock)
    app = App("test")
    jobs = app.queue("jobs", int)
    begun: list[float] = []

    @app.on_message(jobs, time_limit=30, retry=Backoff(attempts=3))
    async def work(job: int) -> None:
        began = clock.monotonic()
        begun.append(began)
        while len(begun) == 1 and clock.monotonic() < began + 400:
            with suppress(asyncio.CancelledError):
                await clock.sleep(400)

    async with Harness(app, clock=clock, queues=apart(broker, "jobs")) as harness:
        await jobs.send(7)
        await harness.advance("10m")
        assert len(begun) == 2, "others may have it when its claim is over"
        assert begun[1] - begun[0] > 30 + OVERRUN
        assert sum(fact.name == "claims_lost" for fact in harness.facts) == 1, "the first one's end counts no more"


async def test_an_app_of_queues_alone_needs_no_store() -> None:
    clock = FakeClock()
    broker = Broker(clock)
    app = App("test")
    jobs = app.queue("jobs", int)

    @app.on_message(jobs, retry=Backoff(attempts=2, first=1))
    async def work(job: int, context: Context) -> None:
        if job == 13:
            raise ValueError("unlucky")

    async with Harness(app, database=broker, clock=clock) as harness:
        for job in (1, 13, 2):
            await jobs.send(job)
        await harness.advance("1m")
        assert [letter.attempts for letter in await harness.dead_letters(jobs)] == [2]
        assert [v.verdict for v in harness.verdicts].count("done") == 2
        assert harness.engine.memberships == []


async def test_the_state_of_an_app_without_records_is_told() -> None:
    clock = FakeClock()
    app = App("test")
    jobs = app.queue("jobs", int)

    @app.on_message(jobs)
    async def work(job: int) -> None: ...

    async with Harness(app, database=Broker(clock), clock=clock) as harness:
        await jobs.send(1, delay="1h")
        found = await status(harness.places, app.declared())
        assert (found.problems, found.counted, found.queues["jobs"].delayed) == ((), False, 1)
        assert groups_without_members(found) == [], "nobody knows"


async def test_who_works_only_for_a_broker_is_seen_where_there_is_a_store() -> None:
    clock = FakeClock()
    app = App("test")
    jobs = app.queue("jobs", int)

    @app.on_message(jobs)
    async def work(job: int) -> None: ...

    async with Harness(app, clock=clock, queues=apart(Broker(clock), "jobs"), replica="one") as harness:
        found = await status(harness.places, app.declared())
        assert [(one.name, one.groups) for one in found.members] == [("one", ("queues",))]
        assert groups_without_members(found) == []


async def test_a_timer_without_a_store_is_refused() -> None:
    clock = FakeClock()
    app = App("test")

    @app.every("1m")
    async def tick() -> None: ...

    with pytest.raises(ConfigurationError, match="a broker has no store"):
        async with Harness(app, database=Broker(clock), clock=clock):
            pass


async def test_a_queue_whose_backend_keeps_the_order_of_its_keys_is_worked_as_a_queue() -> None:
    clock = FakeClock()
    broker = Broker(clock, sessions=True)
    app = App("test")
    jobs = app.queue("jobs", dict, key="customer")
    seen: list[str] = []

    @app.on_message(jobs)
    async def work(job: dict[str, str], context: Context) -> None:
        seen.append(f"{context.key}: {job['n']}")

    declared = app.declared()
    where = places(declared, broker)
    assert where.sources == {}
    assert worked(declared, where).workers != declared.workers
    async with Harness(app, database=broker, clock=clock) as harness:
        await jobs.send({"customer": "ada", "n": "1"})
        await harness.idle()
        assert seen == ["ada: 1"]


# --- the keeper alone ---------------------------------------------------------------------------------------


class Bench:
    """A keeper with a queue that answers as told."""

    def __init__(self, clock: FakeClock, queue: BrokerQueue) -> None:
        self.clock = clock
        self.queue = queue
        self.facts: list[Fact] = []
        self.worker = message_worker(_work, batch=2)
        self.keeper = Keeper(self.worker, queue, clock, self.facts.append)

    async def claimed(self, count: int) -> list[Delivery]:
        await self.queue.send([Message("jobs", f"m{n}", b"1") for n in range(count)])
        found = []
        for _ in range(count):  # each claim by itself
            found += await self.queue.receive("me", 1, 0.0)
        return found

    def call(self, *deliveries: Delivery) -> Call:
        fence = self.keeper.fence(deliveries)
        assert fence is not None
        call = Call(self.worker, deliveries, fence, Sink())
        self.keeper.took(call)
        return call


async def _work(jobs: list[int]) -> None: ...


@pytest.fixture
async def bench() -> Bench:
    clock, spec = FakeClock(), QueueSpec("jobs")
    broker = Broker(clock)
    await broker.open([], [spec])
    broker.queue(spec)
    return Bench(clock, broker.queues["jobs"])


async def test_claims_of_members_are_none_of_its_business(bench: Bench) -> None:
    assert bench.keeper.fence([delivery()]) is None
    bench.keeper.took(Call(bench.worker, (delivery(),), None, Sink()))  # type: ignore[arg-type]
    await bench.clock.advance(100)
    await bench.keeper.keep()
    assert bench.queue.extended == []


async def test_nothing_starts_after_its_deadline(bench: Bench) -> None:
    """A freeze: the fence of the call is the claim's deadline, and is compared before the handler starts."""
    one, two = await bench.claimed(2)
    call = bench.call(one, two)
    assert call.fence.holds(bench.clock.monotonic())
    await bench.clock.advance(60)
    assert not call.fence.holds(bench.clock.monotonic())


async def test_an_extension_that_is_not_answered_is_asked_again(bench: Bench) -> None:
    (one,) = await bench.claimed(1)
    call = bench.call(one)
    bench.queue.refuse = True
    for _ in range(30):
        await bench.clock.advance(1)
        await bench.keeper.keep()
    assert call.fence.deadline == one.deadline
    bench.queue.refuse = False
    await bench.keeper.keep()
    assert call.fence.deadline == bench.clock.monotonic() + 60
    await bench.keeper.keep()
    assert bench.queue.extended == ["m0"], "not again before a third of its time is over"


async def test_a_lost_claim_drops_the_fence_of_its_call_for_good(bench: Bench) -> None:
    one, two = await bench.claimed(2)
    call, other = bench.call(one), bench.call(two)
    await bench.queue.inner.settle([Outcome(one, Done())])
    await bench.clock.advance(25)
    await bench.keeper.keep()
    now = bench.clock.monotonic()
    assert (call.fence.holds(now), other.fence.holds(now)) == (False, True)
    assert [(fact.name, fact.count) for fact in bench.facts] == [("claims_lost", 1)]
    for _ in range(3):
        await bench.clock.advance(25)
        await bench.keeper.keep()
    assert bench.queue.extended.count("m0") == 1, "what is lost is not asked for again"
    assert not call.fence.holds(now)


async def test_one_lost_claim_of_a_batch_is_the_end_of_its_trust(bench: Bench) -> None:
    one, two = await bench.claimed(2)
    call = bench.call(one, two)
    await bench.queue.inner.settle([Outcome(one, Done())])
    await bench.clock.advance(25)
    await bench.keeper.keep()
    assert not call.fence.holds(bench.clock.monotonic())


async def test_what_is_settled_while_it_is_extended_was_not_lost(bench: Bench) -> None:
    (one,) = await bench.claimed(1)
    call = bench.call(one)
    await bench.clock.advance(25)

    async def extend(deliveries: object) -> list[Lost]:
        bench.keeper.ended(call)
        return [Lost()]

    bench.queue.extend = extend
    await bench.keeper.keep()
    assert bench.facts == []
