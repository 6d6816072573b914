"""Time limits, cancelling, taking back: what ends a call from outside, and what it leaves behind."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

import pytest

from tests.engine.hands import LONG, Sink, call, delivery, hands, message_worker
from tidemill.app.context import Context
from tidemill.app.depends import Depends
from tidemill.engine.slot import Slot
from tidemill.engine.threads import LoopKeeper, run_through
from tidemill.engine.work import Call, Cancelled, Ended, Failed, Load, Unstarted
from tidemill.model import Dead, Done
from tidemill.testing.clock import FakeClock

OK = Ended(Done())


async def until(ready: Callable[[], bool]) -> None:
    """Wait for what another thread will do."""
    async with asyncio.timeout(LONG):
        while not ready():
            await asyncio.sleep(0.005)


# --- time limits --------------------------------------------------------------------------------------------


async def test_a_time_limit_ends_an_async_handler_and_its_runner_lives_on() -> None:
    async def handler(number: int) -> None:
        if number == 7:
            await asyncio.Event().wait()

    clock, worker, sink = FakeClock(), message_worker(handler, time_limit=30, concurrency=1), Sink()
    async with hands(worker, clock=clock) as handlers:
        handlers.submit([call(worker, sink), call(worker, sink, delivery(b"8"))])
        await clock.advance(29.0)
        assert sink.all == []
        await clock.advance(2.5)
        first, second = await sink.ends(2)
        assert isinstance(first, Failed)
        assert first.error == "HandlerTimeout: ran longer than its limit of 30 s"
        assert "await asyncio.Event().wait()" in first.trace
        assert second == OK


async def test_a_time_limit_counts_even_if_the_handler_swallows_it() -> None:
    async def handler(number: int) -> Any:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return Dead("x")

    clock, worker, sink = FakeClock(), message_worker(handler, time_limit=30), Sink()
    async with hands(worker, clock=clock) as handlers:
        handlers.submit([call(worker, sink)])
        await clock.advance(32.0)
        [end] = await sink.ends()
        assert isinstance(end, Failed)


async def test_no_time_limit_is_none() -> None:
    go = asyncio.Event()

    async def handler(number: int) -> None:
        await go.wait()

    clock, worker, sink = FakeClock(), message_worker(handler, time_limit=None), Sink()
    async with hands(worker, clock=clock) as handlers:
        handlers.submit([call(worker, sink)])
        await clock.advance(3_600.0)
        go.set()
        assert await sink.ends() == [OK]


async def test_a_time_limit_tells_a_plain_handler_which_keeps_its_slot_until_it_returns() -> None:
    told, go = threading.Event(), threading.Event()

    def handler(number: int, context: Context) -> None:
        if number == 7:
            context.cancelled.wait(LONG)
            told.set()
            go.wait(LONG)

    worker, sink = message_worker(handler, time_limit=0.1, concurrency=1), Sink()
    async with hands(worker, inline=False) as handlers:
        handlers.submit([call(worker, sink), call(worker, sink, delivery(b"8"))])
        await until(told.is_set)
        assert sink.all == []
        assert handlers.load("w").running == 1
        assert handlers.load("w").waiting == 1
        go.set()
        first, second = await sink.ends(2)
        assert isinstance(first, Failed)
        assert first.error == "HandlerTimeout: ran longer than its limit of 0.1 s"
        assert second == OK


async def test_the_cancelled_event_is_set_also_when_it_is_asked_for_late() -> None:
    late = threading.Event()

    def handler(number: int, context: Context) -> None:
        late.wait(LONG)
        assert context.cancelled.is_set()
        raise ValueError("ended early")

    worker, sink = message_worker(handler), Sink()
    async with hands(worker, inline=False) as handlers:
        running = call(worker, sink)
        handlers.submit([running])
        await until(lambda: running.started > 0)
        handlers.cancel([running], "drain")
        late.set()
        assert await sink.ends() == [Cancelled("drain")]


async def test_a_time_limit_ends_what_a_plain_handler_waits_for_on_the_loop() -> None:
    async def never() -> None:
        await asyncio.Event().wait()

    def handler(number: int, _: None = Depends(never)) -> None:
        raise AssertionError("called")

    worker, sink = message_worker(handler, time_limit=0.1), Sink()
    async with hands(worker, inline=False) as handlers:
        handlers.submit([call(worker, sink)])
        [end] = await sink.ends()
        assert isinstance(end, Failed)
        assert end.error.startswith("HandlerTimeout")


# --- asyncio's own ways -------------------------------------------------------------------------------------


async def test_asyncio_timeout_works_inside_of_handlers() -> None:
    seen: list[str] = []

    async def handler(number: int) -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.Event().wait()
        except TimeoutError:
            seen.append("timed out")
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(0))
        seen.append(await asyncio.wait_for(asyncio.sleep(0, "waited"), 5))

    worker, sink = message_worker(handler, concurrency=1), Sink()
    async with hands(worker) as handlers:
        handlers.submit([call(worker, sink), call(worker, sink)])
        assert await sink.ends(2) == [OK, OK]
    assert seen == ["timed out", "waited"] * 2


async def test_a_handler_that_cancels_itself_fails_alone() -> None:
    async def handler(number: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if number == 7:
            task.cancel()
            await asyncio.sleep(0)
        elif number == 8:
            task.cancel()  # and returns before it arrives

    worker, sink = message_worker(handler, concurrency=1), Sink()
    async with hands(worker) as handlers:
        handlers.submit([call(worker, sink, delivery(body)) for body in (b"7", b"8", b"9")])
        first, second, third = await sink.ends(3)
        assert isinstance(first, Failed)
        assert first.error == "CancelledError"
        assert (second, third) == (OK, OK)


async def test_a_handler_sees_its_runner_as_the_current_task() -> None:
    tasks: set[Any] = set()

    async def handler(number: int) -> None:
        tasks.add(asyncio.current_task())
        await asyncio.sleep(0)
        tasks.add(asyncio.current_task())

    worker, sink = message_worker(handler, concurrency=1), Sink()
    async with hands(worker) as handlers:
        handlers.submit([call(worker, sink) for _ in range(5)])
        await sink.wait(5)
    assert len(tasks) == 1


# --- cancel -------------------------------------------------------------------------------------------------


async def test_cancel_ends_what_runs_and_what_waits() -> None:
    began = asyncio.Event()

    async def handler(number: int) -> None:
        began.set()
        await asyncio.Event().wait()

    worker, sink = message_worker(handler, concurrency=1), Sink()
    async with hands(worker) as handlers:
        running, waiting, kept = (call(worker, sink, delivery(id=str(n))) for n in range(3))
        handlers.submit([running, waiting, kept])
        await began.wait()
        began.clear()
        handlers.cancel([waiting, running], "lease lost")
        ends = {id(result.call): result.ends for result in await sink.wait(2)}
        assert ends == {id(running): (Cancelled("lease lost"),), id(waiting): (Unstarted("lease lost"),)}
        await began.wait()  # the runner goes on with the third
        assert handlers.load("w").running == 1
        assert handlers.load("w").started == 2


@pytest.mark.parametrize(("returned", "end"), [(None, Cancelled("drain")), (Done(), OK)])
async def test_of_a_cancelled_handler_only_a_verdict_counts(returned: Any, end: Any) -> None:
    began = asyncio.Event()

    async def handler(number: int) -> Any:
        began.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return returned

    worker, sink = message_worker(handler), Sink()
    async with hands(worker) as handlers:
        running = call(worker, sink)
        handlers.submit([running])
        await began.wait()
        handlers.cancel([running], "drain")
        assert await sink.ends() == [end]


@pytest.mark.parametrize(("looks", "end"), [(True, Cancelled("drain")), (False, OK)])
async def test_a_plain_handler_that_never_looked_has_done_its_work(looks: bool, end: Any) -> None:
    began, go = threading.Event(), threading.Event()

    def handler(number: int, context: Context) -> None:
        if looks:
            assert not context.cancelled.is_set()
        began.set()
        go.wait(LONG)

    worker, sink = message_worker(handler), Sink()
    async with hands(worker, inline=False) as handlers:
        running = call(worker, sink)
        handlers.submit([running])
        await until(began.is_set)
        handlers.cancel([running], "drain")
        go.set()
        assert await sink.ends() == [end]


async def test_cancel_of_what_has_ended_changes_nothing() -> None:
    async def handler(number: int) -> None:
        await asyncio.sleep(0)

    worker, sink = message_worker(handler, concurrency=1), Sink()
    async with hands(worker) as handlers:
        old = call(worker, sink)
        handlers.submit([old])
        await sink.wait(1)
        handlers.submit([call(worker, sink)])
        await asyncio.sleep(0)
        handlers.cancel([old], "late")
        assert await sink.ends(2) == [OK, OK]


# --- taking back --------------------------------------------------------------------------------------------


async def test_take_back_works_while_the_loop_is_blocked() -> None:
    began, go = threading.Event(), threading.Event()

    async def handler(number: int) -> None:
        began.set()
        go.wait(LONG)

    worker, sink = message_worker(handler, concurrency=4), Sink()
    async with hands(worker, inline=False) as handlers:
        calls = [call(worker, sink, delivery(id=str(n))) for n in range(10)]
        handlers.submit(calls)
        await until(began.is_set)
        await until(lambda: handlers.stuck().silent > 1.0)
        stuck = handlers.stuck()
        taken = list(handlers.take_back("w"))
        load = handlers.load("w")
        go.set()
        started = [result.call for result in await sink.wait(10 - len(taken))]
    assert stuck.worker == "w"
    assert stuck.where.startswith(__file__)
    assert taken
    assert taken == calls[-len(taken) :]
    assert load.waiting == 0
    assert {id(c) for c in started} | {id(c) for c in taken} == {id(c) for c in calls}


async def test_take_back_leaves_what_has_waited_less() -> None:
    async def handler(number: int) -> None:
        await asyncio.Event().wait()

    clock, worker, sink = FakeClock(), message_worker(handler, concurrency=1, time_limit=None), Sink()
    async with hands(worker, clock=clock) as handlers:
        calls = [call(worker, sink, delivery(id=str(n))) for n in range(4)]
        handlers.submit(calls[:2])
        await clock.advance(2.0)
        handlers.submit(calls[2:])
        await clock.advance(0.5)
        assert handlers.load("w") == Load(running=1, waiting=3, oldest_wait=2.5, started=1)
        assert handlers.take_back("w", waited=2.0) == calls[1:2]
        assert handlers.load("w") == Load(running=1, waiting=2, oldest_wait=0.5, started=1)
        assert handlers.take_back("w") == calls[2:]


@pytest.mark.parametrize("plain", [False, True])
async def test_each_call_ends_once_under_taking_back_and_cancelling(plain: bool) -> None:
    async def on_loop(number: int) -> None:
        await asyncio.sleep(0.0005)

    def in_thread(number: int) -> None:
        time.sleep(0.0005)

    worker, sink = message_worker(in_thread if plain else on_loop, concurrency=4), Sink()
    taken: list[Call] = []
    calls = [call(worker, sink, delivery(id=str(n))) for n in range(600)]
    async with hands(worker, inline=False) as handlers:
        for n in range(0, len(calls), 20):
            handlers.submit(calls[n : n + 20])
            handlers.cancel(calls[n : n + 20 : 3], "some")
            taken += handlers.take_back("w", waited=0.002)
            await asyncio.sleep(0.001)
        await sink.wait(len(calls) - len(taken))
        assert handlers.load("w").running == handlers.load("w").waiting == 0
    back = [result.call for result in sink.all] + taken
    assert len(back) == len(calls)
    assert {id(c) for c in back} == {id(c) for c in calls}


async def test_a_wish_to_end_that_comes_before_the_loop_has_begun_is_kept() -> None:
    """Between the thread's asking and the loop's beginning there is a moment; a cancel in it must not be lost."""
    loop = asyncio.get_running_loop()
    slot = Slot(threading.Lock())
    one = call(message_worker(len), Sink())
    slot.begin(one)
    keeper = LoopKeeper(loop, slot, copy_context())
    begun: list[str] = []

    async def endless() -> None:
        begun.append("begun")
        await asyncio.Event().wait()

    ended: list[str] = []

    def ask() -> None:
        with pytest.raises(asyncio.CancelledError):
            run_through(keeper.reach(endless()))
        ended.append("ended")

    threading.Thread(target=ask, daemon=True).start()
    for _ in range(1000):  # the loop is ours: it begins with nothing while we look
        if slot.interrupt is not None:
            break
        time.sleep(0.001)
    slot.cancel(one, "drain")
    await until(lambda: bool(ended))
    assert begun == []
    keeper.close()
