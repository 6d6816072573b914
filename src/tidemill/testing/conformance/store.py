"""Conformance of `tidemill.ports.Store`."""

from __future__ import annotations

import asyncio

from tidemill.model import Gone, Json, Record, Stale, Swap
from tidemill.ports import Database, Store
from tidemill.testing.conformance.suite import Suite

ODD_KEYS = (
    "a",
    "a'b\"c",
    "a%",
    "a_",
    "a\\",
    "a/b c",
    "a\u00e9",
    "a\u65e5\u672c",
    "a\uffff",
    "a\U0001f600",  # behind a\uffff by code point, before it in UTF-16
    "A",
    "ab",
    "b",
    "\u00e4",
)


async def create(store: Store, *keys: str) -> dict[str, Record]:
    """Records that were not there, each with the value {"k": its key}."""
    made = await store.swap([Swap(key, None, {"k": key}) for key in keys])
    assert all(isinstance(record, Record) for record in made)
    return {record.key: record for record in made if isinstance(record, Record)}


class StoreConformance(Suite):
    """Small records under compare-and-swap."""

    async def test_get_answers_in_the_order_of_the_keys(self, store: Store) -> None:
        made = await create(store, "a", "b")
        assert list(await store.get(["b", "none", "a", "b"])) == [made["b"], None, made["a"], made["b"]]

    async def test_nothing_asked_nothing_given(self, store: Store) -> None:
        assert list(await store.get([])) == []
        assert list(await store.swap([])) == []
        assert list(await store.scan("", "", 10)) == []

    async def test_swap_creates_only_if_absent(self, store: Store) -> None:
        made = await create(store, "a")
        assert list(await store.swap([Swap("a", None, {"n": 2})])) == [Stale("a", made["a"])]
        assert list(await store.get(["a"])) == [made["a"]]

    async def test_swap_replaces_only_the_version_that_was_seen(self, store: Store) -> None:
        made = await create(store, "a")
        (second,) = await store.swap([Swap("a", made["a"].version, {"n": 2})])
        assert isinstance(second, Record)
        assert (second.key, second.value) == ("a", {"n": 2})
        assert second.version != made["a"].version
        assert list(await store.swap([Swap("a", made["a"].version, {"n": 3})])) == [Stale("a", second)]
        assert list(await store.get(["a"])) == [second]

    async def test_swap_of_a_version_of_nothing_is_stale(self, store: Store) -> None:
        swaps = [Swap("a", "1", {"n": 1}), Swap("b", "1", None)]
        assert list(await store.swap(swaps)) == [Stale("a", None), Stale("b", None)]
        assert list(await store.get(["a", "b"])) == [None, None]

    async def test_delete_of_a_record_needs_its_version(self, store: Store) -> None:
        first = (await create(store, "a"))["a"]
        (second,) = await store.swap([Swap("a", first.version, {"n": 2})])
        assert isinstance(second, Record)
        assert list(await store.swap([Swap("a", None, None)])) == [Stale("a", second)]
        assert list(await store.swap([Swap("a", first.version, None)])) == [Stale("a", second)]
        assert list(await store.swap([Swap("a", second.version, None)])) == [Gone("a")]
        assert list(await store.get(["a"])) == [None]
        assert list(await store.swap([Swap("a", second.version, None)])) == [Stale("a", None)]

    async def test_delete_of_nothing_that_expects_nothing_is_gone(self, store: Store) -> None:
        assert list(await store.swap([Swap("a", None, None)])) == [Gone("a")]

    async def test_each_swap_of_a_batch_is_by_itself(self, store: Store) -> None:
        made = await create(store, "a", "b", "c")
        await store.swap([Swap("b", made["b"].version, {"n": 1})])
        replies = await store.swap(
            [
                Swap("a", made["a"].version, {"n": 2}),
                Swap("b", made["b"].version, {"n": 2}),
                Swap("c", made["c"].version, None),
                Swap("d", None, {"n": 1}),
                Swap("e", None, None),
            ]
        )
        assert [type(reply) for reply in replies] == [Record, Stale, Gone, Record, Gone]
        assert [reply.key for reply in replies] == ["a", "b", "c", "d", "e"]
        values = [record and record.value for record in await store.get(["a", "b", "c", "d", "e"])]
        assert values == [{"n": 2}, {"n": 1}, None, {"n": 1}, None]

    async def test_two_swaps_of_one_record_in_one_batch_have_one_winner(self, store: Store) -> None:
        replies = await store.swap([Swap("a", None, {"n": 1}), Swap("a", None, {"n": 2})])
        assert sorted(type(reply).__name__ for reply in replies) == ["Record", "Stale"]

    async def test_a_version_never_comes_again(self, store: Store) -> None:
        seen: list[str] = []
        for _ in range(5):  # the same value each time, and deleted between
            (first,) = (await create(store, "a")).values()
            (second,) = await store.swap([Swap("a", first.version, first.value)])
            assert isinstance(second, Record)
            seen += [first.version, second.version]
            assert list(await store.swap([Swap("a", second.version, None)])) == [Gone("a")]
        assert len(set(seen)) == 10

    async def test_of_fifty_swaps_at_once_one_wins(self, store: Store, peer: Database) -> None:
        version = (await create(store, "a"))["a"].version
        both = (store, peer.store())
        swaps = [both[n % 2].swap([Swap("a", version, {"n": n})]) for n in range(50)]
        replies = [reply for (reply,) in await asyncio.gather(*swaps)]
        winners = [reply for reply in replies if isinstance(reply, Record)]
        assert len(winners) == 1
        assert sum(isinstance(reply, Stale) for reply in replies) == 49
        assert list(await store.get(["a"])) == winners

    async def test_no_increment_of_a_record_is_lost(self, store: Store, peer: Database) -> None:
        async def count(mine: Store) -> None:
            for _ in range(5):
                value, version = 0, None
                while isinstance(reply := (await mine.swap([Swap("a", version, {"n": value + 1})]))[0], Stale):
                    assert reply.current is not None, "stale brings what stands there now"
                    found = reply.current.value["n"]
                    assert isinstance(found, int)
                    value, version = found, reply.current.version

        await asyncio.gather(*(count(mine) for mine in [store, peer.store()] * 3))
        (record,) = await store.get(["a"])
        assert record is not None
        assert record.value == {"n": 30}

    async def test_scan_goes_by_key_from_after_on(self, store: Store) -> None:
        await create(store, "x/3", "x/1", "y/1", "x/2", "x", "w/9")

        async def scan(prefix: str, after: str, limit: int) -> list[str]:
            return [record.key for record in await store.scan(prefix, after, limit)]

        assert await scan("x/", "", 10) == ["x/1", "x/2", "x/3"]
        assert await scan("x/", "x/1", 10) == ["x/2", "x/3"]
        assert await scan("x/", "x/1", 1) == ["x/2"]
        assert await scan("x/", "x/1a", 10) == ["x/2", "x/3"]
        assert await scan("x/", "a", 10) == ["x/1", "x/2", "x/3"]
        assert await scan("x/", "y", 10) == []
        assert await scan("x/3", "", 10) == ["x/3"]
        assert await scan("", "", 10) == ["w/9", "x", "x/1", "x/2", "x/3", "y/1"]
        assert await scan("z", "", 10) == []

    async def test_scan_brings_whole_records(self, store: Store) -> None:
        made = await create(store, "a1", "a2")
        assert list(await store.scan("a", "", 10)) == [made["a1"], made["a2"]]

    async def test_scan_pages_through_everything_once(self, store: Store) -> None:
        keys = [f"p/{n:03d}" for n in range(137)]
        await create(store, *reversed(keys))
        seen: list[str] = []
        while page := await store.scan("p/", seen[-1] if seen else "", 20):
            assert len(page) <= 20
            seen += [record.key for record in page]
            assert len(set(seen)) == len(seen)
        assert seen == keys

    async def test_scan_has_every_record_that_is_there_all_the_time(self, store: Store) -> None:
        stay = [f"s/{n:02d}" for n in range(0, 40, 2)]
        last = (await create(store, *stay))["s/38"]
        seen: list[str] = []
        n = 0
        while page := await store.scan("s/", seen[-1] if seen else "", 4):
            seen += [record.key for record in page]
            assert len(set(seen)) == len(seen)
            n += 1
            (reply, *_) = await store.swap(
                [Swap("s/38", last.version, {"n": n}), Swap(f"s/{2 * n - 1:02d}", None, {}), Swap(f"s/9{n}", None, {})]
            )
            assert isinstance(reply, Record)
            last = reply
        assert [key for key in seen if key in stay] == stay

    async def test_keys_are_any_text_and_ordered_by_code_point(self, store: Store) -> None:
        await create(store, *ODD_KEYS)
        assert [record.key for record in await store.scan("", "", 100)] == sorted(ODD_KEYS)
        for prefix in ("a", "a%", "a_", "a\\", "a'", "A", "a\uffff", "a\U0001f600", "a\u00e9", "\u00e4"):
            found = [record.key for record in await store.scan(prefix, "", 100)]
            assert found == sorted(key for key in ODD_KEYS if key.startswith(prefix)), prefix
        got = await store.get(list(ODD_KEYS))
        assert [record and record.value for record in got] == [{"k": key} for key in ODD_KEYS]

    async def test_members_are_records_like_others(self, store: Store) -> None:
        made = await create(store, "lease/1", "member/1", "zebra")
        assert list(await store.scan("", "", 100)) == list(made.values())
        assert list(await store.scan("m", "", 100)) == [made["member/1"]]
        assert list(await store.scan("", "member/1", 100)) == [made["zebra"]]

    async def test_values_come_back_as_they_were(self, store: Store) -> None:
        value: dict[str, Json] = {
            "text": "\u65e5\u672c \U0001f600 '\"\\\n\u2028",
            "int": 2**53 - 1,
            "negative": -1,
            "float": 0.1,
            "yes": True,
            "null": None,
            "list": [1, "two", [None, {"deep": {}}]],
            "unknown to us": {"a": {"b": []}},
            "": "",
        }
        (record,) = await store.swap([Swap("a", None, value)])
        assert isinstance(record, Record)
        assert record.value == value
        assert list(await store.get(["a"])) == [record]
        assert [found.value for found in await store.scan("a", "", 1)] == [value]

    async def test_what_was_stored_does_not_change_with_the_argument(self, store: Store) -> None:
        inner: list[Json] = [1]
        value: dict[str, Json] = {"list": inner}
        await store.swap([Swap("a", None, value)])
        inner.append(2)
        value["more"] = True
        (record,) = await store.get(["a"])
        assert record is not None
        assert record.value == {"list": [1]}

    async def test_a_large_batch_of_records(self, store: Store, database: Database) -> None:
        keys = [f"k{n:04d}" for n in range(min(500, database.limits.batch))]
        made = await create(store, *keys)
        assert list(await store.get(keys)) == [made[key] for key in keys]
