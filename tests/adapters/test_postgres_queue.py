"""Queues and dead letters on a PostgreSQL server; the peer stands for another process."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import psycopg
import pytest
from sqlalchemy import create_engine

from tests.servers.pgbouncer import PgBouncer
from tidemill.adapters.postgres.database import Postgres
from tidemill.adapters.postgres.queue import Queue, apply, insert, message_statements, outcome_statements
from tidemill.engine.clock import SystemClock
from tidemill.errors import ConfigurationError, TidemillError
from tidemill.model import Dead, Delivery, Done, Later, Lost, Message, Outcome, QueueSpec, Settled, Statement
from tidemill.testing import conformance
from tidemill.testing.conformance.bench import QUEUE
from tidemill.testing.conformance.dead_letters import letter
from tidemill.testing.conformance.suite import message, settle_one, take, take_one

Pair = tuple[Postgres, Postgres]


class TestPostgresQueue(conformance.QueueConformance, conformance.DeadLettersConformance):
    @pytest.fixture
    async def bench(self, postgres_url: str) -> AsyncIterator[conformance.Bench]:
        clock = SystemClock()
        one, two = (Postgres.from_url(postgres_url, clock) for _ in range(2))
        async with conformance.opened(one, clock, peer=two) as bench:
            yield bench


class TestThroughPgBouncer(conformance.QueueConformance, conformance.DeadLettersConformance):
    """In transaction mode: nothing is kept in a connection, and nobody hears notices."""

    @pytest.fixture
    async def bench(self, postgres_url: str, pgbouncer: PgBouncer) -> AsyncIterator[conformance.Bench]:
        clock, url = SystemClock(), f"{pgbouncer.url(postgres_url.rpartition('/')[2])}?pooler=transaction"
        one, two = (Postgres.from_url(url, clock) for _ in range(2))
        async with conformance.opened(one, clock, peer=two) as bench:
            yield bench


@asynccontextmanager
async def opened(url: str, *specs: QueueSpec) -> AsyncIterator[Postgres]:
    database = Postgres.from_url(url, SystemClock())
    await database.open([], specs or (QUEUE,))
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def pair(postgres_url: str) -> AsyncIterator[Pair]:
    async with opened(postgres_url) as one, opened(postgres_url) as two:
        yield one, two


@pytest.fixture
async def link(postgres_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that is nobody's."""
    found = await asyncpg.connect(postgres_url)
    yield found
    await found.close()


async def kill_all(link: asyncpg.Connection) -> None:
    """End every connection to the database but this, as a restart of the server does."""
    await link.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )


async def again(call: Callable[[], Awaitable[object]]) -> object:
    """The result of a call that may meet lost connections."""
    for _ in range(50):
        try:
            return await call()
        except TidemillError:
            await asyncio.sleep(0.05)
    raise AssertionError("the connections never came back")


# --- several at once -------------------------------------------------------------------------------------------


async def test_many_receivers_and_settlers_lose_and_double_nothing(pair: Pair) -> None:
    count = 3_000
    queues = [database.queue(QUEUE) for database in pair]
    for start in range(0, count, 500):
        await queues[0].send([message(str(n)) for n in range(start, start + 500)])
    seen: list[str] = []

    async def work(n: int) -> None:
        while held := await queues[n % 2].receive(f"m{n}.1.w", 37, 0.0):
            replies = await queues[n % 2].settle([Outcome(delivery, Done()) for delivery in held])
            assert set(replies) == {Settled()}
            seen.extend(delivery.id for delivery in held)

    await asyncio.gather(*map(work, range(8)))
    assert sorted(seen, key=int) == [str(n) for n in range(count)]


@pytest.mark.parametrize("shared", [True, False], ids=["one id", "many ids"])
async def test_of_concurrent_senders_with_one_key_one_is_first(pair: Pair, shared: bool) -> None:
    queues = [database.queue(QUEUE) for database in pair]
    for round in range(10):
        sent = await asyncio.gather(
            *(
                queues[n % 2].send(
                    [
                        message(f"{round}-{0 if shared else n}-{key}", dedup=f"{round}-{key}")
                        for key in (range(5) if n % 3 else reversed(range(5)))
                    ]
                )
                for n in range(8)
            )
        )
        by_key = {tuple(sorted(ids, key=lambda id: id.rsplit("-", 1)[1])) for ids in sent}
        assert len(by_key) == 1, "all were told the same ids"
        assert len(await take(queues[0], f"owner-{round}")) == 5


