"""Conformance of `tidemill.ports.Feed`: trimming, expiry, lag."""

from __future__ import annotations

import pytest

from tidemill.model import Expired, Lag, Page
from tidemill.ports import Database, Documents, Feed
from tidemill.testing.conformance.bench import need
from tidemill.testing.conformance.suite import Advance, Suite, put, read_on, start_all

LONG = 1e6


async def trim_all(feed: Feed, before: dict[str, str], retention: float) -> int:
    """Trim until there is nothing more to trim; how many changes went."""
    removed = 0
    while more := await feed.trim(before, retention):
        removed += more
    return removed


class TrimConformance(Suite):
    """The part of `FeedConformance` about what is removed, and what is left to read."""

    async def test_without_a_reason_nothing_goes(self, feed: Feed, documents: Documents) -> None:
        cursors = await start_all(feed, "beginning")
        await documents.write([put(f"d{n}", key=str(n), n=n) for n in range(9)])
        assert await trim_all(feed, cursors, LONG) == 0
        assert await trim_all(feed, {}, LONG) == 0
        assert len(await read_on(feed, cursors)) == 9

    async def test_what_lies_before_the_cursors_goes(
        self, feed: Feed, documents: Documents, database: Database
    ) -> None:
        need(database, "trim")
        cursors = await start_all(feed, "beginning")
        await documents.write([put(f"old{n}", key=str(n), n=n) for n in range(9)])
        await read_on(feed, cursors)
        await documents.write([put(f"new{n}", key=str(n), n=n) for n in range(9)])
        assert await trim_all(feed, cursors, LONG) == 9
        found = await read_on(feed, dict(cursors))
        assert sorted(change.document for change in found) == [f"new{n}" for n in range(9)]
        kept = await read_on(feed, await start_all(feed, "beginning"))
        assert [change.id for change in kept] == [change.id for change in found]

    async def test_a_partition_that_is_not_named_is_kept(
        self, feed: Feed, documents: Documents, database: Database
    ) -> None:
        need(database, "trim")
        cursors = await start_all(feed, "beginning")
        await documents.write([put(f"d{n}", key=str(n), n=n) for n in range(40)])
        changes = await read_on(feed, cursors)
        name = changes[0].partition
        mine = [change.id for change in changes if change.partition == name]
        assert await trim_all(feed, {name: cursors[name]}, LONG) == len(mine)
        kept = await read_on(feed, await start_all(feed, "beginning"))
        assert [change.id for change in kept] == [change.id for change in changes if change.partition != name]

    async def test_what_is_older_than_retention_goes_and_its_readers_are_told(
        self, feed: Feed, documents: Documents, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "trim")
        behind = await start_all(feed, "beginning")
        await documents.write([put("old1", key="one", n=1), put("old2", key="one", n=2)])
        await advance(10 * tick)
        await documents.write([put("new", key="one", n=3)])
        assert await trim_all(feed, {}, 5 * tick) == 2
        kept = await read_on(feed, await start_all(feed, "beginning"))
        assert [change.document for change in kept] == ["new"]
        name = kept[0].partition
        answer = (await feed.read({name: behind[name]}, 10, 0.0))[name]
        assert isinstance(answer, Expired)
        rest = (await feed.read({name: answer.cursor}, 10, 0.0))[name]
        assert isinstance(rest, Page)
        assert [change.document for change in rest.changes] == ["new"]

    async def test_who_has_read_everything_does_not_expire(
        self, feed: Feed, documents: Documents, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "trim")
        cursors = await start_all(feed, "beginning")
        await documents.write([put(f"d{n}", key=str(n), n=n) for n in range(9)])
        await read_on(feed, cursors)
        now = await start_all(feed, "now")
        await advance(10 * tick)
        assert await trim_all(feed, {}, 5 * tick) == 9
        assert await read_on(feed, cursors) == []
        await documents.write([put("new", n=1)])
        assert [change.document for change in await read_on(feed, cursors)] == ["new"]
        assert [change.document for change in await read_on(feed, now)] == ["new"]

    async def test_expired_in_one_partition_disturbs_no_other(
        self, feed: Feed, documents: Documents, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "trim")
        cursors = await start_all(feed, "beginning")
        if len(cursors) < 2:
            pytest.skip("one partition only")
        await documents.write([put(f"old{n}", key=str(n), n=n) for n in range(40)])
        old = await read_on(feed, dict(cursors))
        name = old[0].partition
        for change in old:  # all but one partition have been read
            if change.partition != name and change.cursor is not None:
                cursors[change.partition] = change.cursor
        await advance(10 * tick)
        await documents.write([put(f"new{n}", key=str(n), n=n) for n in range(40)])
        await trim_all(feed, {}, 5 * tick)
        answers = await feed.read(cursors, 100, 0.0)
        assert {n for n, answer in answers.items() if isinstance(answer, Expired)} >= {name}
        found = {change.document for a in answers.values() if isinstance(a, Page) for change in a.changes}
        if old[0].cursor is not None:
            assert [n for n, answer in answers.items() if isinstance(answer, Expired)] == [name]
            assert found == {f"new{c.document[3:]}" for c in old if c.partition != name}

    async def test_beginning_and_times_are_after_what_was_trimmed(
        self, feed: Feed, documents: Documents, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "trim")
        await documents.write([put("old", n=1)])
        (old,) = await read_on(feed, await start_all(feed, "beginning"))
        await advance(10 * tick)
        await trim_all(feed, {}, 5 * tick)
        for at in (old.at - 1, 1.0):
            assert await read_on(feed, await start_all(feed, at)) == []
        assert await read_on(feed, await start_all(feed, "beginning")) == []

    async def test_lag(self, feed: Feed, documents: Documents, advance: Advance, tick: float) -> None:
        await documents.write([put("read", key="one", n=0)])
        cursors = await start_all(feed, "beginning")
        await read_on(feed, cursors)
        await documents.write([put(f"d{n}", key="one", n=n) for n in range(3)])
        (name, *_) = [change.partition for change in await read_on(feed, dict(cursors))]
        await advance(4 * tick)
        lags = await feed.lag(cursors)
        assert sorted(lags) == sorted(cursors)
        assert lags[name].items == 3
        assert 4 * tick <= lags[name].seconds < 4 * tick + 60
        assert all(lag == Lag(0, 0.0) for other, lag in lags.items() if other != name)

    async def test_who_has_read_everything_has_no_lag(
        self, feed: Feed, documents: Documents, advance: Advance, tick: float
    ) -> None:
        cursors = await start_all(feed, "beginning")
        await documents.write([put("a", n=1)])
        await read_on(feed, cursors)
        await advance(tick)
        assert set((await feed.lag(cursors)).values()) == {Lag(0, 0.0)}
