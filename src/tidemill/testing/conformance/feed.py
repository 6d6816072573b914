"""Conformance of `tidemill.ports.Feed`: what is in the log, in which order, and where a cursor goes on.

Trimming and lag are in `trim`.
"""

from __future__ import annotations

import asyncio
import json

import pytest

from tidemill.model import Delete, Expect, Logged, Mismatch, Page, Put, Stored
from tidemill.ports import Database, Documents, Feed
from tidemill.testing.conformance.bench import COLLECTION, Bench, need
from tidemill.testing.conformance.suite import Advance, put, read_on, start_all
from tidemill.testing.conformance.trim import TrimConformance


class FeedConformance(TrimConformance):
    """The ordered log of the changes of one collection."""

    # --- what is in it --------------------------------------------------------------------------------------

    async def test_partitions_are_sorted(self, feed: Feed) -> None:
        names = list(await feed.partitions())
        assert names
        assert names == sorted(set(names))
        assert list(await feed.partitions()) == names

    async def test_each_write_is_one_change(self, feed: Feed, documents: Documents, database: Database) -> None:
        need(database, "versions")
        cursors = await start_all(feed, "beginning")
        await documents.write([put("a", key="k1", n=1), put("b", key="k2", n=2)])
        await documents.write([put("a", key="k1", n=3)])
        changes = await read_on(feed, cursors)
        found = sorted((c.document, c.key, json.loads(c.body or b"")["n"], c.kind) for c in changes)
        assert found == [("a", "k1", 1, "put"), ("a", "k1", 3, "put"), ("b", "k2", 2, "put")]
        assert len({change.id for change in changes}) == 3
        assert all(change.at > 0 for change in changes)

    async def test_a_write_that_failed_is_no_change(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put("a", n=1)])
        cursors = await start_all(feed, "now")
        await documents.write([put("a", n=2, expect=Expect.NOTHING), put("a", n=2, expect="wrong")])
        await documents.write([Delete("things", "a", "k", "wrong")])
        assert await read_on(feed, cursors) == []

    async def test_a_delete_is_a_change(self, feed: Feed, documents: Documents, database: Database) -> None:
        need(database, "deletes")
        await documents.write([put("a", key="mine", n=1)])
        cursors = await start_all(feed, "now")
        await documents.write([Delete("things", "a", "mine")])
        (change,) = await read_on(feed, cursors)
        assert (change.kind, change.document, change.key, change.body) == ("delete", "a", "mine", None)

    async def test_before_images(self, feed: Feed, documents: Documents, database: Database) -> None:
        need(database, "before", "deletes")
        cursors = await start_all(feed, "beginning")
        await documents.write([put("a", n=1), put("a", n=2), Delete("things", "a", "k"), put("a", n=3)])
        before = [change.before and json.loads(change.before) for change in await read_on(feed, cursors)]
        assert before == [None, {"n": 1}, {"n": 2}, None]

    async def test_a_document_that_changes_its_key_goes_to_the_lane_of_the_new_one(
        self, feed: Feed, documents: Documents
    ) -> None:
        await documents.write([put("a", key="one", n=1)])
        cursors = await start_all(feed, "now")
        await documents.write([put("a", key="two", n=2)])
        (change,) = await read_on(feed, cursors)
        assert (change.kind, change.document, change.key) == ("put", "a", "two")

    # --- order ----------------------------------------------------------------------------------------------

    async def test_order_rises_within_a_partition(self, feed: Feed, documents: Documents, database: Database) -> None:
        need(database, "versions")
        cursors = await start_all(feed, "beginning")
        for n in range(5):
            await documents.write([put(f"d{i}", key=f"k{i}", n=n) for i in range(12)])
        changes = await read_on(feed, cursors)
        assert len(changes) == 60
        for partition in cursors:
            orders = [change.order for change in changes if change.partition == partition]
            assert orders == sorted(set(orders))

    async def test_a_key_has_one_partition(self, feed: Feed, documents: Documents) -> None:
        cursors = await start_all(feed, "beginning")
        await documents.write([put(f"d{n}", key=f"k{n % 7}", n=n) for n in range(70)])
        changes = await read_on(feed, cursors)
        assert len({(change.key, change.partition) for change in changes}) == 7
        for key in {change.key for change in changes}:
            assert numbers(changes, key) == [n for n in range(70) if f"k{n % 7}" == key]

    async def test_concurrent_writers_lose_and_swap_nothing(
        self, feed: Feed, documents: Documents, database: Database, peer: Database
    ) -> None:
        """Counters under compare-and-swap: the order of their commits is the order of their numbers."""
        need(database, "versions")
        cursors = await start_all(feed, "beginning")
        both = (documents, peer.documents(COLLECTION))
        writers = [asyncio.create_task(count_up(both[n % 2], f"c{n % 3}", 8)) for n in range(6)]
        changes: list[Logged] = []
        while not all(writer.done() for writer in writers):
            changes += await read_on(feed, cursors, 5)
            await asyncio.sleep(0)
        await asyncio.gather(*writers)
        changes += await read_on(feed, cursors, 5)
        for n in range(3):
            assert numbers(changes, f"c{n}") == list(range(1, 17))
        assert len({change.id for change in changes}) == len(changes) == 48

    # --- cursors --------------------------------------------------------------------------------------------

    async def test_begin_at_the_beginning_or_now(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put(f"old{n}", key=str(n), n=n) for n in range(8)])
        beginning, now = await start_all(feed, "beginning"), await start_all(feed, "now")
        assert await read_on(feed, dict(now)) == []
        await documents.write([put(f"new{n}", key=str(n), n=n) for n in range(8)])
        assert len(await read_on(feed, beginning)) == 16
        assert {change.document[:3] for change in await read_on(feed, now)} == {"new"}

    async def test_begin_at_a_time(self, feed: Feed, documents: Documents, advance: Advance, tick: float) -> None:
        await documents.write([put("a", n=1)])
        await advance(4 * tick)
        await documents.write([put("b", n=2)])
        a, b = await read_on(feed, await start_all(feed, "beginning"))
        assert a.at < b.at
        assert [c.document for c in await read_on(feed, await start_all(feed, (a.at + b.at) / 2))] == ["b"]
        assert [c.document for c in await read_on(feed, await start_all(feed, a.at - tick))] == ["a", "b"]
        assert await read_on(feed, await start_all(feed, b.at + 3600)) == []

    async def test_begin_at_a_time_before_everything_kept(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put("a", n=1)])
        assert [change.document for change in await read_on(feed, await start_all(feed, 1.0))] == ["a"]

    async def test_a_cursor_goes_on_after_its_change(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put(f"d{n}", key="one", n=n) for n in range(6)])
        changes = await read_on(feed, start := await start_all(feed, "beginning"))
        name = changes[0].partition
        for n, change in enumerate(changes):
            if change.cursor is not None:
                rest = (await feed.read({name: change.cursor}, 100, 0.0))[name]
                assert isinstance(rest, Page)
                assert rest.changes == tuple(changes[n + 1 :])
        assert await read_on(feed, start) == []

    async def test_small_pages_give_the_same_as_a_large_one(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put(f"d{n}", key=str(n), n=n) for n in range(30)])
        small, large = await start_all(feed, "beginning"), await start_all(feed, "beginning")
        one_by_one, at_once = await read_on(feed, small, 1), await read_on(feed, large, 100)
        assert sorted(change.id for change in one_by_one) == sorted(change.id for change in at_once)
        for name in large:  # where a change itself can be gone on from may depend on its page
            wanted = [change._replace(cursor=None) for change in at_once if change.partition == name]
            assert [change._replace(cursor=None) for change in one_by_one if change.partition == name] == wanted

    async def test_more_tells_that_the_next_read_need_not_wait(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put(f"d{n}", key="one", n=n) for n in range(5)])
        (change, *_) = await read_on(feed, await start_all(feed, "beginning"))
        cursors = {change.partition: await feed.start(change.partition, "beginning")}
        (page,) = (await feed.read(cursors, 2, 0.0)).values()
        assert isinstance(page, Page)
        assert (len(page.changes), page.more) == (2, True)

    async def test_reading_takes_nothing(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put(f"d{n}", key=str(n), n=n) for n in range(10)])
        cursors = await start_all(feed, "beginning")
        first = await feed.read(cursors, 100, 0.0)
        assert await feed.read(cursors, 100, 0.0) == first

    async def test_an_answer_for_each_cursor(self, feed: Feed, documents: Documents) -> None:
        await documents.write([put("a", key="one", n=1)])
        cursors = await start_all(feed, "beginning")
        pages = await feed.read(cursors, 10, 0.0)
        assert sorted(pages) == sorted(cursors)
        assert sum(len(page.changes) for page in pages.values() if isinstance(page, Page)) == 1
        one = sorted(cursors)[0]
        assert list(await feed.read({one: cursors[one]}, 10, 0.0)) == [one]

    async def test_cursors_are_independent(self, feed: Feed, documents: Documents) -> None:
        first = await start_all(feed, "beginning")
        await documents.write([put(f"d{n}", key=str(n), n=n) for n in range(20)])
        await read_on(feed, first)
        await documents.write([put(f"d{n}", key=str(n), n=n) for n in range(20, 30)])
        mixed = {name: first[name] if n % 2 else await feed.start(name, "beginning") for n, name in enumerate(first)}
        wanted = {name: set[int]() for name in mixed}
        everything = await read_on(feed, await start_all(feed, "beginning"))
        for change in everything:
            n = json.loads(change.body or b"")["n"]
            if n >= 20 or mixed[change.partition] != first[change.partition]:
                wanted[change.partition].add(n)
        found = await read_on(feed, mixed)
        assert {name: set(values(found, name)) for name in mixed} == wanted

    # --- waiting --------------------------------------------------------------------------------------------

    async def test_a_read_waits_no_longer_than_asked(
        self, bench: Bench, feed: Feed, documents: Documents, advance: Advance, tick: float
    ) -> None:
        cursors = await start_all(feed, "now")
        waiting = asyncio.create_task(feed.read(cursors, 10, 2 * tick))
        await advance(4 * tick)
        pages = await bench.soon(waiting)
        empty = {name: page.cursor for name, page in pages.items() if isinstance(page, Page) and not page.changes}
        assert sorted(empty) == sorted(cursors)
        await documents.write([put("a", n=1)])
        assert [change.document for change in await read_on(feed, empty)] == ["a"]

    async def test_a_waiting_read_is_woken_by_a_write(
        self, bench: Bench, feed: Feed, peer: Database, advance: Advance, tick: float
    ) -> None:
        waiting = asyncio.create_task(feed.read(await start_all(feed, "now"), 10, 1.0))
        await advance(tick)
        await peer.documents(COLLECTION).write([put("a", n=1)])
        pages = await bench.soon(waiting)
        assert [c.document for page in pages.values() if isinstance(page, Page) for c in page.changes] == ["a"]

    async def test_a_read_may_be_cancelled(
        self, feed: Feed, documents: Documents, advance: Advance, tick: float
    ) -> None:
        cursors = await start_all(feed, "now")
        waiting = asyncio.create_task(feed.read(cursors, 10, 1.0))
        await advance(tick)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await documents.write([put("a", n=1)])
        assert [change.document for change in await read_on(feed, cursors)] == ["a"]


async def count_up(documents: Documents, id: str, times: int) -> None:
    """Raise the number in a document so many times, each by compare-and-swap."""
    expect: Expect | str = Expect.NOTHING
    n = 0
    while times:
        (reply,) = await documents.write([Put("things", id, id, json.dumps({"n": n + 1}).encode(), expect)])
        current = reply.current if isinstance(reply, Mismatch) else reply
        times -= isinstance(reply, Stored)
        assert isinstance(current, Stored)
        n, expect = json.loads(current.body)["n"], current.etag


def numbers(changes: list[Logged], key: str) -> list[int]:
    """The field `n` of the changes of one key, in the order of the feed."""
    return [json.loads(change.body or b"")["n"] for change in changes if change.key == key]


def values(changes: list[Logged], partition: str) -> list[int]:
    """The field `n` of the changes of one partition, in the order of the feed."""
    return [json.loads(change.body or b"")["n"] for change in changes if change.partition == partition]