async def test_an_id_under_two_keys_at_once_takes_one_of_them(pair: Pair) -> None:
    one, two = (database.queue(QUEUE) for database in pair)
    for round in range(10):
        await asyncio.gather(
            one.send([message(f"m{round}", dedup=f"a{round}")]), two.send([message(f"m{round}", dedup=f"b{round}")])
        )
        (held,) = await take(one)
        await settle_one(one, held, Done())
    await asyncio.sleep(QUEUE.dedup_window * 1.2)
    sent = await one.send([message(f"new-{key}", dedup=key) for key in ("a0", "b0", "a9", "b9")])
    assert list(sent) == ["new-a0", "new-b0", "new-a9", "new-b9"], "no key is taken for ever"


async def test_old_dedup_keys_are_removed(pair: Pair, link: asyncpg.Connection) -> None:
    queue = pair[0].queue(QUEUE)
    await queue.send([message(str(n), dedup=str(n)) for n in range(20)])
    await queue.settle([Outcome(held, Done()) for held in await take(queue)])
    await asyncio.sleep(1.1)
    await queue.send([message("last", dedup="last")])
    assert await link.fetchval("SELECT count(*) FROM tidemill.dedup") == 1


# --- order ------------------------------------------------------------------------------------------------------


async def test_priority_is_strict_while_others_send(pair: Pair) -> None:
    one, two = (database.queue(QUEUE) for database in pair)
    await one.send([message(f"low-{n}") for n in range(400)])
    taken = list(await one.receive("a", 100, 0.0))
    await one.send([message("high", priority=5)])
    taken += await one.receive("a", 100, 0.0)
    assert taken[100].id == "high", "a priority of our own that is new is looked for at once"
    await asyncio.sleep(0.3)
    await two.send([message("higher", priority=9), message("high again", priority=5)])
    await asyncio.sleep(0.3)
    assert [held.id for held in await one.receive("a", 2, 0.0)] == ["higher", "high again"]


async def test_what_others_put_back_is_found_behind_a_backlog(pair: Pair) -> None:
    one, two = (database.queue(QUEUE) for database in pair)
    await one.send([message(f"{n:03}") for n in range(300)])
    first = await two.receive("gone", 1, 0.0)
    taken = list(await one.receive("a", 10, 0.0))
    await two.free(["gone"])
    while first[0].id not in {held.id for held in taken}:
        assert len(taken) < 299, "it came last"
        await asyncio.sleep(0.02)
        taken += await one.receive("a", 10, 0.0)


async def test_an_old_snapshot_does_not_slow_the_claims(pair: Pair, link: asyncpg.Connection) -> None:
    queue = pair[0].queue(QUEUE)
    await link.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await link.execute("SELECT 1 FROM tidemill.made")
    for start in range(0, 20_000, 1_000):
        await queue.send([message(str(n)) for n in range(start, start + 1_000)])
    times = []
    for _ in range(40):
        began = asyncio.get_running_loop().time()
        held = await queue.receive("a", 500, 0.0)
        times.append(asyncio.get_running_loop().time() - began)
        await queue.settle([Outcome(delivery, Done()) for delivery in held])
    await link.execute("ROLLBACK")
    early, late = sorted(times[5:15])[5], sorted(times[-10:])[5]
    assert late < 3 * early, f"{early:.4f} s at first, {late:.4f} s at the end"


# --- waiting ----------------------------------------------------------------------------------------------------


async def test_a_commit_that_nobody_heard_of_is_found_within_a_second(pair: Pair, link: asyncpg.Connection) -> None:
    database = pair[0]
    queue = database.queue(QUEUE)
    assert not await queue.receive("a", 1, 0.0)
    async with link.transaction():
        await insert(link, database._session, [message("late")])
        await asyncio.sleep(1.3)  # longer than the watch remembers the number
        found = asyncio.create_task(queue.receive("a", 1, 1.0))
        await asyncio.sleep(0.05)
    began = asyncio.get_running_loop().time()
    while not (held := await found):
        found = asyncio.create_task(queue.receive("a", 1, 1.0))
    assert held[0].id == "late"
    assert asyncio.get_running_loop().time() - began < 1.5


async def test_an_idle_queue_asks_about_once_a_second(pair: Pair, link: asyncpg.Connection) -> None:
    database = pair[0]
    queue = database.queue(QUEUE)
    asked = 0
    fetch = database._session.data.one

    def counted() -> object:
        nonlocal asked
        asked += 1
        return fetch()

    await asyncio.sleep(1.5)
    database._session.data.one = counted  # type: ignore[method-assign, assignment]
    for _ in range(6):
        assert not await queue.receive("a", 1, 0.5)
    assert asked <= 5


