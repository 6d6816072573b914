"""Conformance of `tidemill.ports.Queue`: looking at what waits, and removing it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tidemill.errors import BadOption
from tidemill.model import Done, Later, Lost, Message, Waiting
from tidemill.ports import Database, Queue
from tidemill.testing.conformance.bench import QUEUE, need
from tidemill.testing.conformance.suite import Advance, Suite, message, settle_one, take, take_one

PURGES = 100
"""A purge that has not come to its end after so many calls never will."""


class WaitingConformance(Suite):
    """`peek` and `purge`, which brokers may lack."""

    async def test_peek_of_nothing(self, queue: Queue, database: Database) -> None:
        need(database, "peek")
        assert list(await queue.peek("", 10)) == []

    async def test_peek_shows_what_waits_and_claims_nothing(self, queue: Queue, database: Database) -> None:
        need(database, "peek")
        await queue.send([Message(QUEUE.name, "m-1", b'{"n": 1}', key="k", headers={"who": "Zo\u00eb"})])
        (seen,) = await queue.peek("", 10)
        assert (seen.id, seen.body, seen.key, dict(seen.headers)) == ("m-1", b'{"n": 1}', "k", {"who": "Zo\u00eb"})
        assert (seen.attempt, seen.reason, seen.priority) == (0, "", 0)
        assert seen.due >= seen.sent_at > 0
        assert [one.id for one in await queue.peek("", 10)] == ["m-1"]
        delivery = await take_one(queue)
        assert (delivery.id, delivery.attempt, delivery.deliveries) == ("m-1", 0, 1)

    async def test_peek_does_not_show_what_is_claimed(self, queue: Queue, database: Database) -> None:
        need(database, "peek")
        await queue.send([message("a")])
        delivery = await take_one(queue)
        assert list(await queue.peek("", 10)) == []
        await settle_one(queue, delivery, Done(), started=False)
        assert [one.id for one in await queue.peek("", 10)] == ["a"]

    async def test_peek_shows_what_is_delayed_and_why(self, queue: Queue, database: Database) -> None:
        need(database, "peek", "delay")
        await queue.send([message("later", delay=3600.0), message("tried")])
        await settle_one(queue, await take_one(queue), Later(60.0, "no rate"))
        seen = {one.id: one for one in await queue.peek("", 10)}
        assert 3599 < seen["later"].due - seen["later"].sent_at < 3601
        assert (seen["tried"].attempt, seen["tried"].reason) == (1, "no rate")
        assert seen["tried"].due > seen["tried"].sent_at + 59

    async def test_peek_is_in_the_order_of_claiming(
        self, queue: Queue, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "peek", "priority", "order", "delay")
        await queue.send([message("low", priority=-1), message("none")])
        await advance(tick)
        await queue.send([message("top", priority=9), message("none again"), message("late", delay=5 * tick)])
        names = ["top", "none", "none again", "late", "low"]
        assert [one.id for one in await queue.peek("", 10)] == names
        await advance(6 * tick)
        assert [delivery.id for delivery in await take(queue)] == names

    async def test_peek_pages_through_everything_once(self, queue: Queue, database: Database) -> None:
        need(database, "peek", "priority")
        await queue.send([message(f"{n}", priority=n % 3) for n in range(20)])
        whole = [one.id for one in await queue.peek("", 100)]
        assert sorted(whole, key=int) == [str(n) for n in range(20)]
        found: list[str] = []
        page = await queue.peek("", 7)
        for _ in range(4):  # three pages, and what is behind the last
            assert len(page) <= 7
            found += [one.id for one in page]
            page = await queue.peek(page[-1].place, 7) if page else []
        assert found == whole

    async def test_a_page_goes_on_behind_a_place_that_is_empty_by_now(self, queue: Queue, database: Database) -> None:
        need(database, "peek")
        await queue.send([message(str(n)) for n in range(4)])
        first: Sequence[Waiting] = await queue.peek("", 2)
        (gone,) = await queue.receive("a", 1, 0.0)
        rest = await queue.peek(first[-1].place, 10)
        assert {one.id for one in [*first, *rest]} | {gone.id} == {"0", "1", "2", "3"}

    async def test_a_place_that_is_none_is_refused(self, queue: Queue, database: Database) -> None:
        need(database, "peek")
        for place in ("soon", "1/2", "[1, 2]", "1/x/3"):
            with pytest.raises(BadOption):
                await queue.peek(place, 10)

    async def test_purge_of_nothing(self, queue: Queue, database: Database) -> None:
        need(database, "purge")
        assert await queue.purge() == 0

    async def test_purge_removes_what_waits(self, queue: Queue, database: Database, peer: Database) -> None:
        need(database, "purge")
        count = min(1_500, database.limits.batch)
        await queue.send([message(str(n)) for n in range(count)])
        assert await self._purge(queue) == count
        assert list(await peer.queue(QUEUE).receive("a", 10, 0.0)) == []
        assert (await queue.depth()).ready == 0

    async def test_purge_removes_what_is_delayed(self, queue: Queue, database: Database) -> None:
        need(database, "purge", "delay")
        await queue.send([message("later", delay=3600.0), message("tried")])
        await settle_one(queue, await take_one(queue), Later(60.0, "no rate"))
        assert await self._purge(queue) == 2
        assert (await queue.depth()).delayed == 0

    async def test_purge_leaves_what_is_claimed(self, queue: Queue, database: Database) -> None:
        need(database, "purge")
        await queue.send([message("held")])
        delivery = await take_one(queue)
        await queue.send([message("waits")])
        assert await self._purge(queue) == 1
        assert not isinstance(await settle_one(queue, delivery, Later(0.0)), Lost)
        assert (await take_one(queue)).id == "held"

    async def test_purged_messages_are_no_dead_letters(self, queue: Queue, database: Database) -> None:
        need(database, "purge", "dead_letters")
        await queue.send([message("a")])
        assert await self._purge(queue) == 1
        assert await database.dead_letters().count("") == {}

    async def test_what_was_purged_may_be_sent_again(self, queue: Queue, database: Database) -> None:
        need(database, "purge", "dedup")
        await queue.send([message("a", dedup="k")])
        assert await self._purge(queue) == 1
        assert list(await queue.send([message("a", dedup="k")])) == ["a"]
        assert (await take_one(queue)).id == "a"
        assert list(await queue.send([message("b", dedup="k")])) == ["a"], "it is taken again"

    async def _purge(self, queue: Queue) -> int:
        removed = 0
        for _ in range(PURGES):
            some = await queue.purge()
            if not some:
                return removed
            removed += some
        raise AssertionError("the purge has no end")
