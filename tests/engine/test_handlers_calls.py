"""One call: what the handler is given, and what its end means. Inline and across threads alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Annotated, Any

import pytest
from pydantic import AfterValidator

from tests.engine.hands import (
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
from tidemill.app.values import Change, Deletion
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.engine.work import Ended, Failed, Misfit, Occurrence, Token, Unstarted
from tidemill.errors import ConfigurationError, Reject, Retry, Snooze, Unfit
from tidemill.model import Dead, Done, Later

OK = Ended(Done())


@pytest.fixture(params=["inline", "across"])
def inline(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "inline")


def both(body: Callable[[Any], Any]) -> list[Callable[..., Any]]:
    """The same handler as a coroutine function and as a plain one."""

    async def on_loop(item: Any) -> Any:
        return body(item)

    def in_thread(item: Any) -> Any:
        return body(item)

    return [on_loop, in_thread]


def raising(error: BaseException) -> Callable[[Any], Any]:
    def body(item: Any) -> Any:
        raise error

    return body


@pytest.mark.parametrize(
    ("returned", "end"),
    [
        (None, OK),
        (42, OK),
        ([Dead("x")], OK),
        (Done(), OK),
        (Later(5.0, "busy"), Ended(Later(5.0, "busy"))),
        (Dead("broken"), Ended(Dead("broken"))),
    ],
)
async def test_what_is_returned(returned: Any, end: Ended, inline: bool) -> None:
    for handler in both(lambda item: returned):
        assert await end_of(message_worker(handler), inline=inline) == (end,)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (Retry(5, "busy"), Ended(Later(5.0, "busy", attempt=True))),
        (Snooze(60.0, "later"), Ended(Later(60.0, "later", attempt=False))),
        (Reject("broken"), Ended(Dead("broken"))),
        (ExceptionGroup("tasks", [Reject("broken")]), Ended(Dead("broken"))),
    ],
)
async def test_raised_verdicts(error: Exception, end: Ended, inline: bool) -> None:
    for handler in both(raising(error)):
        assert await end_of(message_worker(handler), inline=inline) == (end,)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (Retry(), "Retry: retry"),
        (ValueError("two\n lines"), "ValueError: two lines"),
        (KeyError(), "KeyError"),
        (Unfit("sent what does not fit"), "Unfit: sent what does not fit"),
        (SystemExit(3), "SystemExit: 3"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "CancelledError"),
    ],
)
async def test_everything_else_that_is_raised_is_a_failure(error: BaseException, line: str, inline: bool) -> None:
    for handler in both(raising(error)):
        worker, sink = message_worker(handler), Sink()
        async with hands(worker, inline=inline) as handlers:
            handlers.submit([call(worker, sink), call(worker, sink)])
            for end in await sink.ends(2):  # the second finds the runner alive
                assert isinstance(end, Failed)
                assert end.error == line
                assert "test_handlers_calls.py" in end.trace
                assert "engine/call_plan.py" not in end.trace


async def test_an_error_that_cannot_be_shown_is_told_by_its_name() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    async def handler(item: int) -> None:
        raise Mute

    [end] = await end_of(message_worker(handler))
    assert isinstance(end, Failed)
    assert end.error == "Mute: (its message cannot be shown)"


async def test_a_validator_that_raises_what_it_should_not_fails_the_call() -> None:
    def broken(number: int) -> int:
        raise OSError("validators do no I/O")

    async def handler(item: int) -> None:
        raise AssertionError("called")

    one = message_worker(handler, Annotated[int, AfterValidator(broken)])
    many = message_worker(lambda items: None, Annotated[int, AfterValidator(broken)], batch=5)
    for worker in (one, many):
        [end] = await end_of(worker)
        assert isinstance(end, Failed)
        assert end.error == "OSError: validators do no I/O"


async def test_a_long_trace_is_cut() -> None:
    async def handler(item: int) -> None:
        raise ValueError("x" * 100_000)

    [end] = await end_of(message_worker(handler))
    assert isinstance(end, Failed)
    assert len(end.error) <= 500
    assert len(end.trace.encode()) <= 4096


async def test_bodies_that_do_not_fit_never_reach_the_handler(inline: bool) -> None:
    for handler in both(raising(AssertionError("called"))):
        worker = message_worker(handler)
        [no_json] = await end_of(worker, delivery(b"{"), inline=inline)
        [unfit] = await end_of(worker, delivery(b'"seven"'), inline=inline)
        assert isinstance(no_json, Misfit)
        assert no_json.dead
        assert isinstance(unfit, Misfit)
        assert not unfit.dead


async def test_the_context_tells_about_the_call(inline: bool) -> None:
    seen: list[Context] = []

    async def handler(number: int, context: Context) -> None:
        seen.append(context)
        assert not context.cancelled.is_set()

    worker = message_worker(handler, time_limit=30)
    item = delivery(id="m9", key="k", headers={"h": "1"})
    assert await end_of(worker, item, inline=inline, attempt=3, delivery=2, token=Token("l", 4, "n")) == (OK,)
    [context] = seen
    assert (context.id, context.key, context.worker, context.attempt, context.delivery) == ("m9", "k", "w", 3, 2)
    assert context.headers == {"h": "1"}
    assert context.deadline is not None
    assert context.fence is not None
    assert (context.fence.epoch, context.fence.nonce) == (4, "n")


async def test_an_occurrence_has_no_item_and_a_moment() -> None:
    seen: list[Context] = []

    def handler(context: Context) -> None:
        seen.append(context)

    assert await end_of(timer_worker(handler, time_limit=None), Occurrence("w", 60.0, past_due=True)) == (OK,)
    [context] = seen
    assert context.id == "1970-01-01T00:01:00+00:00"
    assert context.scheduled_at is not None
    assert context.scheduled_at.timestamp() == 60.0
    assert (context.past_due, context.deadline) == (True, None)


# --- changes ------------------------------------------------------------------------------------------------


async def test_changes_come_with_values_and_deletes_only_if_asked_for() -> None:
    seen: list[Any] = []

    async def changes(change: Change[int]) -> None:
        seen.append(change)

    async def all_kinds(change: Annotated[Change[int] | Deletion[int], "noted"]) -> None:
        seen.append(change)

    for handler in (changes, all_kinds):
        worker = change_worker(handler)
        assert await end_of(worker, logged(before=b"6")) == (OK,)
        assert await end_of(worker, logged("delete", None, before=b"6")) == (OK,)
    put, deletion = Change("c1", "doc", "key", 7, 6, 12.5), Deletion("c1", "doc", "key", 6, 12.5)
    assert seen == [put, put, deletion]


async def test_a_batch_of_changes_has_no_deletes_unless_asked_for() -> None:
    seen: list[Any] = []

    async def changes(batch: list[Change[int]]) -> list[Any]:
        seen.append([change.id for change in batch])
        return [Later(1.0), None]

    async def all_kinds(batch: list[Change[int] | Deletion[int]]) -> None:
        seen.append([change.id for change in batch])

    items = (logged(id="1"), logged("truncate", None, id="2"), logged(id="3"))
    assert await end_of(change_worker(changes, batch=10), *items) == (Ended(Later(1.0)), OK, OK)
    assert await end_of(change_worker(all_kinds, batch=10), *items) == (OK, OK, OK)
    assert seen == [["1", "3"], ["1", "2", "3"]]


async def test_a_change_without_body_is_no_json() -> None:
    async def handler(change: Change[int]) -> None:
        raise AssertionError("called")

    [end] = await end_of(change_worker(handler), logged(body=None))
    assert end == Misfit("the change has no body", dead=True)


# --- batches ------------------------------------------------------------------------------------------------

THREE = (delivery(b"1", "a"), delivery(b"nope", "b"), delivery(b"3", "c"))


@pytest.mark.parametrize(
    ("returned", "first", "last"),
    [
        (None, OK, OK),
        ([Done(), Dead("x")], OK, Ended(Dead("x"))),
        ([None, Later(2.0)], OK, Ended(Later(2.0))),
        (Later(3.0), Ended(Later(3.0)), Ended(Later(3.0))),
        ([1, 2, 3], OK, OK),
    ],
)
async def test_a_batch_may_return_verdicts(returned: Any, first: Ended, last: Ended, inline: bool) -> None:
    seen: list[Any] = []

    async def handler(numbers: list[int]) -> Any:
        seen.append(numbers)
        return returned

    ends = await end_of(message_worker(handler, batch=10), *THREE, inline=inline)
    assert (ends[0], ends[2]) == (first, last)
    assert isinstance(ends[1], Misfit)
    assert seen == [[1, 3]]


@pytest.mark.parametrize("returned", [[Done()], [Done(), Done(), Done()], []])
async def test_a_wrong_number_of_verdicts_is_a_failure(returned: Any) -> None:
    async def handler(numbers: list[int]) -> Any:
        return returned

    ends = await end_of(message_worker(handler, batch=10), *THREE)
    assert isinstance(ends[0], Failed)
    assert f"returned {len(returned)} verdicts for 2 items" in ends[0].error
    assert isinstance(ends[1], Misfit)


async def test_a_batch_that_raises_fails_whole_but_for_what_was_never_in_it() -> None:
    async def handler(numbers: list[int]) -> None:
        raise Retry(4.0)

    ends = await end_of(message_worker(handler, batch=10), *THREE)
    assert ends[0] == ends[2] == Ended(Later(4.0, "retry", attempt=True))
    assert isinstance(ends[1], Misfit)


# --- dependencies -------------------------------------------------------------------------------------------


async def named() -> AsyncIterator[str]:
    """An async dependency that says which thread it is entered and left in."""
    task = asyncio.current_task()
    async with asyncio.timeout(60):
        yield threading.current_thread().name
    assert asyncio.current_task() is task


def sync_named(_: Annotated[str, Depends(named)]) -> Iterator[str]:
    began = threading.current_thread().name
    yield began
    assert threading.current_thread().name == began


async def test_sync_generators_of_a_plain_handler_run_on_its_thread_and_async_ones_on_the_loop() -> None:
    seen: list[str] = []

    def handler(item: int, here: Annotated[str, Depends(sync_named)], there: Annotated[str, Depends(named)]) -> None:
        seen.extend([threading.current_thread().name, here, there])

    assert await end_of(message_worker(handler), inline=False) == (OK,)
    assert seen == ["w-1", "w-1", "tidemill handlers"]
    assert await end_of(message_worker(handler)) == (OK,)
    assert seen[3:] == [threading.current_thread().name] * 3


def bad_end() -> Iterator[None]:
    yield
    raise OSError("commit failed")


async def test_a_failing_clean_up_fails_the_call(inline: bool) -> None:
    def plain(item: int, _: Annotated[None, Depends(bad_end)]) -> None:
        """Does nothing."""

    async def on_loop(item: int, _: Annotated[None, Depends(bad_end)]) -> None:
        """Does nothing."""

    for handler in (plain, on_loop):
        [end] = await end_of(message_worker(handler), inline=inline)
        assert isinstance(end, Failed)
        assert end.error == "OSError: commit failed"


# --- the fence and transactions -----------------------------------------------------------------------------


async def test_nothing_starts_when_the_fence_does_not_hold(inline: bool) -> None:
    for handler in both(raising(AssertionError("called"))):
        worker, sink = message_worker(handler), Sink()
        async with hands(worker, inline=inline) as handlers:
            handlers.submit([call(worker, sink, deadline=0.0)])
            [result] = await sink.wait(1)
            assert result.ends == (Unstarted("fenced"),)
            assert result.call.started == 0.0
            assert handlers.load("w").started == 0


async def test_the_fence_is_compared_again_after_the_dependencies() -> None:
    made: list[str] = []

    def slow() -> Iterator[None]:
        running.fence.drop()
        try:
            yield
        finally:
            made.append("closed")

    async def handler(item: int, _: None = Depends(slow)) -> None:
        raise AssertionError("called")

    worker, sink = message_worker(handler), Sink()
    running = call(worker, sink)
    async with hands(worker) as handlers:
        handlers.submit([running])
        assert await sink.ends() == [Unstarted("fenced")]
    assert made == ["closed"]


async def test_a_transaction_is_kept_only_if_all_is_done() -> None:
    async def handler(number: int, context: Context) -> None:
        context.transaction.send(queue, number + 1)
        if number == 8:
            raise ValueError("no")

    app = App("test")
    queue = app.queue("numbers", int)
    app.on_message(queue, name="w")(handler)
    [worker] = app.declared().workers
    sink = Sink()
    async with hands(worker, transactional=frozenset({"w"})) as handlers:
        handlers.submit([call(worker, sink, delivery(b"7")), call(worker, sink, delivery(b"8"))])
        good, bad = await sink.wait(2)
    assert [message.body for message in good.messages] == [b"8"]
    assert isinstance(bad.ends[0], Failed)
    assert bad.messages == ()


async def test_a_transaction_is_refused_where_the_backend_has_none() -> None:
    async def handler(number: int, context: Context) -> None:
        assert context.transaction is not None

    [end] = await end_of(message_worker(handler))
    assert isinstance(end, Failed)
    assert end.error.startswith("ConfigurationError: worker 'w': context.transaction needs")


# --- mistakes that are found before anything starts ---------------------------------------------------------


async def yielding(item: int) -> AsyncIterator[int]:
    yield item


async def alone(item: int) -> None:
    """Takes one item."""


@pytest.mark.parametrize(
    ("handler", "options", "problem"),
    [
        (lambda item: None, {"type_": threading.Thread}, "bodies of type Thread cannot be validated; make it"),
        (yielding, {}, "yielding yields; a handler returns"),
        (alone, {"batch": 5}, "parameter 'item' of alone: batch=5 calls it with lists; annotate it list[int]"),
        (lambda item, rates: None, {}, "parameter 'rates' of <lambda> has nothing to fill it"),
        (lambda item: None, {"process": True}, "process=True needs a function at module level"),
    ],
)
def test_mistakes_name_the_worker_and_the_fix(
    handler: Callable[..., Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        Handlers([message_worker(handler, **options)], SystemClock())
    assert problem in str(caught.value)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("worker 'w': ")