async def test_a_cancelled_receive_gives_back_what_it_took(pair: Pair) -> None:
    one, two = (database.queue(QUEUE) for database in pair)
    await one.send([message(str(n)) for n in range(50)])
    for delay in (0.0, 0.0005, 0.001, 0.002, 0.004):
        receiving = asyncio.create_task(one.receive("a", 10, 0.0))
        await asyncio.sleep(delay)
        receiving.cancel()
        await asyncio.gather(receiving, return_exceptions=True)
        if not receiving.cancelled():
            await one.settle([Outcome(held, Later(), started=False) for held in receiving.result()])
    await asyncio.sleep(0.3)
    taken = await take(two)
    assert len(taken) == 50
    assert {held.deliveries for held in taken} == {1}


# --- lost connections -------------------------------------------------------------------------------------------


async def test_claims_outlive_a_restart_of_the_server(pair: Pair, link: asyncpg.Connection) -> None:
    queue = pair[0].queue(QUEUE)
    await queue.send([message("a"), message("b")])
    held = await take(queue)
    await kill_all(link)
    replies = await again(lambda: queue.settle([Outcome(delivery, Done()) for delivery in held]))
    assert replies == [Settled(), Settled()]
    await again(lambda: queue.send([message("c")]))
    waiting = await again(lambda: queue.receive("a", 1, 1.0))
    assert [delivery.id for delivery in waiting] == ["c"]  # type: ignore[attr-defined]


async def test_a_waiting_receive_says_so_or_goes_on_after_a_restart(pair: Pair, link: asyncpg.Connection) -> None:
    one, two = (database.queue(QUEUE) for database in pair)
    waiting = asyncio.create_task(one.receive("a", 1, 1.0))
    await asyncio.sleep(0.1)
    await kill_all(link)
    await again(lambda: two.send([message("a")]))
    try:
        held = await waiting
    except TidemillError:
        held = []
    while not held:
        held = await again(lambda: one.receive("a", 1, 1.0))  # type: ignore[assignment]
    assert held[0].id == "a"


# --- in the transaction of somebody -----------------------------------------------------------------------------


async def test_insert_and_apply_are_part_of_a_transaction(pair: Pair, link: asyncpg.Connection) -> None:
    database = pair[0]
    queue = database.queue(QUEUE)
    await queue.send([message("work", dedup="w")])
    held = await take_one(queue)
    stale = held._replace(claim=f"{held.claim}0")
    sent = [message("x"), message("y", dedup="w"), message("z", dedup="z")]
    for end in ("ROLLBACK", "COMMIT"):
        await link.execute("BEGIN")
        assert await insert(link, database._session, sent) == ["x", "work", "z"]
        assert await apply(link, database._session, [Outcome(held, Done()), Outcome(stale, Dead("x"))]) == {held.claim}
        await link.execute(end)
        taken = await take(queue)
        assert [delivery.id for delivery in taken] == ([] if end == "ROLLBACK" else ["x", "z"])
    assert await queue.settle([Outcome(held, Later())]) == [Lost()]


async def with_asyncpg(url: str, statements: list[Statement], commit: bool) -> list[int]:
    link = await asyncpg.connect(url)
    try:
        transaction = link.transaction()
        await transaction.start()
        tags = [await link.execute(one.sql, *one.args) for one in statements]
        await (transaction.commit() if commit else transaction.rollback())
        return [int(tag.split()[-1]) for tag in tags]
    finally:
        await link.close()


async def with_psycopg(url: str, statements: list[Statement], commit: bool) -> list[int]:
    def run() -> list[int]:
        with psycopg.connect(url, cursor_factory=psycopg.RawCursor) as link:
            counts = [link.execute(one.sql, one.args).rowcount for one in statements]
            link.commit() if commit else link.rollback()
            return counts

    return await asyncio.to_thread(run)


async def with_sqlalchemy(url: str, statements: list[Statement], commit: bool) -> list[int]:
    """Its driver here writes parameters as %s: each of ours is there once, in order."""

    def run() -> list[int]:
        engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        with engine.connect() as link:
            texts = [re.sub(r"\$[0-9]+", "%s", one.sql.replace("%", "%%")) for one in statements]
            counts = [link.exec_driver_sql(sql, one.args).rowcount for sql, one in zip(texts, statements, strict=True)]
            link.commit() if commit else link.rollback()
        engine.dispose()
        return counts

    return await asyncio.to_thread(run)


