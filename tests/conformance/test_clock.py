"""The fake clock: time stands still, moves when told, and lets everything run that falls due."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tidemill.ports import Clock
from tidemill.testing.clock import FakeClock


class Diary:
    """What happened, each with the seconds since the beginning."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.start = clock.monotonic()
        self.lines: list[tuple[str, float]] = []
        self.tasks: list[asyncio.Task[None]] = []

    def note(self, what: str) -> None:
        self.lines.append((what, round(self.clock.monotonic() - self.start, 6)))

    def later(self, what: str, *seconds: float) -> None:
        """Note it after each of these waits."""

        async def wait() -> None:
            for one in seconds:
                await self.clock.sleep(one)
                self.note(what)

        self.tasks.append(asyncio.create_task(wait()))


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(start=1_000_000.0)


@pytest.fixture
def diary(clock: FakeClock) -> Iterator[Diary]:
    diary = Diary(clock)
    yield diary
    assert all(task.done() and (task.cancelled() or not task.exception()) for task in diary.tasks)


async def test_it_is_a_clock(clock: FakeClock) -> None:
    port: Clock = clock
    before = port.monotonic()
    await clock.advance(2.5)
    assert (port.now(), port.monotonic() - before) == (1_000_002.5, 2.5)


async def test_due_moments_come_in_order_each_at_its_time(clock: FakeClock, diary: Diary) -> None:
    diary.later("c", 3.0)
    diary.later("a", 1.0, 1.5)
    diary.later("b", 2.0, 0.0, 0.25)
    await clock.advance(2.25)
    assert diary.lines == [("a", 1.0), ("b", 2.0), ("b", 2.0), ("b", 2.25)]
    await clock.advance(10.0)
    assert diary.lines[4:] == [("a", 2.5), ("c", 3.0)]
    assert clock.monotonic() == diary.start + 12.25


async def test_equal_moments_come_in_the_order_of_their_waits(clock: FakeClock, diary: Diary) -> None:
    for what in "abc":
        diary.later(what, 1.0)
    await clock.advance(1.0)
    assert [what for what, _ in diary.lines] == ["a", "b", "c"]


async def test_what_is_woken_runs_to_its_next_wait_before_time_moves(clock: FakeClock, diary: Diary) -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def relay(source: asyncio.Queue[str], hops: int) -> None:
        for _ in range(hops):  # many rounds of the loop, none of which asks the clock
            await asyncio.sleep(0)
        diary.note(await source.get())

    diary.tasks.append(asyncio.create_task(relay(queue, 200)))
    diary.later("second", 1.000001)

    async def send() -> None:
        await clock.sleep(1.0)
        for _ in range(200):
            await asyncio.sleep(0)
        await queue.put("first")

    diary.tasks.append(asyncio.create_task(send()))
    await clock.advance(2.0)
    assert diary.lines == [("first", 1.0), ("second", 1.000001)]


async def test_run_until_goes_no_further_than_needed(clock: FakeClock, diary: Diary) -> None:
    diary.later("tick", *[1.0] * 100)
    assert await clock.run_until(lambda: len(diary.lines) == 3)
    assert diary.lines[-1] == ("tick", 3.0)
    assert clock.monotonic() == diary.start + 3.0
    assert await clock.run_until(lambda: True)
    assert clock.monotonic() == diary.start + 3.0
    await clock.advance(100.0)


async def test_run_until_gives_up_at_its_limit_or_when_nobody_waits(clock: FakeClock, diary: Diary) -> None:
    assert not await clock.run_until(lambda: False, 5.0)
    diary.later("tick", *[1.0] * 10)
    assert not await clock.run_until(lambda: False, 5.0)
    assert len(diary.lines) == 5
    assert not await clock.run_until(lambda: False, 100.0)
    assert clock.monotonic() == diary.start + 10.0


async def test_zero_yields_once_and_needs_no_time(clock: FakeClock) -> None:
    ran: list[str] = []
    asyncio.get_running_loop().call_soon(ran.append, "other")
    await clock.sleep(0)
    assert ran == ["other"]
    await clock.sleep(-1.0)
    assert not await clock.wait(asyncio.Event(), 0.0)


async def test_a_wait_ends_with_its_event(clock: FakeClock, diary: Diary) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, 5.0))
    await clock.advance(1.0)
    assert not waiting.done()
    event.set()
    await clock.settle()
    assert waiting.done()
    assert await waiting
    assert clock.monotonic() == diary.start + 1.0
    assert await clock.wait(event, 5.0), "set already"


async def test_a_wait_ends_with_its_time(clock: FakeClock) -> None:
    waiting = asyncio.create_task(clock.wait(asyncio.Event(), 5.0))
    await clock.advance(4.999)
    assert not waiting.done()
    await clock.advance(0.001)
    assert waiting.done()
    assert not await waiting


async def test_a_wait_tells_an_event_that_was_set_and_cleared(clock: FakeClock) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, 5.0))
    await clock.settle()
    event.set()
    event.clear()
    await clock.settle()
    assert await waiting


async def test_cancelled_waits_are_forgotten(clock: FakeClock) -> None:
    tasks: list[asyncio.Task[object]] = [
        asyncio.create_task(clock.sleep(1.0)),
        asyncio.create_task(clock.wait(asyncio.Event(), 2.0)),
    ]
    await clock.settle()
    for task in tasks:
        task.cancel()
    await clock.settle()
    assert all(task.cancelled() for task in tasks)
    assert clock.next_due is None
    assert not await clock.run_until(lambda: False, 100.0)


async def test_a_wait_that_its_event_ended_does_not_hold_up_time(clock: FakeClock) -> None:
    event = asyncio.Event()
    waiting = asyncio.create_task(clock.wait(event, 5.0))
    await clock.settle()
    event.set()
    assert await waiting
    assert clock.next_due is None


async def test_the_wall_clock_may_jump_alone(clock: FakeClock, diary: Diary) -> None:
    diary.later("a", 10.0)
    await clock.advance(1.0)
    clock.jump(-3600.0)
    assert clock.now() == 1_000_001.0 - 3600.0
    await clock.advance(9.0)
    assert diary.lines == [("a", 10.0)]
    assert clock.now() == 1_000_010.0 - 3600.0


async def test_both_clocks_move_as_one(clock: FakeClock) -> None:
    """Many small steps: what is due by the one is due by the other."""
    now, monotonic = clock.now(), clock.monotonic()
    for _ in range(10_000):
        await clock.advance(0.1)
    assert clock.now() - now == pytest.approx(clock.monotonic() - monotonic, abs=1e-6)


async def test_a_task_that_never_waits_is_told(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tidemill.testing.clock.RESTLESS_ROUNDS", 100)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = asyncio.create_task(spin())
    with pytest.raises(RuntimeError, match="spin"):
        await clock.advance(1.0)
    task.cancel()
    await clock.advance(1.0)
    assert task.cancelled()


async def test_without_a_look_into_the_loop_it_counts_rounds(
    clock: FakeClock, diary: Diary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "settle", clock._settle_by_counting)
    diary.later("a", 1.0, 1.0)
    diary.later("b", 1.5)
    await clock.advance(3.0)
    assert diary.lines == [("a", 1.0), ("b", 1.5), ("a", 2.0)]
