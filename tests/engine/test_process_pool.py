"""Child processes: what crosses, what kills them, what their death costs, and that none outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import pytest

from tests.engine import surrounded
from tests.engine.children import Order, app
from tests.engine.hands import LONG, Sink, call, delivery, hands, message_worker
from tidemill.app.depends import Depends
from tidemill.app.worker import Worker
from tidemill.engine.child import target_of
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.engine.process_pool import ChildCalls
from tidemill.engine.slot import Slot
from tidemill.engine.work import Call, Cancelled, End, Ended, Failed, Misfit, Unstarted
from tidemill.errors import ConfigurationError
from tidemill.model import Dead, Delivery, Done

OK = Ended(Done())


def worker(name: str) -> Worker:
    [found] = [w for w in app.declared().workers if w.name == name]
    return found


def order(do: str, path: Path | str = "", **fields: str) -> Delivery:
    return delivery(Order(do=do, path=str(path)).model_dump_json().encode(), **fields)


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie that nobody has reaped does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pid_of(end: End) -> int:
    assert isinstance(end, Ended)
    assert isinstance(end.verdict, Dead)
    return int(end.verdict.reason)


async def until(ready: Callable[[], bool]) -> None:
    async with asyncio.timeout(LONG):
        while not ready():
            await asyncio.sleep(0.01)


async def test_a_child_is_kept_and_makes_one_call_after_the_other() -> None:
    work, sink = worker("work"), Sink()
    async with hands(work, inline=False) as handlers:
        for n in range(1, 4):
            handlers.submit([call(work, sink, order("pid"))])
            await sink.wait(n)
        [pid] = {pid_of(end) for end in await sink.ends(3)}
        assert pid != os.getpid()
        assert alive(pid)
    await until(lambda: not alive(pid))


@pytest.mark.parametrize(
    ("do", "end"),
    [
        ("nothing", OK),
        ("signals", OK),
        ("handle", Ended(Dead("no client"))),
        ("sys.exit", "SystemExit: 8"),
        ("raise", "ValueError: in the child"),
        ("die", "ProcessEnded: the child process ended (signal 9) during it"),
        ("exit", "ProcessEnded: the child process ended (exit code 7) during it"),
    ],
)
async def test_ends_of_a_call_in_a_child(do: str, end: Ended | str) -> None:
    work, sink = worker("work"), Sink()
    async with hands(work, inline=False) as handlers:
        handlers.submit([call(work, sink, order(do))])
        [got] = await sink.ends()
        if isinstance(end, str):
            assert isinstance(got, Failed)
            assert got.error == end
        else:
            assert got == end


async def test_a_dead_child_fails_only_its_own_call() -> None:
    work, sink = worker("work"), Sink()
    doing = ["die", "pid", "exit", "pid", "die", "pid", "pid", "pid"]
    async with hands(work, inline=False) as handlers:
        calls = [call(work, sink, order(do)) for do in doing]
        handlers.submit(calls)
        ends = {id(result.call): result.ends[0] for result in await sink.wait(len(doing))}
    assert [isinstance(ends[id(one)], Failed) for one in calls] == [do != "pid" for do in doing]


async def test_an_idle_child_that_was_killed_costs_nothing() -> None:
    work, sink = worker("work"), Sink()
    async with hands(work, inline=False) as handlers:
        handlers.submit([call(work, sink, order("pid"))])
        pid = pid_of((await sink.ends())[0])
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not alive(pid))
        handlers.submit([call(work, sink, order("nothing"))])
        assert (await sink.ends(2))[1] == OK


async def test_a_time_limit_and_a_cancel_kill_the_child(tmp_path: Path) -> None:
    work, sink = worker("work"), Sink()
    async with hands(work, inline=False) as handlers:
        handlers.submit([call(work, sink, order("hold", tmp_path / "a"))])
        [end] = await sink.ends()
        assert isinstance(end, Failed)
        assert end.error == "HandlerTimeout: ran longer than its limit of 0.5 s; its process was killed"
        running = call(work, sink, order("hang", tmp_path / "b"))
        handlers.submit([running])
        await until(lambda: (tmp_path / "b").exists() and bool((tmp_path / "b").read_text()))
        handlers.cancel([running], "drain")
        assert (await sink.ends(2))[1] == Cancelled("drain")
        for name in "ab":
            assert not alive(int((tmp_path / name).read_text()))
        handlers.submit([call(work, sink, order("nothing"))])
        assert (await sink.ends(3))[2] == OK


async def test_async_handlers_dependencies_and_contexts_work_in_children() -> None:
    also, sink = worker("work_async"), Sink()
    async with hands(also, inline=False) as handlers:
        handlers.submit([call(also, sink, order("go", id="m1"), attempt=4)])
        assert await sink.ends() == [Ended(Dead("go m1 4 2 True"))]


async def test_batches_decode_in_the_child() -> None:
    many, sink = worker("work_many"), Sink()
    async with hands(many, inline=False) as handlers:
        handlers.submit([call(many, sink, delivery(b"1"), delivery(b"{"), delivery(b"3"))])
        first, second, third = await sink.ends()
        assert (first, third) == (Ended(Dead("1")), Ended(Dead("3")))
        assert isinstance(second, Misfit)
        assert second.dead


async def test_tasks_run_in_children() -> None:
    resize, sink = worker("resize"), Sink()
    async with hands(resize, inline=False) as handlers:
        handlers.submit([call(resize, sink, delivery(b'{"width": 4}'))])
        assert await sink.ends() == [Ended(Dead("4x3"))]


async def test_inline_there_are_no_children() -> None:
    work, sink = worker("work"), Sink()
    async with hands(work) as handlers:
        handlers.submit([call(work, sink, order("pid"))])
        assert await sink.ends() == [Ended(Dead(str(os.getpid())))]


async def needs_pool(number: int, pool: int = Depends(int, scope="app")) -> None:
    """Cannot have it in a child."""


def test_what_a_child_does_not_have_is_refused_at_start() -> None:
    @dataclass
    class Local:
        """Not found by name."""

        number: int

    def refused(worker: Worker) -> str:
        with pytest.raises(ConfigurationError) as caught:
            Handlers([worker], SystemClock())
        return str(caught.value)

    assert "has scope 'app', which a child process does not have" in refused(message_worker(needs_pool, process=True))
    assert "needs a message type at module level" in refused(message_worker(surrounded.anything, Local, process=True))


# --- a child by itself ---------------------------------------------------------------------------------------


def ends_of(calls: ChildCalls, one: Call) -> tuple[End, ...]:
    slot = Slot(Lock())
    slot.begin(one)
    return calls.perform(one, slot)


@pytest.fixture
def own() -> Iterator[ChildCalls]:
    calls = ChildCalls(target_of(worker("work")), time.monotonic)
    yield calls
    calls.close()


def test_a_call_that_no_child_has_begun_goes_to_the_next_one(own: ChildCalls) -> None:
    one = call(worker("work"), Sink(), order("pid"))
    own.ready()
    first = pid_of(ends_of(own, one)[0])
    own.interrupt()
    second = pid_of(ends_of(own, one)[0])
    assert first != second
    own.interrupt()
    fenced = call(worker("work"), Sink(), order("pid"), deadline=0.0)
    assert ends_of(own, fenced) == (Unstarted("fenced"),)


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import os; os._exit(5)", "ProcessEnded: the child process could not start (exit code 5)"),
        ("raise OSError('no config')", "OSError: no config"),
        ("", "AttributeError: module 'broken' has no attribute 'work'"),
    ],
)
def test_a_child_that_cannot_start_fails_the_call_and_the_next_one_tries_again(
    source: str, error: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken.py").write_text(source)
    calls = ChildCalls(replace(target_of(worker("work")), module="broken"), time.monotonic)
    one = call(worker("work"), Sink(), order("nothing"))
    try:
        calls.ready()
        [end] = ends_of(calls, one)
        assert isinstance(end, Failed)
        assert end.error == error
        (tmp_path / "broken.py").write_text("from tests.engine.children import work")
        calls.ready()
        assert ends_of(calls, one) == (OK,)
    finally:
        calls.close()


def test_a_closed_one_starts_no_child(own: ChildCalls) -> None:
    own.close()
    own.ready()
    [end] = ends_of(own, call(worker("work"), Sink(), order("pid")))
    assert isinstance(end, Failed)
    assert end.error == "ProcessEnded: the child process ended (before it began) during it"


# --- the parent's death -------------------------------------------------------------------------------------


def start_parent(do: str, path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.engine.children", do, str(path)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )


def wait_for_pid(path: Path) -> int:
    end = time.monotonic() + LONG
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, "the child never started"
        time.sleep(0.01)
    return int(path.read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("do", ["hang", "hold"])
def test_no_child_outlives_a_killed_parent(do: str, tmp_path: Path) -> None:
    parent = start_parent(do, tmp_path / "pid")
    try:
        child = wait_for_pid(tmp_path / "pid")
        parent.kill()
        killed = time.monotonic()
        while alive(child) and time.monotonic() < killed + LONG:
            time.sleep(0.005)
        assert time.monotonic() - killed < 1.0  # J16 is a bound of the product, not of this machine
    finally:
        parent.kill()
        parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_and_sigterm_for_the_group_do_not_end_children(tmp_path: Path) -> None:
    parent = start_parent("hang", tmp_path / "pid")
    try:
        child = wait_for_pid(tmp_path / "pid")
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child, number)
        assert alive(child)
    finally:
        parent.kill()
        parent.wait()


def test_a_parent_that_exits_without_a_stop_does_not_wait_for_its_children(tmp_path: Path) -> None:
    parent = start_parent("leave", tmp_path / "pid")
    try:
        assert parent.wait(timeout=LONG) == 0
    finally:
        parent.kill()
        parent.wait()
