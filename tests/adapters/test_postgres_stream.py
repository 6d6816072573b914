"""Queues with an order by key, through a whole replica on a PostgreSQL server."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass

import pytest

from bench.rig import Rig, rig
from tidemill import App, Backoff, Context
from tidemill.adapters.postgres import Postgres
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError
from tidemill.model import Commit, Committed, QueueSpec, StreamSpec


@dataclass
class Step:
    customer: str
    n: int


def database(url: str) -> Postgres:
    return Postgres.from_url(url, SystemClock())


async def test_messages_of_one_key_are_worked_in_the_order_in_which_they_were_sent(postgres_url: str) -> None:
    app = App("ordered")
    steps = app.queue("steps", Step, key="customer")
    seen: defaultdict[str, list[int]] = defaultdict(list)
    contexts: list[tuple[str, str | None, dict[str, str]]] = []
    running: set[str] = set()
    most = 0

    @app.on_message(steps, concurrency=8)
    async def work(step: Step, context: Context) -> None:
        nonlocal most
        assert step.customer not in running, "one at a time of each key"
        running.add(step.customer)
        most = max(most, len(running))
        await asyncio.sleep(0.001)
        running.remove(step.customer)
        seen[step.customer].append(step.n)
        contexts.append((context.id, context.key, dict(context.headers)))

    async with rig(app, database(postgres_url)) as made:
        made.engine.begin()
        for n in range(0, 40, 2):
            await steps.send_many([Step(f"c{c}", m) for m in (n, n + 1) for c in range(6)], headers={"from": "test"})
        await made.until(lambda: sum(map(len, seen.values())) >= 240, 20)
        await settled(made)
    assert seen == {f"c{c}": list(range(40)) for c in range(6)}
    assert most > 1
    assert len({id for id, _, _ in contexts}) == 240
    assert {key for _, key, _ in contexts} == set(seen)
    assert all(headers == {"from": "test"} for _, _, headers in contexts)


async def test_a_message_that_fails_holds_its_key_and_no_other(postgres_url: str) -> None:
    app = App("ordered")
    steps = app.queue("steps", Step, key="customer")
    seen: list[tuple[str, int]] = []
    failures = 0

    @app.on_message(steps, concurrency=4, retry=Backoff(attempts=50, first=0.05, factor=1.0))
    async def work(step: Step) -> None:
        nonlocal failures
        if step == Step("bad", 0) and failures < 4:
            failures += 1
            raise RuntimeError("not yet")
        seen.append((step.customer, step.n))

    async with rig(app, database(postgres_url)) as made:
        made.engine.begin()
        await steps.send_many([Step(customer, n) for n in range(5) for customer in ("bad", "good")])
        await made.until(lambda: len(seen) == 10, 30)
        await settled(made)
    assert [n for customer, n in seen if customer == "bad"] == list(range(5))
    assert [n for customer, n in seen if customer == "good"] == list(range(5))
    assert seen.index(("good", 4)) < seen.index(("bad", 0))


async def test_a_repeated_send_is_known(postgres_url: str) -> None:
    spec = QueueSpec("steps", 0.4, key="customer")
    one = database(postgres_url)
    await one.open([StreamSpec.of("steps")], [spec])
    app = App("ordered")
    steps = app.queue("steps", Step, key="customer")
    queue = one.queue(spec)
    first = steps.message(Step("a", 1), id="m1", dedup="once")
    assert list(await queue.send([first])) == ["m1"]
    again = steps.message(Step("a", 1), id="m2", dedup="once")
    by_id = steps.message(Step("a", 2), id="m3")
    assert list(await queue.send([again, by_id, by_id])) == ["m1", "m3", "m3"]
    assert list(await queue.send([by_id])) == ["m3"]
    [reply] = await one.commit([Commit(messages=(again, steps.message(Step("b", 1), id="m4")))])
    assert isinstance(reply, Committed)
    assert reply.sent == ("m1", "m4")
    assert (await queue.depth()).ready == 3
    await asyncio.sleep(0.5)
    assert list(await queue.send([again])) == ["m2"]
    await one.close()


async def test_sent_within_a_transaction_of_the_users_own(postgres_url: str) -> None:
    import asyncpg

    spec = QueueSpec("steps", key="customer")
    one = database(postgres_url)
    await one.open([StreamSpec.of("steps")], [spec])
    steps = App("ordered").queue("steps", Step, key="customer")
    statements = [
        statement
        for n in (1, 2, 2)
        for statement in one.statements(Commit(messages=(steps.message(Step("a", n), id=f"m{n}"),)))
    ]
    link = await asyncpg.connect(postgres_url)
    for rolled_back in (True, False):
        transaction = link.transaction()
        await transaction.start()
        for statement in statements:
            await link.execute(statement.sql, *statement.args)
        await (transaction.rollback() if rolled_back else transaction.commit())
        assert (await one.queue(spec).depth()).ready == (0 if rolled_back else 2)
    await link.close()
    await one.close()


def test_what_such_a_queue_cannot_have_is_told_at_the_start(postgres_url: str) -> None:
    from tidemill.engine.places import places

    app = App("ordered")
    app.queue("steps", Step, key="customer", limit=10)
    with pytest.raises(ConfigurationError, match="limit=10"):
        places(app.declared(), database(postgres_url))


async def settled(made: Rig) -> None:
    await made.until(lambda: made.engine.settled, 10)
