"""`app.forward` in a real replica: what arrives, what fails, and who is paused."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import Response

from tests.forward.receiver import receiving
from tidemill import App, Backoff, command, operations, webhook
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.locate import locate
from tidemill.replica import Replica
from tidemill.settings import Settings

QUICK = Backoff(attempts=3, first=0.05, factor=1.0, longest=0.1)


def settings(folder: Path) -> Settings:
    return Settings.model_validate({
        "database": f"sqlite:///{folder / 'shop.db'}", "health_host": "127.0.0.1", "health_port": 0, "grace": 5,
    })  # fmt: skip


@asynccontextmanager
async def running(app: App, folder: Path) -> AsyncIterator[None]:
    """A replica in this process, and a client for the handles; the drain ends in order."""
    told, hurry = asyncio.Event(), asyncio.Event()
    living = asyncio.create_task(Replica(app.declared(), settings(folder)).live(told, hurry))
    try:
        async with app.client(database=f"sqlite:///{folder / 'shop.db'}"):
            yield
    finally:
        told.set()
        assert await living == 0


async def until(look: Callable[[], Awaitable[Any] | Any], limit: float = 20.0) -> Any:
    end = asyncio.get_running_loop().time() + limit
    while True:
        found = look()
        found = await found if asyncio.iscoroutine(found) else found
        if found:
            return found
        assert asyncio.get_running_loop().time() < end, "it does not happen"
        await asyncio.sleep(0.05)


async def test_changes_arrive_as_events_in_order_and_a_failure_is_tried_again(tmp_path: Path) -> None:
    def answer(count: int) -> Response:
        return Response(status_code=500 if count == 1 else 204)

    async with receiving(answer) as receiver:
        app = App("shop")
        orders = app.collection("orders", dict[str, Any], id="number", key="customer")
        app.forward(orders, to=webhook(receiver.url), name="tell", retry=QUICK)
        async with running(app, tmp_path):
            await orders.put({"number": "1", "customer": "Ada", "total": 1})
            await orders.put({"number": "1", "customer": "Ada", "total": 2})
            await orders.delete("1")
            await until(lambda: len(receiver.got) == 4)
        events = [json.loads(got.body) for got in receiver.got]
    assert [event["type"] for event in events] == ["shop.orders.changed"] * 3 + ["shop.orders.deleted"]
    assert events[0]["id"] == events[1]["id"], "a failure comes again under its id"
    assert [event.get("data", {}).get("total") for event in events] == [1, 1, 2, None]
    assert {(event["source"], event["subject"], event["partitionkey"]) for event in events} == {
        ("/shop/orders", "1", "Ada")
    }


async def test_changes_in_lists(tmp_path: Path) -> None:
    async with receiving() as receiver:
        app = App("shop")
        orders = app.collection("orders", dict[str, Any], id="number")
        app.forward(orders, to=webhook(receiver.url), name="tell", batch=50)
        async with app.client(database=f"sqlite:///{tmp_path / 'shop.db'}"):
            await orders.put_many([{"number": str(n)} for n in range(120)])
        async with running(app, tmp_path):
            await until(lambda: sum(len(json.loads(got.body)) for got in receiver.got) == 120)
        assert max(len(json.loads(got.body)) for got in receiver.got) > 1


async def test_who_wants_no_more_is_left_alone_until_somebody_resumes(tmp_path: Path) -> None:
    async with receiving(lambda count: Response(status_code=410 if count == 1 else 204)) as receiver:
        app = App("shop")
        jobs = app.queue("jobs", dict[str, Any])
        app.forward(jobs, to=webhook(receiver.url), name="tell")
        async with running(app, tmp_path):
            await jobs.send({"n": 1})
            await until(lambda: len(receiver.got) == 1)
            await asyncio.sleep(3)
            await jobs.send({"n": 2})
            await asyncio.sleep(3)
            assert len(receiver.got) == 1
    places = locate(app.declared(), settings(tmp_path), SystemClock(), None)
    await places.open()
    try:
        status = await operations.status(places, app.declared())
        assert status.paused == ("tell",)
        assert not status.dead_letters
    finally:
        await places.close()


async def test_messages_reach_a_process_and_what_it_refuses_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "out"
    program = (
        "import json, sys\n"
        "event = json.load(sys.stdin)\n"
        f"open({str(out)!r}, 'a').write(event['data']['who'] + '\\n')\n"
        "sys.exit(65 if event['data']['who'] == 'Bob' else 0)\n"
    )
    app = App("shop")
    jobs = app.queue("jobs", dict[str, Any])
    app.forward(jobs, to=command([sys.executable, "-c", program]), name="work", concurrency=1)
    async with running(app, tmp_path):
        for who in ("Ada", "Bob", "Cid"):
            await jobs.send({"who": who})
        await until(lambda: out.exists() and len(out.read_text().split()) == 3)
    assert sorted(out.read_text().split()) == ["Ada", "Bob", "Cid"]


async def test_changes_reach_a_queue_once(tmp_path: Path) -> None:
    got: list[str] = []
    app = App("shop")
    orders = app.collection("orders", dict[str, Any], id="number")
    jobs = app.queue("jobs", dict[str, Any])
    app.forward(orders, to=jobs)

    @app.on_message(jobs)
    async def work(job: dict[str, Any]) -> None:
        got.append(job["number"])

    async with running(app, tmp_path):
        await orders.put({"number": "1"})
        await orders.delete("1")
        await orders.put({"number": "2"})
        await until(lambda: sorted(got) == ["1", "2"])
        await asyncio.sleep(0.5)
    assert sorted(got) == ["1", "2"]


async def test_a_variable_that_is_missing_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_HOOK", raising=False)
    app = App("shop")
    orders = app.collection("orders", dict[str, Any], id="number")
    app.forward(orders, to=webhook("${NO_SUCH_HOOK}"), name="tell")
    with pytest.raises(ConfigurationError, match=r"its URL names \$\{NO_SUCH_HOOK\}"):
        await Replica(app.declared(), settings(tmp_path)).live(asyncio.Event(), asyncio.Event())


def test_declarations_that_are_none() -> None:
    app = App("shop")
    orders = app.collection("orders", dict[str, Any], id="number")
    jobs = app.queue("jobs", dict[str, Any])
    with pytest.raises(ConfigurationError, match="forward of 'orders': say name="):
        app.forward(orders, to=webhook("https://host/"))
    with pytest.raises(ConfigurationError, match="from queue 'jobs' to a queue"):
        app.forward(jobs, to=jobs)
    with pytest.raises(ConfigurationError, match="batch= is for changes"):
        app.forward(jobs, to=webhook("https://host/"), name="tell", batch=10)
    app.forward(orders, to=jobs)
    assert [worker.name for worker in app.declared().workers] == ["orders-to-jobs"]
