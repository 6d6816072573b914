"""Conformance of `tidemill.ports.Documents`."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Literal, TypeAlias

import pytest

from tidemill.errors import ConfigurationError
from tidemill.model import Delete, Expect, Filter, Gone, Json, Mismatch, Put, Query, Stored
from tidemill.ports import Database, Documents
from tidemill.testing.conformance.bench import COLLECTION
from tidemill.testing.conformance.suite import Suite, put

Op: TypeAlias = Literal["=", "<", "<=", ">", ">="]


def delete(id: str, *, expect: Expect | str = Expect.ANYTHING, key: str | None = "k") -> Delete:
    return Delete(COLLECTION.name, id, key, expect)


def fields(document: Stored | None) -> Json:
    """The fields of a document; None if there is none."""
    found: Json = None if document is None else json.loads(document.body)
    return found


async def stored(documents: Documents, *writes: Put) -> list[Stored]:
    """Writes that must succeed."""
    replies = await documents.write(writes)
    found = [reply for reply in replies if isinstance(reply, Stored)]
    assert len(found) == len(writes), replies
    return found


async def ids(documents: Documents, query: Query) -> list[str]:
    """The ids on all pages of a query."""
    found: list[str] = []
    while True:
        rows = await documents.query(query)
        assert len(rows.documents) <= query.limit
        found += [document.id for document in rows.documents]
        assert len(set(found)) == len(found)
        if rows.continuation is None:
            return found
        query = replace(query, continuation=rows.continuation)


class DocumentsConformance(Suite):
    """The documents of one collection."""

    async def test_get_answers_in_the_order_of_the_ids(self, documents: Documents) -> None:
        a, b = await stored(documents, put("a", n=1), put("b", key="other", n=2))
        assert list(await documents.get(["b", "none", "a", "b"])) == [b, None, a, b]
        assert (a.id, a.key, b.id, b.key) == ("a", "k", "b", "other")
        assert (fields(a), fields(b)) == ({"n": 1}, {"n": 2})
        assert list(await documents.get([])) == []
        assert list(await documents.write([])) == []

    async def test_create_only_if_there_is_none(self, documents: Documents) -> None:
        (first,) = await stored(documents, put("a", n=1, expect=Expect.NOTHING))
        assert list(await documents.write([put("a", n=2, expect=Expect.NOTHING)])) == [Mismatch("a", first)]
        assert list(await documents.get(["a"])) == [first]

    async def test_put_creates_or_replaces(self, documents: Documents) -> None:
        (first,) = await stored(documents, put("a", n=1))
        (second,) = await stored(documents, put("a", n=2))
        assert first.etag != second.etag
        assert list(await documents.get(["a"])) == [second]

    async def test_replace_needs_the_etag(self, documents: Documents) -> None:
        (first,) = await stored(documents, put("a", n=1))
        (second,) = await stored(documents, put("a", n=2, expect=first.etag))
        assert list(await documents.write([put("a", n=3, expect=first.etag)])) == [Mismatch("a", second)]
        assert list(await documents.get(["a"])) == [second]

    async def test_an_etag_of_nothing_is_a_mismatch(self, documents: Documents) -> None:
        (a,) = await stored(documents, put("a", n=1))
        bad = put("a", n=2, expect="no such etag")
        replies = await documents.write([put("b", n=1, expect=a.etag), delete("b", expect=a.etag), bad])
        assert list(replies) == [Mismatch("b", None), Mismatch("b", None), Mismatch("a", a)]
        assert list(await documents.get(["a", "b"])) == [a, None]

    async def test_delete_of_a_document(self, documents: Documents) -> None:
        await stored(documents, put("a", n=1), put("b", n=2))
        replies = await documents.write([delete("a", key=None), delete("b"), delete("none")])
        assert list(replies) == [Gone("a"), Gone("b"), Gone("none")]
        assert list(await documents.get(["a", "b"])) == [None, None]

    async def test_delete_with_an_etag_needs_that_etag(self, documents: Documents) -> None:
        first, second = await stored(documents, put("a", n=1), put("a", n=2))
        assert list(await documents.write([delete("a", expect=first.etag)])) == [Mismatch("a", second)]
        assert list(await documents.get(["a"])) == [second]
        assert list(await documents.write([delete("a", expect=second.etag)])) == [Gone("a")]

    async def test_an_etag_never_comes_again(self, documents: Documents) -> None:
        seen: list[str] = []
        for _ in range(5):  # the same body each time, and deleted between
            seen += [one.etag for one in await stored(documents, put("a", n=1), put("a", n=1))]
            await documents.write([delete("a")])
        assert len(set(seen)) == 10

    async def test_each_write_is_by_itself_and_sees_the_earlier_ones(self, documents: Documents) -> None:
        replies = await documents.write(
            [
                put("a", n=1, expect=Expect.NOTHING),
                put("a", n=2, expect=Expect.NOTHING),
                put("b", n=1),
                delete("a"),
                put("a", n=3, expect=Expect.NOTHING),
            ]
        )
        assert [type(reply) for reply in replies] == [Stored, Mismatch, Stored, Gone, Stored]
        assert isinstance(replies[1], Mismatch)
        assert replies[1].current == replies[0]
        assert [fields(document) for document in await documents.get(["a", "b"])] == [{"n": 3}, {"n": 1}]

    async def test_of_thirty_creates_at_once_one_wins(self, documents: Documents, peer: Database) -> None:
        both = (documents, peer.documents(COLLECTION))
        writes = [both[n % 2].write([put("a", n=n, expect=Expect.NOTHING)]) for n in range(30)]
        replies = [reply for (reply,) in await asyncio.gather(*writes)]
        winners = [reply for reply in replies if isinstance(reply, Stored)]
        assert len(winners) == 1
        assert list(await documents.get(["a"])) == winners

    async def test_no_increment_of_a_document_is_lost(self, documents: Documents, peer: Database) -> None:
        (first,) = await stored(documents, put("a", n=0))

        async def count(mine: Documents) -> None:
            for _ in range(5):
                found: Stored | None = first
                while found is not None:
                    n = json.loads(found.body)["n"]
                    (reply,) = await mine.write([put("a", n=n + 1, expect=found.etag)])
                    found = reply.current if isinstance(reply, Mismatch) else None

        await asyncio.gather(*(count(mine) for mine in [documents, peer.documents(COLLECTION)] * 3))
        assert fields((await documents.get(["a"]))[0]) == {"n": 30}

    async def test_a_document_may_change_its_key(self, documents: Documents) -> None:
        await stored(documents, put("a", key="one", n=1), put("a", key="two", n=2))
        (found,) = await documents.get(["a"])
        assert found is not None
        assert (found.key, fields(found)) == ("two", {"n": 2})
        assert await ids(documents, Query(key="one")) == []

    async def test_ids_and_keys_are_any_text(self, documents: Documents) -> None:
        odd = ["\u65e5\u672c", "\U0001f600", "a'b\"c%_", "A", "a b"]
        made = await stored(documents, *(put(id, key=id, label=id) for id in odd))
        assert list(await documents.get(odd)) == made
        assert await ids(documents, Query(key="\u65e5\u672c")) == ["\u65e5\u672c"]
        assert await ids(documents, Query(filters=(Filter("label", "=", "a'b\"c%_"),))) == ["a'b\"c%_"]

    # --- queries --------------------------------------------------------------------------------------------

    async def test_query_goes_by_id_unless_ordered(self, documents: Documents) -> None:
        await stored(documents, *(put(id, n=1) for id in ("c", "a", "d", "b")))
        for limit in (1, 3, 100):
            assert await ids(documents, Query(limit=limit)) == ["a", "b", "c", "d"]
            assert await ids(documents, Query(limit=limit, descending=True)) == ["d", "c", "b", "a"]

    async def test_query_of_one_key(self, documents: Documents) -> None:
        await stored(documents, *(put(f"d{n}", key=f"k{n % 2}", n=n) for n in range(6)))
        assert await ids(documents, Query(key="k1")) == ["d1", "d3", "d5"]
        assert await ids(documents, Query(key="k1", limit=1)) == ["d1", "d3", "d5"]
        assert await ids(documents, Query(key="k1", filters=(Filter("n", ">", 1),))) == ["d3", "d5"]
        assert await ids(documents, Query(key="none")) == []

    @pytest.mark.parametrize(
        ("op", "value", "wanted"),
        [
            ("=", 5, ["d5"]),
            ("<", 2, ["d0", "d1"]),
            ("<=", 2, ["d0", "d1", "d2"]),
            (">", 9, ["d10", "d11"]),
            (">=", 9, ["d10", "d11", "d9"]),
            (">", 10.5, ["d11"]),
            ("=", "5", []),
            (">", "5", ["text"]),
        ],
    )
    async def test_query_by_number(
        self, documents: Documents, op: Op, value: int | float | str, wanted: list[str]
    ) -> None:
        await stored(documents, *(put(f"d{n}", n=n) for n in range(12)), put("text", n="7"), put("missing", label="x"))
        assert await ids(documents, Query(filters=(Filter("n", op, value),))) == wanted

    @pytest.mark.parametrize(
        ("op", "value", "wanted"),
        [
            ("=", "b", ["b"]),
            ("<", "b", ["a"]),
            ("<=", "b", ["a", "b"]),
            (">", "b", ["ba", "c"]),
            (">=", "b", ["b", "ba", "c"]),
            ("=", 1, []),
            ("<", 1, []),
        ],
    )
    async def test_query_by_text(self, documents: Documents, op: Op, value: str | int, wanted: list[str]) -> None:
        await stored(documents, *(put(label, label=label) for label in ("a", "b", "ba", "c")))
        assert await ids(documents, Query(filters=(Filter("label", op, value),))) == wanted

    async def test_query_by_truth(self, documents: Documents) -> None:
        await stored(documents, put("a", label=True), put("b", label=False), put("c", n=1))
        assert await ids(documents, Query(filters=(Filter("label", "=", True),))) == ["a"]
        assert await ids(documents, Query(filters=(Filter("label", "=", False),))) == ["b"]

    async def test_query_with_all_filters(self, documents: Documents) -> None:
        await stored(documents, *(put(f"d{n}", n=n, label="even" if n % 2 == 0 else "odd") for n in range(10)))
        query = Query(filters=(Filter("n", ">=", 3), Filter("n", "<", 8), Filter("label", "=", "even")))
        assert await ids(documents, query) == ["d4", "d6"]
        assert await ids(documents, replace(query, limit=1, order="n", descending=True)) == ["d6", "d4"]

    @pytest.mark.parametrize("limit", [1, 3, 100])
    async def test_query_ordered_by_number(self, documents: Documents, limit: int) -> None:
        numbers = [10, 9, 2.5, -1, 2, 100]
        await stored(documents, *(put(str(n), n=n) for n in numbers))
        wanted = [str(n) for n in sorted(numbers)]
        assert await ids(documents, Query(order="n", limit=limit)) == wanted
        assert await ids(documents, Query(order="n", limit=limit, descending=True)) == wanted[::-1]

    async def test_query_ordered_by_text(self, documents: Documents) -> None:
        await stored(documents, *(put(f"d{n}", label=label) for n, label in enumerate(["b", "a", "C", "\u00e4"])))
        assert await ids(documents, Query(order="label", limit=1)) == ["d2", "d1", "d0", "d3"]

    @pytest.mark.parametrize("descending", [False, True])
    async def test_equals_and_gaps_are_on_one_page_each(self, documents: Documents, descending: bool) -> None:
        all_ids = [f"d{n:02d}" for n in range(20)]
        await stored(documents, *(put(id, n=n // 6) if n < 15 else put(id) for n, id in enumerate(all_ids)))
        found = await ids(documents, Query(order="n", descending=descending, limit=4))
        assert sorted(found) == all_ids
        ranks = [int(id[1:]) // 6 for id in found if id < "d15"]
        assert ranks == sorted(ranks, reverse=descending)

    @pytest.mark.parametrize("order", [None, "n"])
    async def test_pages_hold_while_others_come_and_go(self, documents: Documents, order: str | None) -> None:
        stay = [f"d{n:02d}" for n in range(0, 40, 2)]
        await stored(documents, *(put(id, n=int(id[1:])) for id in stay), put("d01", n=1))
        found: list[str] = []
        query = Query(order=order, limit=4)
        for n in range(100):
            rows = await documents.query(query)
            found += [document.id for document in rows.documents]
            if rows.continuation is None:
                break
            query = replace(query, continuation=rows.continuation)
            await documents.write([delete("d01"), put(f"d{2 * n + 3:02d}", n=2 * n + 3)])
        assert [id for id in found if id in stay] == stay

    async def test_a_field_that_is_not_declared_is_refused(self, documents: Documents) -> None:
        for query in (Query(filters=(Filter("colour", "=", 1),)), Query(order="colour")):
            with pytest.raises(ConfigurationError, match="colour"):
                await documents.query(query)
