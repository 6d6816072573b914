"""Middleware: what it is around, what it may change, and what it cannot lose. On the loop and in threads alike."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from tests.engine import surrounded as children
from tests.engine.hands import (
    LONG,
    Sink,
    call,
    change_worker,
    delivery,
    end_of,
    hands,
    logged,
    message_worker,
    timer_worker,
)
from tidemill.app.app import App
from tidemill.app.context import Context
from tidemill.app.depends import Depends
from tidemill.app.middleware import Proceed
from tidemill.app.worker import Worker
from tidemill.engine import call_plan
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.engine.work import Cancelled, Ended, Failed, Misfit, Occurrence, Unstarted
from tidemill.errors import ConfigurationError, Reject
from tidemill.model import Dead, Done, Later

OK = Ended(Done())
CALLER: ContextVar[str] = ContextVar("caller", default="nobody")

Around = Callable[[Context, Proceed], Awaitable[Any]]


@pytest.fixture(params=["on the loop", "in a thread"])
def made(request: pytest.FixtureRequest) -> Callable[[Callable[[Any], Any]], Callable[..., Any]]:
    """Makes a handler of a body: a coroutine function or a plain one."""

    def make(body: Callable[[Any], Any]) -> Callable[..., Any]:
        async def on_loop(item: Any) -> Any:
            return body(item)

        def in_thread(item: Any) -> Any:
            return body(item)

        return on_loop if request.param == "on the loop" else in_thread

    return make


Made = Callable[[Callable[[Any], Any]], Callable[..., Any]]


def surrounded(worker: Worker, *middleware: Around) -> Worker:
    return replace(worker, middleware=middleware)


async def one_end(worker: Worker, *items: Any) -> Any:
    return (await end_of(worker, *items, inline=False))[0]


async def test_the_first_declared_is_the_outermost_and_sees_what_was_returned(made: Made) -> None:
    seen: list[Any] = []

    async def outer(context: Context, proceed: Proceed) -> None:
        seen.append((context.worker, context.id, context.attempt))
        seen.append(await proceed())

    async def inner(context: Context, proceed: Proceed) -> Any:
        await asyncio.sleep(0)
        seen.append("inner")
        result = await proceed()
        await asyncio.sleep(0)
        return result

    worker = surrounded(message_worker(made(lambda item: Later(5.0, "busy"))), outer, inner)
    assert await one_end(worker) == Ended(Later(5.0, "busy"))
    assert seen == [("w", "m1", 1), "inner", Later(5.0, "busy")]


async def test_it_sees_the_failure_and_may_put_another_in_its_place(made: Made) -> None:
    def body(item: Any) -> None:
        raise ValueError("bad")

    async def translating(context: Context, proceed: Proceed) -> None:
        try:
            await proceed()
        except ValueError as error:
            raise Reject(f"never: {error}") from None

    assert await one_end(surrounded(message_worker(made(body)), translating)) == Ended(Dead("never: bad"))


async def test_a_failure_that_was_swallowed_stands(made: Made) -> None:
    def body(item: Any) -> None:
        raise ValueError("bad")

    async def swallowing(context: Context, proceed: Proceed) -> None:
        try:
            await proceed()
        except ValueError:
            pass

    end = await one_end(surrounded(message_worker(made(body)), swallowing))
    assert isinstance(end, Failed)
    assert end.error == "ValueError: bad"


async def test_a_verdict_takes_the_place_of_a_failure(made: Made) -> None:
    def body(item: Any) -> None:
        raise ValueError("bad")

    async def judging(context: Context, proceed: Proceed) -> Done | None:
        try:
            await proceed()
        except ValueError:
            return Done()
        return None

    assert await one_end(surrounded(message_worker(made(body)), judging)) == OK


async def test_without_proceed_only_a_verdict_counts(made: Made) -> None:
    called: list[int] = []

    async def forgetful(context: Context, proceed: Proceed) -> None:
        """Never proceeds."""

    async def closed(context: Context, proceed: Proceed) -> Later:
        return Later(60.0, "closed on Sundays")

    worker = message_worker(made(called.append))
    end = await one_end(surrounded(worker, forgetful))
    assert isinstance(end, Failed)
    assert end.error == (
        "RuntimeError: middleware 'forgetful' ended without a call of the handler: "
        "await proceed(), or return Done, Later or Dead"
    )
    assert await one_end(surrounded(worker, closed)) == Ended(Later(60.0, "closed on Sundays"))
    assert called == []


async def test_a_call_is_made_once(made: Made) -> None:
    called: list[int] = []

    async def twice(context: Context, proceed: Proceed) -> None:
        await proceed()
        await proceed()

    end = await one_end(surrounded(message_worker(made(called.append)), twice))
    assert isinstance(end, Failed)
    assert "proceed() was awaited twice" in end.error
    assert called == [7]


async def test_proceed_belongs_to_the_middleware_itself(made: Made) -> None:
    async def elsewhere(context: Context, proceed: Proceed) -> None:
        await asyncio.ensure_future(proceed())

    end = await one_end(surrounded(message_worker(made(lambda item: None)), elsewhere))
    assert isinstance(end, Failed)
    assert "await it in the middleware itself" in end.error


async def test_what_it_sets_is_seen_by_the_handler_and_reset_after(made: Made) -> None:
    seen: list[str] = []

    async def naming(context: Context, proceed: Proceed) -> None:
        token = CALLER.set("naming")
        try:
            async with asyncio.timeout(60):
                await proceed()
        finally:
            CALLER.reset(token)
            seen.append(CALLER.get())

    worker = surrounded(message_worker(made(lambda item: seen.append(CALLER.get()))), naming)
    assert await one_end(worker) == OK
    assert seen == ["naming", "nobody"]


async def test_dependencies_are_made_inside_of_it(made: Made) -> None:
    order: list[str] = []

    async def session() -> AsyncIterator[str]:
        order.append(f"open for {CALLER.get()}")
        try:
            yield "s"
        finally:
            order.append("close")

    async def around(context: Context, proceed: Proceed) -> None:
        CALLER.set("around")
        order.append("before")
        await proceed()
        order.append("after")

    body = made(lambda item: order.append("handler"))

    def plain(item: int, _: str = Depends(session)) -> None:
        body(item)

    async def coroutine(item: int, _: str = Depends(session)) -> None:
        await body(item)

    handler = coroutine if asyncio.iscoroutinefunction(body) else plain
    assert await one_end(surrounded(message_worker(handler), around)) == OK
    assert order == ["before", "open for around", "handler", "close", "after"]


async def test_its_time_out_ends_an_async_handler() -> None:
    async def hanging(item: int) -> None:
        await asyncio.Event().wait()

    async def limiting(context: Context, proceed: Proceed) -> None:
        async with asyncio.timeout(0):
            await proceed()

    end = await one_end(surrounded(message_worker(hanging), limiting))
    assert isinstance(end, Failed)
    assert end.error.startswith("TimeoutError")


async def test_a_cancel_reaches_it_where_it_waits(made: Made) -> None:
    """Before it proceeds the handler has not begun: the call is given back, and what it holds is closed."""
    waiting, closed, called = asyncio.Event(), asyncio.Event(), list[int]()
    loop = asyncio.get_running_loop()

    async def slow(context: Context, proceed: Proceed) -> None:
        try:
            loop.call_soon_threadsafe(waiting.set)
            await asyncio.Event().wait()
            await proceed()
        finally:
            loop.call_soon_threadsafe(closed.set)

    worker, sink = surrounded(message_worker(made(called.append)), slow), Sink()
    async with hands(worker, inline=False) as handlers:
        one = call(worker, sink)
        handlers.submit([one])
        async with asyncio.timeout(LONG):
            await waiting.wait()
            handlers.cancel([one], "drain")
            assert await sink.ends() == [Cancelled("drain")]
            await closed.wait()
    assert called == []


async def test_a_fence_that_lapsed_meanwhile_keeps_the_handler_from_starting(made: Made) -> None:
    now, called = [0.0], list[int]()

    async def slow(context: Context, proceed: Proceed) -> None:
        now[0] = 100.0
        await proceed()

    class Clock(SystemClock):
        def __init__(self) -> None:
            super().__init__()
            self.monotonic = lambda: now[0]

    worker, sink = surrounded(message_worker(made(called.append)), slow), Sink()
    async with hands(worker, inline=False, clock=Clock()) as handlers:
        handlers.submit([call(worker, sink, deadline=50.0)])
        assert await sink.ends() == [Unstarted("fenced")]
    assert called == []


async def test_every_kind_of_call_goes_through_it() -> None:
    seen: list[str] = []

    async def around(context: Context, proceed: Proceed) -> None:
        seen.append(context.id)
        await proceed()

    async def of_item(item: Any) -> None:
        seen.append("item")

    async def of_items(items: list[Any]) -> list[Done | Dead]:
        return [Done(), Dead("no")]

    def of_time() -> None:
        seen.append("timer")

    assert await one_end(surrounded(change_worker(of_item), around), logged()) == OK
    worker = surrounded(message_worker(of_items, batch=9), around)
    both = await end_of(worker, delivery(id="a"), delivery(id="b"), inline=False)
    assert both == (OK, Ended(Dead("no")))
    assert await one_end(surrounded(timer_worker(of_time), around), Occurrence("w", 0.0)) == OK
    assert seen == ["c1", "item", "a", "1970-01-01T00:00:00+00:00", "timer"]


async def test_what_the_handler_never_sees_it_does_not_see_either() -> None:
    async def around(context: Context, proceed: Proceed) -> None:
        raise AssertionError("never called")

    async def handler(item: Any) -> None:
        """Never called."""

    assert isinstance(await one_end(surrounded(message_worker(handler), around), delivery(b"no json")), Misfit)
    assert await one_end(surrounded(change_worker(handler), around), logged("delete")) == OK


async def sync_middleware() -> None:
    """An async function, but of nothing."""


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        (lambda context, proceed: None, "middleware '<lambda>' must be an async function"),
        (sync_middleware, r"middleware 'sync_middleware' must take \(context, proceed\), and nothing else"),
    ],
)
def test_what_is_no_middleware_is_told_when_it_is_declared(wrong: Any, problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        App("test").middleware(wrong)


@pytest.mark.parametrize("name", ["plain", "coroutine"])
async def test_a_child_process_runs_it_around_its_calls(name: str) -> None:
    [worker] = [w for w in children.app.declared().workers if w.name == name]
    end = await one_end(worker)
    assert isinstance(end, Ended)
    assert isinstance(end.verdict, Dead)
    said, _, pid = end.verdict.reason.rpartition(" in ")
    assert said == f"{name} 7 after {name}"
    assert int(pid) != os.getpid()


def test_a_child_process_needs_middleware_that_is_found_by_name() -> None:
    async def local(context: Context, proceed: Proceed) -> None:
        """Never called."""

    worker = surrounded(children.app.declared().workers[0], local)
    with pytest.raises(ConfigurationError, match="worker 'plain': process=True needs middleware at module level"):
        Handlers([worker], SystemClock())


async def test_without_any_no_context_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def unwanted(*arguments: Any) -> None:
        raise AssertionError("nobody has asked for a context")

    async def handler(item: int) -> None:
        """Does nothing."""

    async def around(context: Context, proceed: Proceed) -> None:
        await proceed()

    monkeypatch.setattr(call_plan, "context_of", unwanted)
    assert await one_end(message_worker(handler)) == OK
    assert isinstance(await one_end(surrounded(message_worker(handler), around)), Failed)
