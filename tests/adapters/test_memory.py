"""The memory backend: the contract of every port, and what is its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from tidemill.adapters.memory import Memory
from tidemill.adapters.memory.queue import REMEMBERED
from tidemill.errors import ConfigurationError
from tidemill.model import (
    CollectionSpec,
    Commit,
    Committed,
    Conflicted,
    Dead,
    Delete,
    Done,
    Expect,
    Finished,
    Lost,
    Mismatch,
    Outcome,
    Page,
    Put,
    Query,
    QueueSpec,
    Settled,
    Stale,
    Swap,
    TableSpec,
)
from tidemill.testing import conformance
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance import COLLECTION, QUEUE
from tidemill.testing.conformance.suite import message, put, read_on, settle_one, start_all, take, take_one


class TestMemory(
    conformance.DatabaseConformance,
    conformance.StoreConformance,
    conformance.QueueConformance,
    conformance.DocumentsConformance,
    conformance.FeedConformance,
    conformance.DeadLettersConformance,
    conformance.CommitConformance,
    conformance.KeyCommitConformance,
):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[conformance.Bench]:
        clock = FakeClock()
        async with conformance.opened(Memory(clock), clock) as bench:
            yield bench


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
async def memory(clock: FakeClock) -> Memory:
    memory = Memory(clock)
    await memory.open([COLLECTION], [QUEUE])
    return memory


# --- opening ------------------------------------------------------------------------------------------------


async def test_tables_of_others_are_refused_by_name(memory: Memory) -> None:
    with pytest.raises(ConfigurationError, match="invoices"):
        await memory.open([TableSpec("invoices", "public.invoice", "id", "customer")], [])


async def test_the_number_of_partitions_is_kept(memory: Memory) -> None:
    with pytest.raises(ConfigurationError, match=r"things.*partitions=5"):
        await memory.open([replace(COLLECTION, partitions=5)], [])


async def test_a_newer_declaration_counts(memory: Memory, clock: FakeClock) -> None:
    """A second app on the same object, one release on: another indexed field, another window."""
    await memory.documents(COLLECTION).write([put("a", colour="red")])
    await memory.open([replace(COLLECTION, fields=("colour",))], [replace(QUEUE, dedup_window=10.0)])
    rows = await memory.documents(COLLECTION).query(Query(order="colour"))
    assert [document.id for document in rows.documents] == ["a"]
    queue = memory.queue(QUEUE)
    await queue.send([message("a", dedup="k")])
    await settle_one(queue, await take_one(queue), Done())
    await clock.advance(5.0)
    assert list(await queue.send([message("b", dedup="k")])) == ["a"]


async def test_closing_forgets_nothing(memory: Memory) -> None:
    """Several apps share one object; each closes it when it stops."""
    await memory.queue(QUEUE).send([message("a")])
    await memory.close()
    assert [delivery.id for delivery in await take(memory.queue(QUEUE))] == ["a"]


# --- commits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "commit",
    [
        Commit(writes=(Put("nowhere", "a", "k", b"{}"),)),
        Commit(writes=(Delete("nowhere", "a"),)),
        Commit(messages=(replace(message("a"), queue="nowhere"),)),
    ],
    ids=["put", "delete", "message"],
)
async def test_a_commit_into_what_was_not_opened_writes_nothing(memory: Memory, commit: Commit) -> None:
    first = Commit(writes=(put("first", n=1),), swaps=(Swap("first", None, {}),))
    with pytest.raises(ConfigurationError, match="nowhere"):
        await memory.commit([first, commit])
    assert list(await memory.documents(COLLECTION).get(["first"])) == [None]
    assert list(await memory.store().get(["first"])) == [None]


async def test_writes_of_one_commit_see_each_other(memory: Memory) -> None:
    new, again = put("a", n=1, expect=Expect.NOTHING), put("a", n=2)
    (result,) = await memory.commit([Commit(writes=(new, again, Delete("things", "a"), new))])
    assert isinstance(result, Committed)
    assert len(await read_on(memory.feed(COLLECTION), await start_all(memory.feed(COLLECTION), "beginning"))) == 4
    (current,) = await memory.documents(COLLECTION).get(["a"])
    assert current == result.written[-1]


async def test_what_a_commit_will_have_written_has_no_etag_yet(memory: Memory) -> None:
    writes = (put("a", n=1), put("a", n=2, expect="e1"))
    assert list(await memory.commit([Commit(writes=writes)])) == [Conflicted(Mismatch("a", None))]
    writes = (put("a", n=1), put("a", n=2, expect=Expect.NOTHING))
    assert list(await memory.commit([Commit(writes=writes)])) == [Conflicted(Mismatch("a", None))]
    swaps = (Swap("r", None, {}), Swap("r", None, {"n": 2}))
    assert list(await memory.commit([Commit(swaps=swaps)])) == [Conflicted(Stale("r", None))]
    assert list(await memory.store().get(["r"])) == [None]


async def test_a_commit_may_delete_and_make_a_record_anew(memory: Memory) -> None:
    (old,) = await memory.store().swap([Swap("r", None, {"n": 1})])
    assert not isinstance(old, Stale)
    (record,) = await memory.store().get(["r"])
    assert record is not None
    (result,) = await memory.commit([Commit(swaps=(Swap("r", record.version, None), Swap("r", None, {"n": 2})))])
    assert isinstance(result, Committed)
    (record,) = await memory.store().get(["r"])
    assert record is not None
    assert record.value == {"n": 2}


async def test_the_finished_row_of_an_earlier_life_counts_after_the_lease_has_gone(memory: Memory) -> None:
    """The reply was lost and then the lease: what took effect is told, not that the fence fell later."""
    await memory.store().swap([Swap("lease/1", None, {"epoch": 1, "nonce": "n"})])
    commit = Commit(writes=(put("a", n=1),), finished=(Finished("lease/1", 1, "n", "c"),))
    await memory.commit([commit])
    (lease,) = await memory.store().get(["lease/1"])
    assert lease is not None
    await memory.store().swap([Swap("lease/1", lease.version, {"epoch": 2, "nonce": "m"})])
    assert list(await memory.commit([commit])) == [Committed(repeated=True)]


# --- queues -------------------------------------------------------------------------------------------------


async def test_the_memory_of_settled_claims_is_bounded(memory: Memory) -> None:
    queue = memory.queue(QUEUE)
    outcomes: list[Outcome] = []
    for n in range(0, REMEMBERED + 500, 500):
        await queue.send([message(f"{n}-{m}") for m in range(500)])
        outcomes += [Outcome(delivery, Done()) for delivery in await take(queue)]
        await queue.settle(outcomes[-500:])
    assert list(await queue.settle([outcomes[0], outcomes[-1]])) == [Lost(), Settled()]


async def test_dedup_keys_are_forgotten_after_their_window(memory: Memory, clock: FakeClock) -> None:
    queue = memory.queue(QUEUE)
    for n in range(50):
        await queue.send([message(str(n), dedup=f"k{n}")])
        await settle_one(queue, await take_one(queue), Done())
        await clock.advance(QUEUE.dedup_window / 10)
    kept = memory._state.queue(QUEUE.name)
    assert len(kept.dedup) == len(kept.ending) <= 11


async def test_a_released_message_takes_its_dedup_key_again(memory: Memory, clock: FakeClock) -> None:
    queue = memory.queue(QUEUE)
    await queue.send([message("a", dedup="k")])
    await settle_one(queue, await take_one(queue), Dead("x"))
    assert await memory.dead_letters().release("queue/jobs", ["a"]) == 1
    await clock.advance(QUEUE.dedup_window * 2)
    assert list(await queue.send([message("b", dedup="k")])) == ["a"]


async def test_a_released_message_leaves_its_key_to_a_newer_one(memory: Memory, clock: FakeClock) -> None:
    queue = memory.queue(QUEUE)
    await queue.send([message("a", dedup="k")])
    await settle_one(queue, await take_one(queue), Dead("x"))
    await clock.advance(QUEUE.dedup_window * 2)
    await queue.send([message("b", dedup="k")])
    await memory.dead_letters().release("queue/jobs", ["a"])
    assert list(await queue.send([message("c", dedup="k")])) == ["b"]
    for delivery in await take(queue):
        await settle_one(queue, delivery, Done())
    assert list(await queue.send([message("d", dedup="k")])) == ["b"], "the window is that of b"


async def test_a_receive_waits_for_the_first_delay_of_many(memory: Memory, clock: FakeClock) -> None:
    queue = memory.queue(QUEUE)
    await queue.send([message(str(n), delay=0.5 + n) for n in range(5)])
    start = clock.monotonic()
    waiting = asyncio.create_task(queue.receive("a", 10, 1.0))
    assert await clock.run_until(waiting.done, 1.0)
    assert [delivery.id for delivery in await waiting] == ["0"]
    assert clock.monotonic() - start == pytest.approx(0.5, abs=0.01)


async def test_a_wall_clock_that_goes_back_does_not_spin(memory: Memory, clock: FakeClock) -> None:
    queue = memory.queue(QUEUE)
    await queue.send([message("a", delay=0.5)])
    clock.jump(-3600.0)
    waiting = asyncio.create_task(queue.receive("a", 10, 1.0))
    await clock.advance(2.0)
    assert list(await waiting) == []
    clock.jump(3600.0)
    assert [delivery.id for delivery in await take(queue)] == ["a"]


async def test_ten_thousand_messages_are_claimed_in_order(memory: Memory) -> None:
    queue = memory.queue(QUEUE)
    ids = [f"{n:05d}" for n in range(10_000)]
    await queue.send([message(id, priority=-int(id) // 1000) for id in ids])
    assert [delivery.id for delivery in await take(queue)] == ids


# --- feeds --------------------------------------------------------------------------------------------------


async def test_an_expired_cursor_is_told_at_once(memory: Memory, clock: FakeClock) -> None:
    feed = memory.feed(COLLECTION)
    cursors = await start_all(feed, "beginning")
    await memory.documents(COLLECTION).write([put("a", n=1)])
    await clock.advance(100.0)
    assert await feed.trim({}, 10.0) == 1
    waiting = asyncio.create_task(feed.read(cursors, 10, 1.0))
    await clock.settle()
    assert waiting.done()
    assert sum(not isinstance(answer, Page) for answer in (await waiting).values()) == 1


async def test_keys_spread_over_the_partitions_and_stay(memory: Memory) -> None:
    feed = memory.feed(COLLECTION)
    cursors = await start_all(feed, "beginning")
    await memory.documents(COLLECTION).write([put(str(n), key=f"key-{n}", n=n) for n in range(100)])
    changes = await read_on(feed, cursors)
    assert min(sum(change.partition == name for change in changes) for name in cursors) > 10
    await memory.documents(COLLECTION).write([put("check", key="123456789", n=1)])
    (change,) = await read_on(feed, cursors)
    assert change.partition == f"{0xCBF43926 % 4:04d}", "the check value of CRC-32: the same in every release"


async def test_many_collections_and_queues_share_no_names(memory: Memory) -> None:
    other, mails = CollectionSpec("other", partitions=1), QueueSpec("mails")
    await memory.open([other], [mails])
    await memory.commit(
        [Commit(writes=(Put("other", "a", "k", b"{}"),), messages=(replace(message("a"), queue="mails"),))]
    )
    assert list(await memory.documents(COLLECTION).get(["a"])) == [None]
    assert await take(memory.queue(QUEUE)) == []
    assert len(await take(memory.queue(mails))) == 1


# --- presence -----------------------------------------------------------------------------------------------


async def test_who_vanished_is_gone(memory: Memory) -> None:
    presence = memory.presence()
    await presence.hold("a")
    await presence.hold("b")
    presence.vanish("a")
    assert list(await presence.gone(["a", "b", "c"])) == ["a"]