@pytest.mark.parametrize("run", [with_asyncpg, with_psycopg, with_sqlalchemy])
async def test_statements_are_part_of_a_users_transaction(
    pair: Pair, postgres_url: str, run: Callable[[str, list[Statement], bool], Awaitable[list[int]]]
) -> None:
    session, queue = pair[0]._session, pair[0].queue(QUEUE)
    await queue.send([message("work", dedup="w")])
    held = await take_one(queue)
    plain = Message("jobs", "plain", b"\0\xff", key="k", headers={"h": "\u00e9"}, priority=3)
    sent = [plain, message("taken", dedup="w"), message("free", dedup="f")]
    statements = [one for item in sent for one in message_statements(session, item)]
    statements += outcome_statements(session, Outcome(held, Done()))
    wanted = [one.rows for one in statements]
    for commit in (False, True):
        counts = await run(postgres_url, statements, commit)
        assert all(rows in (None, count) for rows, count in zip(wanted, counts, strict=True)), counts
        taken = await take(queue)
        assert [delivery.id for delivery in taken] == (["plain", "free"] if commit else [])
    assert (taken[0].body, taken[0].key, taken[0].headers) == (plain.body, "k", {"h": "\u00e9"})
    assert await queue.settle([Outcome(held, Later())]) == [Lost()]
    (done,) = outcome_statements(session, Outcome(held, Done()))
    assert await run(postgres_url, [done], True) == [0], "the claim is lost"
    assert list(await queue.send([message("again", dedup="w")])) == ["work"], "the window began"


async def test_only_done_is_a_statement(pair: Pair) -> None:
    held = Delivery("jobs", "a", b"", None, {}, 0, 0.0, 0, 1, "", "1.a")
    for outcome in (Outcome(held, Later()), Outcome(held, Dead("x")), Outcome(held, Done(), started=False)):
        with pytest.raises(ConfigurationError):
            outcome_statements(pair[0]._session, outcome)


# --- what is odd ------------------------------------------------------------------------------------------------


async def test_words_of_an_error_may_hold_anything(pair: Pair) -> None:
    queue = pair[0].queue(QUEUE)
    await queue.send([message("a"), message("b")])
    a, b = await take(queue)
    odd = "nul \0, half a pair \ud800"
    assert await queue.settle([Outcome(a, Later(0.0, odd)), Outcome(b, Dead(odd), error=odd)]) == [Settled()] * 2
    assert (await take_one(queue)).reason == "nul \ufffd, half a pair ?"
    (kept,) = await pair[0].dead_letters().page("queue/jobs", -1, 10)
    assert kept.error == "nul \ufffd, half a pair ?"


async def test_queues_with_odd_names_are_apart(postgres_url: str) -> None:
    specs = [QueueSpec(name) for name in ('o\'dd "{name}" %s', "x" * 100, "x" * 101, "Jobs", "jobs")]
    async with opened(postgres_url, *specs) as database:
        for n, spec in enumerate(specs):
            await database.queue(spec).send([Message(spec.name, str(n), b"", dedup="k")])
        for n, spec in enumerate(specs):
            queue: Queue = database.queue(spec)
            held = await take_one(queue)
            assert (held.id, held.queue) == (str(n), spec.name)
            await settle_one(queue, held, Dead("x"))
            assert await database.dead_letters().release(f"queue/{spec.name}", [held.id]) == 1
            assert [one.id for one in await queue.peek("", 10)] == [str(n)]
            assert await queue.purge() == 1


async def test_orders_have_more_than_64_bits(pair: Pair) -> None:
    letters = pair[0].dead_letters()
    orders = [1 << 89, (1 << 89) + 1, 7]
    await letters.put([letter(str(n), order, source="feed/f/0") for n, order in enumerate(orders)])
    found = await letters.page("feed/f/0", 7, 10)
    assert [one.order for one in found] == orders[:2]


async def test_a_delay_without_end_is_a_long_one(pair: Pair) -> None:
    queue = pair[0].queue(QUEUE)
    await queue.send([message("a", delay=float("inf")), message("b")])
    (held,) = await take(queue)
    assert await queue.settle([Outcome(held, Later(1e300))]) == [Settled()]
    assert (await queue.depth()).delayed == 2
