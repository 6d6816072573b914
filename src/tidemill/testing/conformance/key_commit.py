"""Conformance of `Database.commit` for document writes of one key: what `commit` and `key_commit` share."""

from __future__ import annotations

import asyncio

import pytest

from tidemill.errors import BadOption, ConfigurationError
from tidemill.model import (
    Commit,
    Committed,
    Conflicted,
    Delete,
    Expect,
    Finished,
    Gone,
    Mismatch,
    Stored,
    Swap,
    Write,
    Written,
)
from tidemill.ports import Database
from tidemill.testing.conformance.bench import COLLECTION, Bench, need
from tidemill.testing.conformance.suite import Suite, message, put, read_on, start_all


async def commit_writes(database: Database, *writes: Write) -> object:
    """The result of a commit of these writes."""
    (result,) = await database.commit([Commit(writes)])
    return result


def etag(written: Written) -> str:
    """Of what was written."""
    assert isinstance(written, Stored)
    return written.etag


class KeyCommitConformance(Suite):
    """Documents that are written together or not at all. All of them have the key "k"."""

    @pytest.fixture
    def many(self, bench: Bench) -> Bench:
        """A bench whose backend writes several documents of a key in one step."""
        bench.needs("documents", "feed", "commit" if "commit" in bench.database.features else "key_commit")
        return bench

    async def test_documents_of_one_key_in_one_step(self, many: Bench) -> None:
        documents = many.documents
        await documents.write([put("a", n=1), put("gone", n=1)])
        cursors = await start_all(many.feed, "now")
        writes = (put("a", n=2), put("b", n=2, expect=Expect.NOTHING), Delete(COLLECTION.name, "gone", "k"))
        result = await commit_writes(many.database, *writes)
        assert isinstance(result, Committed)
        a, b, gone = await documents.get(["a", "b", "gone"])
        assert (result.written, gone) == ((a, b, Gone("gone")), None)
        changed = {change.document for change in await read_on(many.feed, cursors) if change.kind == "put"}
        assert changed == {"a", "b"}

    async def test_etags_guard_the_whole_of_it(self, many: Bench) -> None:
        documents = many.documents
        first, second = await documents.write([put("a", n=1), put("b", n=1)])
        (newer,) = await documents.write([put("b", n=2)])
        assert isinstance(newer, Stored)
        writes = (put("a", n=9, expect=etag(first)), put("c", n=9), put("b", n=9, expect=etag(second)))
        assert await commit_writes(many.database, *writes) == Conflicted(Mismatch("b", newer))
        assert list(await documents.get(["a", "b", "c"])) == [first, newer, None]
        right = (put("a", n=3, expect=etag(first)), Delete(COLLECTION.name, "b", "k", etag(newer)))
        assert isinstance(await commit_writes(many.database, *right), Committed)
        assert list(await documents.get(["b"])) == [None]

    async def test_a_create_of_what_is_there_undoes_all(self, many: Bench) -> None:
        documents = many.documents
        (there,) = await documents.write([put("there", n=1)])
        assert isinstance(there, Stored)
        cursors = await start_all(many.feed, "now")
        writes = (put("new", n=1), Delete(COLLECTION.name, "there", "k"), put("x", n=1, expect="no-such-etag"))
        assert await commit_writes(many.database, *writes) == Conflicted(Mismatch("x", None))
        again = (put("new", n=1), put("there", n=2, expect=Expect.NOTHING))
        assert await commit_writes(many.database, *again) == Conflicted(Mismatch("there", there))
        assert list(await documents.get(["new", "there", "x"])) == [None, there, None]
        assert await read_on(many.feed, cursors) == []

    async def test_a_delete_of_what_is_not_there_is_none(self, many: Bench) -> None:
        none = Delete(COLLECTION.name, "none", "k")
        result = await commit_writes(many.database, put("a", n=1), none, Delete(COLLECTION.name, "nor-this"))
        assert isinstance(result, Committed)
        assert result.written[1:] == (Gone("none"), Gone("nor-this"))
        assert await commit_writes(many.database, none) == Committed((Gone("none"),))
        guarded = Delete(COLLECTION.name, "none", "k", etag(result.written[0]))
        assert await commit_writes(many.database, put("b", n=1), guarded) == Conflicted(Mismatch("none", None))
        assert await commit_writes(many.database, guarded) == Conflicted(Mismatch("none", None))
        assert list(await many.documents.get(["b"])) == [None]

    async def test_later_writes_of_a_commit_see_the_earlier_ones(self, many: Bench) -> None:
        writes = (
            put("a", n=1),
            Delete(COLLECTION.name, "a", "k"),
            put("a", n=2, expect=Expect.NOTHING),
            put("b", n=1, expect=Expect.NOTHING),
            Delete(COLLECTION.name, "b", "k"),
        )
        result = await commit_writes(many.database, *writes)
        assert isinstance(result, Committed)
        a, b = await many.documents.get(["a", "b"])
        assert a is not None
        assert (a, b) == (result.written[2], None)

    async def test_commits_of_one_call_stand_alone(self, many: Bench) -> None:
        await many.documents.write([put("there", n=1)])
        results = await many.database.commit(
            [
                Commit((put("a", n=1),)),
                Commit(),
                Commit((put("b", n=1), put("there", n=2, expect=Expect.NOTHING))),
                Commit((put("c", key="other", n=1),)),
            ]
        )
        assert [type(result) for result in results] == [Committed, Committed, Conflicted, Committed]
        assert [one is None for one in await many.documents.get(["a", "b", "c"])] == [False, True, False]
        assert list(await many.database.commit([])) == []

    async def test_of_many_at_once_one_wins(self, many: Bench, peer: Database) -> None:
        both = (many.database, peer)
        commits = [
            both[n % 2].commit([Commit((put(f"d{n}", n=n), put("one", n=n, expect=Expect.NOTHING)))]) for n in range(10)
        ]
        results = [result for (result,) in await asyncio.gather(*commits)]
        winners = [n for n, result in enumerate(results) if isinstance(result, Committed)]
        assert len(winners) == 1
        documents = await many.documents.get([f"d{n}" for n in range(10)])
        assert [n for n, document in enumerate(documents) if document] == winners

    async def test_what_is_more_than_that_is_refused_before_anything_is_written(self, many: Bench) -> None:
        if "commit" in many.database.features:
            pytest.skip("this backend commits more than documents of one key")
        assert "commit" not in many.database.features
        need(many.database, "store")
        good = Commit((put("good", n=1),))
        for bad in (
            Commit((put("a", n=1),), messages=(message("m"),)),
            Commit((put("a", n=1),), swaps=(Swap("record", None, {}),)),
            Commit((put("a", n=1),), finished=(Finished("lease/x/0", 1, "n", "c"),)),
            Commit((put("a", n=1), put("b", key="other", n=1))),
        ):
            with pytest.raises((ConfigurationError, BadOption)):
                await many.database.commit([good, bad])
        assert list(await many.documents.get(["good", "a", "b"])) == [None, None, None]
        assert list(await many.store.get(["record"])) == [None]
