"""Conformance of `tidemill.ports.Queue`: sending, receiving, duplicates.

Claims and verdicts are in `claims`, claims with deadlines in `deadlines`, `peek` and `purge` in `waiting`.
"""

from __future__ import annotations

import asyncio

import pytest

from tidemill.model import Dead, Done, Later, Message, Settled
from tidemill.ports import Database, Queue
from tidemill.testing.conformance.bench import QUEUE, Bench, need
from tidemill.testing.conformance.claims import ClaimConformance
from tidemill.testing.conformance.deadlines import DeadlineConformance
from tidemill.testing.conformance.suite import Advance, message, settle_one, take, take_one
from tidemill.testing.conformance.waiting import WaitingConformance


class QueueConformance(ClaimConformance, DeadlineConformance, WaitingConformance):
    """Messages that are claimed, worked on and settled."""

    async def test_what_is_sent_is_received(self, queue: Queue) -> None:
        sent = Message(
            "jobs", "m-1", b'{"n": 1}', key="\u65e5", headers={"traceparent": "00-1", "who": "Zo\u00eb"}, priority=0
        )
        assert list(await queue.send([sent])) == ["m-1"]
        got = await take_one(queue)
        assert (got.queue, got.id, got.body, got.key) == ("jobs", "m-1", sent.body, "\u65e5")
        assert (dict(got.headers), got.priority) == (dict(sent.headers), 0)
        assert (got.attempt, got.deliveries, got.reason) == (0, 1, "")
        assert got.claim
        assert got.sent_at > 0

    async def test_a_body_is_bytes_of_any_kind(self, queue: Queue) -> None:
        bodies = {"empty": b"", "zero": b"\0\xff\xfe", "text": "\u00e9".encode(), "long": b"x" * 40_000}
        await queue.send([message(id, body=body) for id, body in bodies.items()])
        taken = await take(queue)
        assert {delivery.id: delivery.body for delivery in taken} == bodies
        assert [delivery.key for delivery in taken] == [None] * 4

    async def test_nothing_sent_nothing_received(self, queue: Queue) -> None:
        assert list(await queue.send([])) == []
        assert list(await queue.receive("a", 10, 0.0)) == []

    async def test_receive_takes_no_more_than_asked(self, queue: Queue) -> None:
        await queue.send([message(str(n)) for n in range(5)])
        first = await queue.receive("a", 3, 0.0)
        second = await queue.receive("a", 3, 0.0)
        assert (len(first), len(second)) == (3, 2)
        assert sorted(delivery.id for delivery in [*first, *second]) == ["0", "1", "2", "3", "4"]

    async def test_a_large_batch(self, queue: Queue, database: Database) -> None:
        ids = [str(n) for n in range(min(500, database.limits.batch))]
        assert list(await queue.send([message(id) for id in ids])) == ids
        assert {delivery.id for delivery in await take(queue)} == set(ids)

    async def test_a_claim_excludes_all_others(self, queue: Queue, peer: Database) -> None:
        await queue.send([message(str(n)) for n in range(60)])
        queues = (queue, peer.queue(QUEUE))

        async def drain(n: int) -> list[str]:
            found: list[str] = []
            while some := await queues[n % 2].receive(f"owner-{n}", 7, 0.0):
                found += [delivery.id for delivery in some]
            return found

        found = [id for part in await asyncio.gather(*map(drain, range(6))) for id in part]
        assert sorted(found, key=int) == [str(n) for n in range(60)]

    async def test_each_claim_has_its_own_name(self, queue: Queue) -> None:
        await queue.send([message(str(n)) for n in range(10)])
        claims = [delivery.claim for delivery in await take(queue)]
        (back,) = await queue.send([message("again")])
        for _ in range(3):
            delivery = await take_one(queue)
            claims.append(delivery.claim)
            await settle_one(queue, delivery, Done(), started=False)
        assert back == "again"
        assert len(set(claims)) == 13

    async def test_oldest_first(self, queue: Queue, database: Database, advance: Advance, tick: float) -> None:
        need(database, "order")
        for n in range(3):
            await queue.send([message(f"{n}-{part}") for part in "ab"])
            await advance(tick)
        assert [delivery.id for delivery in await take(queue)] == ["0-a", "0-b", "1-a", "1-b", "2-a", "2-b"]

    async def test_priority_is_strict(self, queue: Queue, database: Database, advance: Advance, tick: float) -> None:
        need(database, "priority")
        await queue.send([message("low", priority=-1), message("none")])
        await advance(tick)
        await queue.send([message("top", priority=9), message("high", priority=5)])
        taken = await take(queue)
        assert [delivery.id for delivery in taken] == ["top", "high", "none", "low"]
        assert [delivery.priority for delivery in taken] == [9, 5, 0, -1]

    async def test_inside_a_priority_by_due_time(
        self, queue: Queue, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "priority", "delay", "order")
        await queue.send([message("later", delay=4 * tick, priority=1), message("soon", delay=2 * tick)])
        await queue.send([message("sooner", delay=tick, priority=1)])
        await advance(6 * tick)
        assert [delivery.id for delivery in await take(queue)] == ["sooner", "later", "soon"]

    async def test_what_is_not_due_holds_nobody_up(self, queue: Queue, database: Database) -> None:
        need(database, "priority", "delay")
        await queue.send([message("first of all", priority=9, delay=3600), message("now")])
        assert [delivery.id for delivery in await take(queue)] == ["now"]

    async def test_a_delay_ends_late_but_never_early(
        self, queue: Queue, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "delay")
        await queue.send([message("a", delay=10 * tick)])
        assert await take(queue) == []
        await advance(2 * tick)
        assert await take(queue) == []
        await advance(9 * tick)
        assert [delivery.id for delivery in await take(queue)] == ["a"]

    async def test_a_waiting_receive_is_woken_by_a_send(
        self, bench: Bench, queue: Queue, peer: Database, advance: Advance, tick: float
    ) -> None:
        waiting = asyncio.create_task(queue.receive("a", 10, 1.0))
        await advance(tick)
        assert not waiting.done()
        await peer.queue(QUEUE).send([message("a")])
        (delivery,) = await bench.soon(waiting)
        assert delivery.id == "a"

    async def test_a_waiting_receive_is_woken_when_a_delay_ends(
        self, bench: Bench, queue: Queue, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "delay")
        await queue.send([message("a", delay=5 * tick)])
        waiting = asyncio.create_task(queue.receive("a", 10, 1.0))
        await advance(6 * tick)
        (delivery,) = await bench.soon(waiting)
        assert delivery.id == "a"

    async def test_a_waiting_receive_is_woken_by_what_comes_back(
        self, bench: Bench, queue: Queue, advance: Advance, tick: float
    ) -> None:
        await queue.send([message("a")])
        delivery = await take_one(queue)
        waiting = asyncio.create_task(queue.receive("b", 10, 1.0))
        await advance(tick)
        await settle_one(queue, delivery, Later(0.0))
        (again,) = await bench.soon(waiting)
        assert (again.id, again.attempt) == ("a", 1)

    async def test_a_receive_waits_no_longer_than_asked(
        self, bench: Bench, queue: Queue, advance: Advance, tick: float
    ) -> None:
        waiting = asyncio.create_task(queue.receive("a", 10, 2 * tick))
        await advance(4 * tick)
        received = await bench.soon(waiting)
        assert list(received) == []

    async def test_of_many_waiting_receives_one_gets_it(
        self, bench: Bench, queue: Queue, advance: Advance, tick: float
    ) -> None:
        waiting = [asyncio.create_task(queue.receive(f"owner-{n}", 10, 6 * tick)) for n in range(5)]
        await advance(tick)
        await queue.send([message("a")])
        await advance(8 * tick)
        replies = await bench.soon(asyncio.gather(*waiting))
        assert sorted(len(reply) for reply in replies) == [0, 0, 0, 0, 1]

    # --- duplicates -----------------------------------------------------------------------------------------

    async def test_an_id_that_is_there_is_sent_once(self, queue: Queue, database: Database) -> None:
        need(database, "unique")
        assert list(await queue.send([message("a", body=b"1"), message("a", body=b"2")])) == ["a", "a"]
        assert list(await queue.send([message("a", body=b"3"), message("b")])) == ["a", "b"]
        taken = await take(queue)
        assert sorted((delivery.id, delivery.body) for delivery in taken) == [("a", b"1"), ("b", b"{}")]
        assert list(await queue.send([message("a", body=b"4")])) == ["a"]
        assert await take(queue) == []

    async def test_a_dedup_key_is_unique_while_the_message_lives(self, queue: Queue, database: Database) -> None:
        need(database, "dedup")
        assert list(await queue.send([message("a", dedup="k"), message("b", dedup="k")])) == ["a", "a"]
        assert list(await queue.send([message("c", dedup="k"), message("d", dedup="other")])) == ["a", "d"]
        taken = {delivery.id: delivery for delivery in await take(queue)}
        assert sorted(taken) == ["a", "d"]
        assert list(await queue.send([message("e", dedup="k")])) == ["a"], "claimed"
        await settle_one(queue, taken["a"], Later(3600.0))
        assert list(await queue.send([message("f", dedup="k")])) == ["a"], "delayed"
        assert await take(queue) == []

    @pytest.mark.parametrize("verdict", [Done(), Dead("no")])
    async def test_a_dedup_key_is_unique_for_a_window_after_the_end(
        self, queue: Queue, database: Database, advance: Advance, verdict: Done | Dead
    ) -> None:
        need(database, "dedup")
        window = QUEUE.dedup_window
        await queue.send([message("a", dedup="k")])
        await advance(window * 0.8)  # the window does not begin before the end
        assert await settle_one(queue, await take_one(queue), verdict) == Settled()
        await advance(window * 0.5)
        assert list(await queue.send([message("b", dedup="k")])) == ["a"]
        assert await take(queue) == []
        await advance(window * 0.6)
        assert list(await queue.send([message("c", dedup="k")])) == ["c"]
        assert [delivery.id for delivery in await take(queue)] == ["c"]

    async def test_a_message_outlives_the_window(self, queue: Queue, database: Database, advance: Advance) -> None:
        need(database, "dedup")
        await queue.send([message("a", dedup="k")])
        await advance(QUEUE.dedup_window * 1.2)
        assert list(await queue.send([message("b", dedup="k")])) == ["a"]
        assert [delivery.id for delivery in await take(queue)] == ["a"]

    # --- depth ----------------------------------------------------------------------------------------------

    async def test_depth_of_nothing(self, queue: Queue) -> None:
        depth = await queue.depth()
        assert (depth.ready, depth.delayed, depth.claimed, depth.oldest) == (0, 0, 0, 0.0)

    async def test_depth_tells_what_waits(
        self, queue: Queue, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "delay")
        await queue.send([message("claimed")])
        await take_one(queue)
        await queue.send([message("a"), message("b"), message("later", delay=3600)])
        await advance(4 * tick)
        depth = await queue.depth()
        assert (depth.ready, depth.delayed, depth.claimed) == (2, 1, 1)
        assert 4 * tick <= depth.oldest < 4 * tick + 60

    async def test_depth_counts_what_this_object_has_sent(self, queue: Queue) -> None:
        """Though it may be cached: a bound on the queue goes by it."""
        for n in range(3):
            assert (await queue.depth()).ready == n
            await queue.send([message(str(n))])
