"""From start to stop: the lifespan's task, contexts, the loop's death, forks, and no wake-up too many."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar, copy_context
from typing import Any

import pytest

from tests.engine.hands import LONG, Sink, call, delivery, hands, message_worker
from tidemill.app.app import App
from tidemill.app.client import running, wait
from tidemill.app.depends import Depends
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.engine.isolate import going_on
from tidemill.engine.work import Ended, Unstarted
from tidemill.errors import ConfigurationError, Forked, NotRunning, TidemillError
from tidemill.model import Done, Message, Query, Rows, Stored, Write, Written

OK = Ended(Done())
BOTH = pytest.mark.parametrize("inline", [True, False], ids=["inline", "across"])


class Client:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    async def send(self, queue: str, messages: Sequence[Message]) -> Sequence[str]:
        self.sent.extend(messages)
        return [message.id for message in messages]

    async def get(self, collection: str, ids: Sequence[str]) -> Sequence[Stored | None]:
        raise AssertionError("not asked")

    async def write(self, collection: str, writes: Sequence[Write]) -> Sequence[Written]:
        raise AssertionError("not asked")

    async def query(self, collection: str, query: Query) -> Rows:
        raise AssertionError("not asked")


async def nothing(number: int) -> None:
    """Handles by doing nothing."""


# --- the lifespan -------------------------------------------------------------------------------------------


@BOTH
async def test_lifespan_and_app_dependencies_live_in_one_task_and_end_in_reverse(inline: bool) -> None:
    log: list[tuple[str, Any]] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        log.append(("lifespan", asyncio.current_task()))
        async with asyncio.TaskGroup():
            yield
        log.append(("lifespan ends", asyncio.current_task()))

    async def pool() -> AsyncIterator[int]:
        log.append(("pool", asyncio.current_task()))
        async with asyncio.timeout(60):
            yield 5
        log.append(("pool ends", asyncio.current_task()))

    async def handler(number: int, pool: int = Depends(pool, scope="app")) -> None:
        assert pool == 5

    worker, sink = message_worker(handler), Sink()
    handlers = Handlers([worker], SystemClock(), lifespan=lifespan, inline=inline)
    await handlers.start()
    handlers.submit([call(worker, sink), call(worker, sink)])
    assert await sink.ends(2) == [OK, OK]
    assert await handlers.stop(LONG) == ""
    assert await handlers.stop(LONG) == ""
    assert [what for what, _ in log] == ["lifespan", "pool", "pool ends", "lifespan ends"]
    assert len({task for _, task in log}) == 1


@contextmanager
def plain_manager() -> Iterator[None]:
    entered.append("in")
    yield
    entered.append("out")


async def bare_generator() -> AsyncIterator[None]:
    entered.append("in")
    yield
    entered.append("out")


entered: list[str] = []


@pytest.mark.parametrize("lifespan", [plain_manager, bare_generator])
async def test_lifespans_may_be_plain_managers_and_bare_generators(lifespan: Any) -> None:
    entered.clear()
    async with hands(message_worker(nothing), lifespan=lifespan):
        assert entered == ["in"]
    assert entered == ["in", "out"]


@pytest.mark.parametrize(
    ("error", "told", "inline"),
    [
        (OSError("no\nrates"), "the lifespan failed: OSError: no rates", True),
        (OSError("no\nrates"), "the lifespan failed: OSError: no rates", False),
        (SystemExit(3), "the lifespan failed: SystemExit", False),  # inline it would end the test's own loop
    ],
)
async def test_a_start_that_fails_tells_its_cause_in_one_line(
    error: BaseException | None, told: str, inline: bool
) -> None:
    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        if error is not None:
            raise error
        yield

    handlers = Handlers([message_worker(nothing)], SystemClock(), lifespan=lifespan, inline=inline)
    with pytest.raises(TidemillError) as caught:
        await handlers.start()
    assert str(caught.value).startswith(told)
    assert "test_handlers_life.py:" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert await handlers.stop(LONG) == ""


async def test_a_mistake_of_configuration_in_the_lifespan_stays_one() -> None:
    def lifespan() -> int:
        return 3

    handlers = Handlers([message_worker(nothing)], SystemClock(), lifespan=lifespan, inline=True)
    with pytest.raises(ConfigurationError, match="asynccontextmanager"):
        await handlers.start()


@BOTH
async def test_a_lifespan_that_fails_or_hangs_at_its_end_is_told(inline: bool) -> None:
    @asynccontextmanager
    async def fails() -> AsyncIterator[None]:
        yield
        raise OSError("cannot close")

    @asynccontextmanager
    async def hangs() -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    for lifespan, told, limit in (
        (fails, "the lifespan failed at its end: OSError", LONG),
        (hangs, "did not end within 0.05 s", 0.05),
    ):
        handlers = Handlers([message_worker(nothing)], SystemClock(), lifespan=lifespan, inline=inline)
        await handlers.start()
        assert told in await handlers.stop(limit)


@BOTH
@pytest.mark.parametrize("hangs", [False, True])
async def test_a_stop_during_the_start_leaves_what_was_entered(inline: bool, hangs: bool) -> None:
    log: list[str] = []
    entering = threading.Event()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        try:
            entering.set()
            await (asyncio.Event().wait() if hangs else asyncio.sleep(0.02))
            log.append("entered")
            yield
        finally:
            log.append("left")

    worker, sink = message_worker(nothing), Sink()
    handlers = Handlers([worker], SystemClock(), lifespan=lifespan, inline=inline)
    starting = asyncio.ensure_future(handlers.start())
    async with asyncio.timeout(LONG):
        while not entering.is_set():
            await asyncio.sleep(0.001)
        handlers.submit([call(worker, sink)])
        problem = await handlers.stop(0.05 if hangs else LONG)
        await asyncio.wait([starting])
    assert problem == ("the lifespan did not end within 0.05 s" if hangs else "")
    assert (starting.exception() is not None) == hangs
    assert log == (["left"] if hangs else ["entered", "left"])
    if not hangs:
        assert await sink.ends() == [Unstarted("stopped")]


async def test_stop_before_start_is_nothing_and_calls_after_stop_come_back() -> None:
    worker, sink = message_worker(nothing), Sink()
    handlers = Handlers([worker], SystemClock(), inline=True)
    assert await handlers.stop(LONG) == ""
    handlers = Handlers([worker], SystemClock(), inline=True)
    handlers.submit([call(worker, sink)])  # waits for the start
    await handlers.start()
    assert await sink.ends() == [OK]
    await handlers.stop(LONG)
    handlers.submit([call(worker, sink)])
    assert (await sink.ends(2))[1] == Unstarted("stopped")


# --- contexts -----------------------------------------------------------------------------------------------

setting: ContextVar[str] = ContextVar("setting")


@BOTH
async def test_each_call_has_its_own_copy_of_the_context_at_the_end_of_lifespan(inline: bool) -> None:
    seen: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        setting.set("lifespan")
        yield

    async def on_loop(number: int) -> None:
        seen.append(setting.get())
        setting.set("changed")
        await asyncio.sleep(0)
        seen.append(setting.get())
        seen.append(await asyncio.create_task(child()))

    async def child() -> str:
        return setting.get()

    def in_thread(number: int) -> None:
        seen.append(setting.get())
        setting.set("changed")
        seen.append(setting.get())

    for handler, expected in (
        (on_loop, ["lifespan", "changed", "changed"]),
        (in_thread, ["lifespan", "changed"]),
    ):
        seen.clear()
        worker, sink = message_worker(handler, concurrency=1), Sink()
        async with hands(worker, lifespan=lifespan, inline=inline) as handlers:
            handlers.submit([call(worker, sink), call(worker, sink)])
            assert await sink.ends(2) == [OK, OK]
        assert seen == expected * 2


@BOTH
async def test_handles_find_the_client_and_default_ids_are_stable_on_a_rerun(inline: bool) -> None:
    app = App("test")
    queue = app.queue("numbers", int)
    other = app.queue("others", int)

    async def handler(number: int) -> None:
        await other.send(number)
        await other.send(number)

    app.on_message(queue, name="w")(handler)
    [worker] = app.declared().workers
    client, sink = Client(), Sink()
    async with hands(worker, client=client, inline=inline) as handlers:
        for attempt in (1, 2):
            handlers.submit([call(worker, sink, delivery(id="m5"), attempt=attempt)])
            await sink.wait(attempt)
    assert [message.dedup for message in client.sent] == ["w/m5/1", "w/m5/2"] * 2


async def test_plain_handlers_reach_handles_through_wait() -> None:
    app = App("test")
    queue = app.queue("numbers", int)

    def handler(number: int) -> None:
        wait(queue.send(number + 1))
        wait(queue.send(number + 2))

    app.on_message(queue, name="w")(handler)
    [worker] = app.declared().workers
    client, sink = Client(), Sink()
    async with hands(worker, client=client, inline=False) as handlers:
        handlers.submit([call(worker, sink)])
        assert await sink.ends() == [OK]
    assert [(message.body, message.dedup) for message in client.sent] == [(b"8", "w/m1/1"), (b"9", "w/m1/2")]


async def test_a_batch_put_together_anew_is_no_rerun() -> None:
    app = App("test")
    queue = app.queue("numbers", int)
    other = app.queue("others", int)

    async def handler(numbers: list[int]) -> None:
        for number in numbers:
            await other.send(number)

    app.on_message(queue, name="w", batch=5)(handler)
    [worker] = app.declared().workers
    client, sink = Client(), Sink()
    a, b, c = (delivery(id=id) for id in "abc")
    async with hands(worker, client=client) as handlers:
        for n, items in enumerate([(a, b), (a, b), (a, c)], start=1):
            handlers.submit([call(worker, sink, *items)])
            await sink.wait(n)
    ids = [message.dedup for message in client.sent]
    assert ids[0:2] == ids[2:4]
    assert not set(ids[0:2]) & set(ids[4:6])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_forked_childs_handles_raise_forked() -> None:
    async def handler(number: int) -> None:
        running()
        if (child := os.fork()) == 0:
            try:
                running()
            except Forked:
                os._exit(3)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3  # noqa: ASYNC222 - it ends at once

    worker, sink = message_worker(handler), Sink()
    async with hands(worker, client=Client()) as handlers:
        handlers.submit([call(worker, sink)])
        assert await sink.ends() == [OK]


async def test_without_a_client_handles_say_so() -> None:
    async def handler(number: int) -> None:
        with pytest.raises(NotRunning):
            running()

    worker, sink = message_worker(handler), Sink()
    async with hands(worker) as handlers:
        handlers.submit([call(worker, sink)])
        assert await sink.ends() == [OK]


# --- death --------------------------------------------------------------------------------------------------


async def test_a_system_exit_in_a_task_of_the_users_is_the_death_of_the_loop() -> None:
    async def handler(number: int) -> None:
        async def background() -> None:
            sys.exit(9)

        tasks.append(asyncio.create_task(background()))

    tasks: list[asyncio.Task[None]] = []
    died: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    worker, sink = message_worker(handler), Sink()
    handlers = Handlers([worker], SystemClock(), on_death=died.set_result)
    await handlers.start()
    handlers.submit([call(worker, sink)])
    async with asyncio.timeout(LONG):
        cause = await died
    assert str(cause).startswith("the handlers' loop ended: SystemExit: 9 (")
    assert f"{__file__}:" in str(cause)
    handlers.submit([call(worker, sink)])  # goes nowhere, and raises nothing
    assert len(handlers.take_back("w")) <= 1  # the loop may have taken it with its last breath
    await handlers.stop(LONG)


@BOTH
async def test_a_lifespan_that_ends_by_itself_is_death(inline: bool) -> None:
    fail = threading.Event()

    async def watch() -> None:
        while not fail.is_set():
            await asyncio.sleep(0.005)
        raise OSError("connection lost")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(watch())
            yield

    died: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    worker = message_worker(nothing)
    handlers = Handlers([worker], SystemClock(), lifespan=lifespan, inline=inline, on_death=died.set_result)
    await handlers.start()
    fail.set()
    async with asyncio.timeout(LONG):
        assert str(await died).startswith("the handlers' loop ended: OSError: connection lost")
    await handlers.stop(LONG)


@BOTH
async def test_a_web_server_that_fails_is_death_and_one_that_serves_is_ended_by_stop(inline: bool) -> None:
    ended: list[str] = []

    async def serve() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(setting.get())

    async def fails() -> None:
        raise OSError("port taken")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        setting.set("of the lifespan")
        yield

    died: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    worker = message_worker(nothing)
    handlers = Handlers([worker], SystemClock(), lifespan=lifespan, inline=inline, on_death=died.set_result)
    await handlers.start()
    handlers.run_web(serve)
    handlers.run_web(fails)
    async with asyncio.timeout(LONG):
        assert str(await died).startswith("the web server failed: OSError: port taken")
    assert await handlers.stop(LONG) == ""
    assert ended == ["of the lifespan"]


@BOTH
async def test_spawn_runs_on_the_handlers_loop_and_passes_results_errors_and_cancels(inline: bool) -> None:
    ended = threading.Event()

    async def thread() -> str:
        return threading.current_thread().name

    async def fails() -> None:
        raise OSError("no")

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    async with hands(message_worker(nothing), inline=inline) as handlers:
        here = threading.current_thread().name
        assert await handlers.spawn(thread) == (here if inline else "tidemill handlers")
        with pytest.raises(OSError, match="no"):
            await handlers.spawn(fails)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await handlers.spawn(hangs)
        async with asyncio.timeout(LONG):
            while not ended.is_set():
                await asyncio.sleep(0.005)


# --- lean ---------------------------------------------------------------------------------------------------


async def test_inline_starts_no_threads_and_no_task_per_call() -> None:
    tasks: set[Any] = set()

    async def handler(number: int) -> None:
        tasks.update(asyncio.all_tasks())

    def plain(number: int) -> None:
        assert threading.current_thread() is threading.main_thread()

    before = set(threading.enumerate())
    one, two = message_worker(handler, concurrency=3), message_worker(plain, concurrency=1)
    sink = Sink()
    async with hands(one) as handlers, hands(two) as others:
        handlers.submit([call(one, sink) for _ in range(100)])
        others.submit([call(two, sink) for _ in range(100)])
        assert await sink.ends(200) == [OK] * 200
        assert set(threading.enumerate()) <= before
    assert len([task for task in tasks if task.get_name() == "tidemill worker w"]) <= 3 + 1


async def test_results_of_a_batch_come_together() -> None:
    class Counting(Sink):
        rings = 0

        def results(self, results: Any) -> None:
            self.rings += 1
            super().results(results)

    worker, sink = message_worker(nothing, concurrency=10), Counting()
    async with hands(worker) as handlers:
        handlers.submit([call(worker, sink) for _ in range(100)])
        await sink.wait(100)
    assert sink.rings < 20


async def test_a_sink_that_fails_costs_no_other_its_results() -> None:
    class Failing(Sink):
        def results(self, results: Any) -> None:
            raise ValueError("bad sink")

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what))
    worker, sink = message_worker(nothing), Sink()
    async with hands(worker) as handlers:
        handlers.submit([call(worker, Failing()), call(worker, sink)])
        assert await sink.ends() == [OK]
    assert [str(what["exception"]) for what in told] == ["bad sink"]


async def test_a_busy_worker_leaves_the_loop_to_others() -> None:
    """Handlers that never wait must not keep the loop for themselves."""
    worker, sink = message_worker(nothing, concurrency=1), Sink()
    async with hands(worker) as handlers:
        handlers.submit([call(worker, sink) for _ in range(1000)])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(sink.all) < 1000
        await sink.wait(1000)


async def test_a_coroutine_that_is_given_up_in_mid_step_is_closed_in_its_context() -> None:
    seen: list[str] = []

    async def work() -> None:
        setting.set("its own")
        try:
            await asyncio.sleep(60)
        finally:
            seen.append(setting.get())

    context, given_up = copy_context(), work()
    waiting = going_on(context, given_up, context.run(given_up.send, None))
    waiting.send(None)
    waiting.close()
    assert seen == ["its own"]
