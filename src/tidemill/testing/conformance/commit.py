"""Conformance of `tidemill.ports.Database.commit`: all of it or nothing of it."""

from __future__ import annotations

import asyncio
import json

import pytest

from tidemill.model import (
    Commit,
    Committed,
    Conflicted,
    Dead,
    Delete,
    Done,
    Expect,
    Fenced,
    Finished,
    Gone,
    Later,
    Mismatch,
    Outcome,
    Page,
    Record,
    Stale,
    Stored,
    Swap,
)
from tidemill.ports import Database
from tidemill.testing.conformance.bench import Bench
from tidemill.testing.conformance.suite import Advance, Suite, message, put, read_on, start_all, take, take_one


async def commit_one(database: Database, commit: Commit) -> object:
    """The result of a single commit."""
    (result,) = await database.commit([commit])
    return result


def everything(*outcomes: Outcome, finished: tuple[Finished, ...] = ()) -> Commit:
    """A commit that touches every part."""
    return Commit(
        (put("new", n=1, expect=Expect.NOTHING),),
        (message("sent"),),
        outcomes,
        (Swap("record", None, {"n": 1}),),
        finished,
    )


async def has_nothing(whole: Bench) -> None:
    """Of what `everything` would write nothing is there."""
    assert list(await whole.documents.get(["new"])) == [None]
    assert list(await whole.store.get(["record"])) == [None]
    assert await take(whole.queue) == []
    assert await read_on(whole.feed, await start_all(whole.feed, "beginning")) == []
    assert list(await whole.store.scan("finished/", "", 10)) == []


