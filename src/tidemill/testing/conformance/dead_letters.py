"""Conformance of `tidemill.ports.DeadLetters`."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tidemill.errors import ConfigurationError
from tidemill.model import Dead, DeadLetter
from tidemill.ports import Database, DeadLetters, Queue
from tidemill.testing.conformance.bench import QUEUE, Bench, need
from tidemill.testing.conformance.suite import Advance, Suite, message, settle_one, take, take_one


def letter(id: str, order: int, *, source: str = "feed/bill/0", key: str | None = "k") -> DeadLetter:
    return DeadLetter(source, id, key, order, b'{"id": 1}', 3, "why", "error", 1_700_000_000.5, {"h": "v"}, {"n": 1})


class DeadLettersConformance(Suite):
    """Bodies that are kept until somebody decides."""

    async def test_what_was_put_comes_back(self, letters: DeadLetters) -> None:
        plain = letter("a", 1)
        odd = DeadLetter(
            "feed/bill/0", "\u65e5 '%_", None, 2, None, 0, "w\u00e9", "\n", 1.25, {}, {"deep": {"list": [None, 0.5]}}
        )
        await letters.put([plain, odd])
        assert list(await letters.page("feed/bill/0", -1, 10)) == [plain, odd]
        await letters.put([])

    async def test_a_letter_has_any_body(self, letters: DeadLetters) -> None:
        bodies = [b"", b"\0\xff", None]
        await letters.put([replace(letter(str(n), n), body=body) for n, body in enumerate(bodies)])
        assert [found.body for found in await letters.page("feed/bill/0", -1, 10)] == bodies

    async def test_written_once(self, letters: DeadLetters) -> None:
        await letters.put([letter("a", 1)])
        await letters.put([replace(letter("a", 9), reason="another"), letter("b", 2), letter("b", 3)])
        assert list(await letters.page("feed/bill/0", -1, 10)) == [letter("a", 1), letter("b", 2)]

    async def test_an_id_is_unique_within_its_source_only(self, letters: DeadLetters) -> None:
        await letters.put([letter("a", 1), letter("a", 1, source="feed/bill/1")])
        assert list(await letters.page("feed/bill/1", -1, 10)) == [letter("a", 1, source="feed/bill/1")]
        assert list(await letters.page("feed/bill", -1, 10)) == []
        assert await letters.drop("feed/bill/1", ["a"]) == 1
        assert list(await letters.page("feed/bill/0", -1, 10)) == [letter("a", 1)]

    async def test_pages_go_by_order(self, letters: DeadLetters) -> None:
        await letters.put([letter(str(n), n * 10, key=f"k{n % 2}") for n in (5, 3, 10, 1, 4, 2)])

        async def page(after: int, limit: int, key: str | None = None) -> list[int]:
            return [found.order for found in await letters.page("feed/bill/0", after, limit, key)]

        assert await page(-1, 100) == [10, 20, 30, 40, 50, 100]
        assert await page(-1, 2) == [10, 20]
        assert await page(20, 2) == [30, 40]
        assert await page(35, 100) == [40, 50, 100]
        assert await page(100, 100) == []
        assert await page(-1, 100, "k1") == [10, 30, 50]
        assert await page(10, 1, "k1") == [30]
        assert await page(-1, 100, "none") == []

    async def test_count_by_source(self, letters: DeadLetters) -> None:
        sources = ["feed/a/0", "feed/a/0", "feed/a/1", "feed/ab/0", "queue/x", "feed/%/0", "feed/\U0001f600/0"]
        await letters.put([letter(str(n), n, source=source) for n, source in enumerate(sources)])
        assert await letters.count("feed/a/") == {"feed/a/0": 2, "feed/a/1": 1}
        assert await letters.count("feed/%") == {"feed/%/0": 1}
        assert await letters.count("feed/\U0001f600") == {"feed/\U0001f600/0": 1}
        assert sum((await letters.count("")).values()) == 7
        assert await letters.count("none") == {}
        await letters.drop("feed/a/1", ["2"])
        assert await letters.count("feed/a/") == {"feed/a/0": 2}

    async def test_drop_counts_what_was_there(self, letters: DeadLetters) -> None:
        await letters.put([letter(id, n) for n, id in enumerate("abc")])
        assert await letters.drop("feed/bill/0", ["a", "none", "c", "a"]) == 2
        assert await letters.drop("feed/bill/0", ["a"]) == 0
        assert await letters.drop("feed/none/0", ["b"]) == 0
        assert [found.id for found in await letters.page("feed/bill/0", -1, 10)] == ["b"]

    # --- release --------------------------------------------------------------------------------------------

    async def test_release_puts_messages_back(self, letters: DeadLetters, database: Database) -> None:
        need(database, "queue")
        queue = database.queue(QUEUE)
        sent = replace(message("a", body=b"\0body", key="k", priority=0), headers={"h": "v"})
        await queue.send([sent, message("b")])
        await bury(queue)
        assert await letters.release("queue/jobs", ["a", "none", "a"]) == 1
        back = await take_one(queue)
        assert (back.id, back.body, back.key, dict(back.headers)) == ("a", b"\0body", "k", {"h": "v"})
        assert (back.attempt, back.deliveries) == (0, 1)
        assert [found.id for found in await letters.page("queue/jobs", -1, 10)] == ["b"]
        assert await letters.release("queue/jobs", ["a"]) == 0
        assert await take(queue) == []

    async def test_what_was_released_may_die_again(self, letters: DeadLetters, database: Database) -> None:
        need(database, "queue")
        queue = database.queue(QUEUE)
        await queue.send([message("a")])
        for n in range(3):
            await settle_one(queue, await take_one(queue), Dead(f"time {n}"))
            (found,) = await letters.page("queue/jobs", -1, 10)
            assert (found.id, found.reason, found.attempts) == ("a", f"time {n}", 1)
            assert await letters.release("queue/jobs", ["a"]) == 1

    async def test_release_keeps_the_priority(self, letters: DeadLetters, database: Database) -> None:
        need(database, "queue", "priority")
        queue = database.queue(QUEUE)
        await queue.send([message("a", priority=7)])
        await bury(queue)
        await letters.release("queue/jobs", ["a"])
        await queue.send([message("b", priority=1)])
        assert [(delivery.id, delivery.priority) for delivery in await take(queue)] == [("a", 7), ("b", 1)]

    async def test_a_waiting_receive_is_woken_by_a_release(
        self, bench: Bench, letters: DeadLetters, database: Database, advance: Advance, tick: float
    ) -> None:
        need(database, "queue")
        queue = database.queue(QUEUE)
        await queue.send([message("a")])
        await bury(queue)
        waiting = asyncio.create_task(queue.receive("b", 10, 1.0))
        await advance(tick)
        await letters.release("queue/jobs", ["a"])
        (delivery,) = await bench.soon(waiting)
        assert delivery.id == "a"

    async def test_two_at_once_release_once(self, letters: DeadLetters, database: Database, peer: Database) -> None:
        need(database, "queue")
        queue = database.queue(QUEUE)
        await queue.send([message(str(n)) for n in range(10)])
        ids = await bury(queue)
        both = (letters, peer.dead_letters())
        released = await asyncio.gather(*(both[n % 2].release("queue/jobs", ids) for n in range(4)))
        assert sum(released) == 10
        assert sorted(delivery.id for delivery in await take(queue)) == sorted(ids)

    async def test_changes_cannot_be_released_into_a_queue(self, letters: DeadLetters) -> None:
        await letters.put([letter("a", 1)])
        with pytest.raises(ConfigurationError):
            await letters.release("feed/bill/0", ["a"])
        assert list(await letters.page("feed/bill/0", -1, 10)) == [letter("a", 1)]

    async def test_dead_messages_have_an_order_to_page_by(self, letters: DeadLetters, database: Database) -> None:
        need(database, "queue")
        queue = database.queue(QUEUE)
        await queue.send([message(str(n)) for n in range(12)])
        await bury(queue)
        seen: list[DeadLetter] = []
        while page := await letters.page("queue/jobs", seen[-1].order if seen else -1, 5):
            seen += page
            assert len({found.id for found in seen}) == len(seen)
        assert sorted(found.id for found in seen) == sorted(str(n) for n in range(12))
        assert await letters.count("queue/") == {"queue/jobs": 12}


async def bury(queue: Queue) -> list[str]:
    """Make everything in the queue a dead letter; the ids."""
    taken = await take(queue)
    for delivery in taken:
        await settle_one(queue, delivery, Dead("hopeless"))
    return [delivery.id for delivery in taken]