class CommitConformance(Suite):
    """What takes effect together or not at all."""

    @pytest.fixture
    def whole(self, bench: Bench) -> Bench:
        """A bench whose backend has all that a commit can touch."""
        bench.needs("commit", "store", "queue", "documents", "feed")
        return bench

    @pytest.fixture
    async def lease(self, whole: Bench) -> str:
        """The key of a lease record at epoch 3, nonce "n3"."""
        await whole.store.swap([Swap("lease/bill/0", None, {"epoch": 3, "nonce": "n3", "owner": "m"})])
        return "lease/bill/0"

    # --- all ------------------------------------------------------------------------------------------------

    async def test_all_of_it(self, whole: Bench, lease: str) -> None:
        queue, documents = whole.queue, whole.documents
        await queue.send([message("work")])
        cursors = await start_all(whole.feed, "now")
        outcome = Outcome(await take_one(queue), Done())
        result = await commit_one(whole.database, everything(outcome, finished=(Finished(lease, 3, "n3", "c1"),)))
        (document,), (record,) = await documents.get(["new"]), await whole.store.get(["record"])
        assert document is not None
        assert record is not None
        assert result == Committed((document,), ("sent",), (record,))
        assert (json.loads(document.body), record.value) == ({"n": 1}, {"n": 1})
        assert [delivery.id for delivery in await take(queue)] == ["sent"]
        assert [change.document for change in await read_on(whole.feed, cursors)] == ["new"]
        (finished,) = await whole.store.scan("finished/", "", 10)
        assert finished.key == f"finished/{lease}/c1"

    async def test_results_stand_in_the_order_of_the_parts(self, whole: Bench) -> None:
        documents, store = whole.documents, whole.store
        await documents.write([put("gone", n=1)])
        (old,) = await store.swap([Swap("old", None, {"n": 1})])
        assert isinstance(old, Record)
        await whole.queue.send([message("first", dedup="k")])
        result = await commit_one(
            whole.database,
            Commit(
                (put("a", n=1), Delete("things", "gone", "k"), put("b", n=2)),
                (message("x"), message("y")),
                swaps=(Swap("old", old.version, None), Swap("new", None, {"n": 2})),
            ),
        )
        assert isinstance(result, Committed)
        assert [type(written) for written in result.written] == [Stored, Gone, Stored]
        assert [written.id if isinstance(written, Stored) else written.key for written in result.written] == [
            "a",
            "gone",
            "b",
        ]
        assert result.sent == ("x", "y")
        assert [type(swapped) for swapped in result.swapped] == [Gone, Record]
        assert not result.repeated

    async def test_an_empty_commit(self, whole: Bench) -> None:
        assert await commit_one(whole.database, Commit()) == Committed()
        assert list(await whole.database.commit([])) == []

    async def test_a_duplicate_message_has_the_id_of_the_first(self, whole: Bench) -> None:
        whole.needs("dedup")
        queue = whole.queue
        await queue.send([message("first", dedup="k")])
        result = await commit_one(whole.database, Commit(messages=(message("second", dedup="k"), message("third"))))
        assert result == Committed(sent=("first", "third"))
        assert sorted(delivery.id for delivery in await take(queue)) == ["first", "third"]

    async def test_outcomes_of_all_kinds(self, whole: Bench) -> None:
        whole.needs("dead_letters")
        queue = whole.queue
        await queue.send([message(id) for id in ("done", "later", "dead", "back")])
        held = {delivery.id: delivery for delivery in await take(queue)}
        outcomes = (
            Outcome(held["done"], Done()),
            Outcome(held["later"], Later(0.0, "x")),
            Outcome(held["dead"], Dead("y"), error="z"),
            Outcome(held["back"], Done(), started=False),
        )
        assert await commit_one(whole.database, Commit(outcomes=outcomes)) == Committed()
        assert {(d.id, d.attempt, d.reason) for d in await take(queue)} == {("later", 1, "x"), ("back", 0, "")}
        (letter,) = await whole.letters.page("queue/jobs", -1, 10)
        assert (letter.id, letter.reason, letter.error, letter.attempts) == ("dead", "y", "z", 1)

    async def test_commits_of_one_call_are_independent(self, whole: Bench) -> None:
        await whole.documents.write([put("there", n=1)])
        results = await whole.database.commit(
            [
                Commit(writes=(put("a", n=1),)),
                Commit(writes=(put("b", n=1), put("there", n=2, expect=Expect.NOTHING))),
                Commit(writes=(put("c", n=1),)),
            ]
        )
        assert [type(result) for result in results] == [Committed, Conflicted, Committed]
        a, b, c = await whole.documents.get(["a", "b", "c"])
        assert (a is None, b is None, c is None) == (False, True, False)

    # --- or nothing -----------------------------------------------------------------------------------------

    async def test_a_mismatch_undoes_all(self, whole: Bench) -> None:
        queue, documents = whole.queue, whole.documents
        await queue.send([message("work")])
        held = await take_one(queue)
        commit = everything(Outcome(held, Done()))
        bad = put("absent", n=1, expect="no-such-etag")
        result = await commit_one(
            whole.database, Commit((*commit.writes, bad), commit.messages, commit.outcomes, commit.swaps)
        )
        assert result == Conflicted(Mismatch("absent", None))
        await has_nothing(whole)
        assert list(await queue.extend([held])) == [held.deadline], "the claim stands"
        assert list(await documents.get(["absent"])) == [None]

    async def test_a_mismatch_undoes_replaced_and_deleted_documents(self, whole: Bench) -> None:
        documents, feed = whole.documents, whole.feed
        before = await documents.write([put("a", n=1), put("b", n=1), put("c", n=1)])
        cursors = await start_all(feed, "now")
        writes = (put("a", n=2), Delete("things", "b", "k"), put("d", n=2), put("c", n=2, expect=Expect.NOTHING))
        assert await commit_one(whole.database, Commit(writes)) == Conflicted(Mismatch("c", written(before[2])))
        assert list(await documents.get(["a", "b", "c", "d"])) == [*before, None]
        assert await read_on(feed, cursors) == []

    async def test_a_stale_swap_undoes_all(self, whole: Bench) -> None:
        (there,) = await whole.store.swap([Swap("there", None, {"n": 0})])
        assert isinstance(there, Record)
        commit = everything()
        swaps = (*commit.swaps, Swap("there", None, {"n": 9}))
        result = await commit_one(whole.database, Commit(commit.writes, commit.messages, swaps=swaps))
        assert result == Conflicted(Stale("there", there))
        await has_nothing(whole)
        assert list(await whole.store.get(["there"])) == [there]

    async def test_a_stale_swap_undoes_replaced_and_deleted_records(self, whole: Bench) -> None:
        made = await whole.store.swap([Swap("a", None, {"n": 1}), Swap("b", None, {"n": 1})])
        a, b = (record for record in made if isinstance(record, Record))
        swaps = (Swap("a", a.version, {"n": 2}), Swap("b", b.version, None), Swap("c", "1", {"n": 1}))
        assert await commit_one(whole.database, Commit(swaps=swaps)) == Conflicted(Stale("c", None))
        assert list(await whole.store.get(["a", "b", "c"])) == [a, b, None]

    async def test_a_lost_claim_fences(self, whole: Bench, lease: str) -> None:
        queue = whole.queue
        await queue.send([message("work"), message("other")])
        lost, held = await take(queue)
        await queue.settle([Outcome(lost, Later(3600.0))])
        outcomes = (Outcome(held, Done()), Outcome(lost, Done()))
        assert await commit_one(whole.database, everything(*outcomes)) == Fenced()
        await has_nothing(whole)
        assert list(await queue.extend([held])) == [held.deadline]
        depth = await queue.depth()
        assert (depth.delayed, depth.claimed) == (1, 1)

    @pytest.mark.parametrize(
        ("key", "epoch", "nonce"),
        [("lease/bill/0", 2, "n3"), ("lease/bill/0", 4, "n3"), ("lease/bill/0", 3, "n2"), ("lease/bill/1", 3, "n3")],
        ids=["older", "newer", "nonce", "no lease"],
    )
    async def test_a_lost_lease_fences(self, whole: Bench, lease: str, key: str, epoch: int, nonce: str) -> None:
        assert key.rpartition("/")[0] == lease.rpartition("/")[0]
        queue = whole.queue
        await queue.send([message("work")])
        held = await take_one(queue)
        finished = (Finished(lease, 3, "n3", "c1"), Finished(key, epoch, nonce, "c2"))
        assert await commit_one(whole.database, everything(Outcome(held, Done()), finished=finished)) == Fenced()
        await has_nothing(whole)
        assert list(await queue.extend([held])) == [held.deadline]

    # --- once -----------------------------------------------------------------------------------------------

    async def test_a_finished_change_is_applied_once(self, whole: Bench, lease: str) -> None:
        queue, documents = whole.queue, whole.documents
        commit = Commit((put("new", n=1),), (message("sent"),), finished=(Finished(lease, 3, "n3", "c1"),))
        first = await commit_one(whole.database, commit)
        assert isinstance(first, Committed)
        assert not first.repeated
        stored = await documents.get(["new"])
        assert len(await take(queue)) == 1
        again = Commit((put("new", n=2),), (message("sent again"),), finished=commit.finished)
        second = await commit_one(whole.database, again)
        assert isinstance(second, Committed)
        assert second.repeated
        assert list(await documents.get(["new"])) == list(stored)
        assert await take(queue) == []

    async def test_another_change_or_lease_is_another_row(self, whole: Bench, lease: str) -> None:
        await whole.store.swap([Swap("lease/bill/1", None, {"epoch": 1, "nonce": "n1"})])
        rows = (Finished(lease, 3, "n3", "c1"), Finished(lease, 3, "n3", "c2"), Finished("lease/bill/1", 1, "n1", "c1"))
        results = await whole.database.commit([Commit(finished=(row,)) for row in rows])
        assert [result for result in results if isinstance(result, Committed) and not result.repeated] == list(results)
        keys = [record.key for record in await whole.store.scan("finished/", "", 10)]
        assert keys == [f"finished/{row.lease}/{row.change}" for row in rows]

    async def test_a_finished_row_is_a_record_like_others(self, whole: Bench, lease: str) -> None:
        row = Finished(lease, 3, "n3", "c1")
        await commit_one(whole.database, Commit(finished=(row,)))
        (record,) = await whole.store.scan(f"finished/{lease}/", "", 10)
        assert list(await whole.store.swap([Swap(record.key, record.version, None)])) == [Gone(record.key)]
        result = await commit_one(whole.database, Commit(finished=(row,)))
        assert isinstance(result, Committed)
        assert not result.repeated

    async def test_a_repeated_settle_has_no_effect_twice(self, whole: Bench) -> None:
        """A commit whose reply was lost: the second says fenced or repeated, and writes nothing."""
        queue, documents = whole.queue, whole.documents
        await queue.send([message("work")])
        outcome = Outcome(await take_one(queue), Done())
        await commit_one(whole.database, Commit((put("a", n=1),), (message("sent"),), (outcome,)))
        before = await documents.get(["a"])
        assert len(await take(queue)) == 1
        result = await commit_one(whole.database, Commit((put("a", n=1),), (message("more"),), (outcome,)))
        assert result == Fenced() or (isinstance(result, Committed) and result.repeated)
        assert list(await documents.get(["a"])) == list(before)
        assert await take(queue) == []

    async def test_of_twenty_commits_at_once_one_wins(self, whole: Bench, peer: Database) -> None:
        both = (whole.database, peer)
        commits = [
            both[n % 2].commit([Commit((put(f"d{n}", n=n),), swaps=(Swap("record", None, {"n": n}),))])
            for n in range(20)
        ]
        results = [result for (result,) in await asyncio.gather(*commits)]
        winners = [n for n, result in enumerate(results) if isinstance(result, Committed)]
        assert len(winners) == 1
        assert sum(isinstance(result, Conflicted) for result in results) == 19
        (record,) = await whole.store.get(["record"])
        assert record is not None
        assert record.value == {"n": winners[0]}
        documents = await whole.documents.get([f"d{n}" for n in range(20)])
        assert [n for n, document in enumerate(documents) if document] == winners

    # --- waking ---------------------------------------------------------------------------------------------

    async def test_a_commit_wakes_who_waits(self, whole: Bench, peer: Database, advance: Advance, tick: float) -> None:
        cursors = await start_all(whole.feed, "now")
        receiving = asyncio.create_task(whole.queue.receive("a", 10, 1.0))
        reading = asyncio.create_task(whole.feed.read(cursors, 10, 1.0))
        await advance(tick)
        await commit_one(peer, everything())
        (delivery,) = await whole.soon(receiving)
        assert delivery.id == "sent"
        pages = await whole.soon(reading)
        assert [c.document for page in pages.values() if isinstance(page, Page) for c in page.changes] == ["new"]


def written(reply: object) -> Stored:
    """The document of a write that succeeded."""
    assert isinstance(reply, Stored)
    return reply
