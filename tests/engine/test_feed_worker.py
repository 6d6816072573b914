"""Feed workers through the harness: order, marks, parking and replay, hand-over, transactions."""

from __future__ import annotations

from collections import defaultdict

from pydantic import BaseModel

from tidemill import App, Backoff, Change, Context, Deletion, Reject
from tidemill.model import Swap
from tidemill.testing.harness import Harness


class Thing(BaseModel):
    id: str
    key: str
    n: int


class Feeds:
    """An app with one feed worker whose handler fails for the keys in `poison`, and writes down what it saw."""

    def __init__(self, **options: object) -> None:
        self.app = App("test")
        self.things = self.app.collection("things", Thing, id="id", key="key", partitions=4)
        self.poison: set[str] = set()
        self.seen: defaultdict[str, list[int]] = defaultdict(list)
        self.app.on_change(self.things, name="watch", **options)(self._watch)  # type: ignore[arg-type, call-overload]

    async def _watch(self, change: Change[Thing]) -> None:
        if change.value.key in self.poison:
            raise ValueError("poison")
        self.seen[change.value.key].append(change.value.n)

    async def put(self, key: str, *numbers: int) -> None:
        for n in numbers:
            await self.things.put(Thing(id=f"{key}-{n}", key=key, n=n))


async def test_order_per_key_and_everything_once() -> None:
    feeds = Feeds(concurrency=8)
    async with Harness(feeds.app) as harness:
        for n in range(20):
            for key in "abcdefg":
                await feeds.put(key, n)
        await harness.idle()
        assert feeds.seen == {key: list(range(20)) for key in "abcdefg"}
        assert harness.verdicts.count(("watch", "done")) == 140  # type: ignore[arg-type]


async def test_a_new_replica_goes_on_from_the_mark() -> None:
    feeds = Feeds()
    async with Harness(feeds.app) as harness:
        await feeds.put("a", *range(5))
        await harness.idle()
        await harness.advance("3s")
        database, clock = harness.places.main, harness.clock
    async with Harness(feeds.app, database=database, clock=clock, replica="second") as harness:
        await feeds.put("a", 5)
        await harness.advance("30s")
        assert feeds.seen["a"] == [0, 1, 2, 3, 4, 5]


async def test_a_failing_key_is_parked_and_others_go_on() -> None:
    feeds = Feeds(retry=Backoff(attempts=3, first=1))
    feeds.poison = {"bad"}
    async with Harness(feeds.app) as harness:
        await feeds.put("bad", 1, 2)
        await feeds.put("good", 1, 2)
        await harness.advance("5s")
        await feeds.put("good", 3)
        await harness.advance("10m")
        await feeds.put("bad", 3)
        await feeds.put("good", 4)
        await harness.idle()
        assert feeds.seen == {"good": [1, 2, 3, 4]}
        parked = [part.journal.index.keys for part in harness.engine.feeds[0].parts.values()]
        [state] = [keys["bad"] for keys in parked if "bad" in keys]
        assert (state.state, state.count) == ("parked", 3)
        counts = await harness.places.main.dead_letters().count("feed/")
        assert sum(counts.values()) == 3
        assert await harness.engine.feeds[0].feed.lag(
            {p.name: p.lanes.mark for p in harness.engine.feeds[0].parts.values()}
        )


async def test_replay_keeps_order_beside_live_changes_and_across_a_hand_over() -> None:
    feeds = Feeds(retry=Backoff(attempts=1))
    feeds.poison = {"bad"}
    async with Harness(feeds.app) as harness:
        await feeds.put("bad", *range(4))
        await harness.advance("10s")
        database, clock = harness.places.main, harness.clock
        feeds.poison = set()
        await _wish(harness, "replay")
        await feeds.put("bad", 4)
        await clock.advance(0.3)
    async with Harness(feeds.app, database=database, clock=clock, replica="second") as harness:
        await feeds.put("bad", 5)
        await harness.advance("30s")
        await feeds.put("bad", 6)
        await harness.advance("5s")
        first = list(dict.fromkeys(feeds.seen["bad"]))
        assert first == list(range(7))
        assert await database.dead_letters().count("feed/") == {}


async def test_drop_forgets_what_is_parked_and_goes_on() -> None:
    feeds = Feeds(retry=Backoff(attempts=1))
    feeds.poison = {"bad"}
    async with Harness(feeds.app) as harness:
        await feeds.put("bad", 1, 2)
        await harness.advance("10s")
        feeds.poison = set()
        await _wish(harness, "drop")
        await harness.advance("3s")
        await feeds.put("bad", 3)
        await harness.advance("3s")
        assert feeds.seen["bad"] == [3]
        assert await harness.places.main.dead_letters().count("feed/") == {}


async def test_skip_gives_the_order_up_and_keeps_the_letter() -> None:
    feeds = Feeds(retry=Backoff(attempts=1), on_poison="skip")
    feeds.poison = {"bad"}
    async with Harness(feeds.app) as harness:
        await feeds.put("bad", 1)
        await harness.advance("5s")
        feeds.poison = set()
        await feeds.put("bad", 2)
        await harness.advance("5s")
        assert feeds.seen["bad"] == [2]
        [(source, count)] = (await harness.places.main.dead_letters().count("feed/")).items()
        assert source.endswith("/skipped")
        assert count == 1


async def test_halt_keeps_the_lease_and_stands_still() -> None:
    feeds = Feeds(retry=Backoff(attempts=1), on_poison="halt")
    feeds.poison = {"bad"}
    async with Harness(feeds.app) as harness:
        await feeds.put("bad", 1, 2)
        await harness.advance("5s")
        [part] = [part for part in harness.engine.feeds[0].parts.values() if part.halted]
        feeds.poison = set()
        await harness.advance("1m")
        assert feeds.seen == {}
        await harness.places.shared_store().swap([Swap(f"control/feed/watch/{part.name}/1", None, {"wish": "resume"})])
        await harness.advance("5s")
        assert feeds.seen["bad"] == [1, 2]


async def test_a_long_wait_is_durable_and_keeps_its_attempts() -> None:
    feeds = Feeds(retry=Backoff(attempts=5, first=30, factor=1, jitter=1.0))
    feeds.poison = {"bad"}
    async with Harness(feeds.app) as harness:
        await feeds.put("bad", 1)
        await feeds.put("good", 1)
        await harness.advance("40s")
        database, clock = harness.places.main, harness.clock
        states = [p.journal.index.keys.get("bad") for p in harness.engine.feeds[0].parts.values()]
        [state] = [s for s in states if s]
        assert (state.state, state.attempts) == ("waiting", 2)
    feeds.poison = set()
    async with Harness(feeds.app, database=database, clock=clock, replica="second") as harness:
        await harness.advance("40s")
        assert feeds.seen == {"good": [1], "bad": [1]}


async def test_an_outage_parks_nothing() -> None:
    feeds = Feeds(concurrency=4, retry=Backoff(attempts=4))
    feeds.poison = set("abcdefgh")
    async with Harness(feeds.app) as harness:
        for key in "abcdefgh":
            await feeds.put(key, 1, 2)
        await harness.advance("10m")
        assert all(not p.journal.index.keys or
                   all(k.state == "waiting" for k in p.journal.index.keys.values())
                   for p in harness.engine.feeds[0].parts.values())  # fmt: skip
        feeds.poison = set()
        await harness.advance("30m")
        assert feeds.seen == {key: [1, 2] for key in "abcdefgh"}


async def test_batches_keep_order_when_one_of_them_fails() -> None:
    app = App("test")
    things = app.collection("things", Thing, id="id", key="key", partitions=1)
    seen: defaultdict[str, list[int]] = defaultdict(list)
    failed = False

    @app.on_change(things, batch=10, retry=Backoff(attempts=5, first=1))
    async def watch(changes: list[Change[Thing]]) -> None:
        nonlocal failed
        if not failed and len(changes) > 2:
            failed = True
            raise ConnectionError
        for change in changes:
            seen[change.value.key].append(change.value.n)

    async with Harness(app) as harness:
        for n in range(12):
            await things.put(Thing(id=f"{n}", key="ab"[n % 2], n=n))
        await harness.advance("1m")
        assert seen == {"a": [0, 2, 4, 6, 8, 10], "b": [1, 3, 5, 7, 9, 11]}
        assert failed


async def test_deletes_come_only_to_who_asks() -> None:
    app = App("test")
    things = app.collection("things", Thing, id="id", key="key", before=True)
    told: list[str] = []
    quiet: list[str] = []

    @app.on_change(things)
    async def both(change: Change[Thing] | Deletion[Thing]) -> None:
        before = change.before.n if change.before else None
        told.append(f"{type(change).__name__} {before}")

    @app.on_change(things)
    async def changes_only(change: Change[Thing]) -> None:
        quiet.append(change.document)

    async with Harness(app) as harness:
        await things.put(Thing(id="a", key="k", n=1))
        await things.delete("a")
        await harness.idle()
        assert told == ["Change None", "Deletion 1"]
        assert quiet == ["a"]


async def test_a_transaction_of_a_change_is_applied_once() -> None:
    app = App("test")
    things = app.collection("things", Thing, id="id", key="key", partitions=1)
    totals = app.collection("totals", dict, id="id")
    runs = 0

    @app.on_change(things)
    async def add(change: Change[Thing], context: Context) -> None:
        nonlocal runs
        runs += 1
        found = await totals.get("sum")
        total = (found.value["n"] if found else 0) + change.value.n
        context.transaction.put(totals, {"id": "sum", "n": total}, etag=found.etag if found else None)

    async with Harness(app) as harness:
        for n in range(10):
            await things.put(Thing(id=f"{n}", key="k", n=n))
        await harness.advance("10s")
        found = await totals.get("sum")
        assert found is not None
        assert found.value["n"] == 45
        rows = await harness.places.shared_store().scan("finished/", "finished/", 100)
        assert rows == []  # the mark has passed them


async def test_reject_parks_at_once() -> None:
    app = App("test")
    things = app.collection("things", Thing, id="id", key="key")

    @app.on_change(things)
    async def watch(change: Change[Thing]) -> None:
        raise Reject("not mine")

    async with Harness(app) as harness:
        await things.put(Thing(id="a", key="k", n=1))
        await harness.advance("3s")
        [(source, _)] = (await harness.places.main.dead_letters().count("feed/")).items()
        [letter] = await harness.dead_letters(source)
        assert letter.reason == "not mine"


async def _wish(harness: Harness, wish: str) -> None:
    [part] = [p for p in harness.engine.feeds[0].parts.values() if "bad" in p.journal.index.keys]
    key = f"control/feed/watch/{part.name}/1"
    await harness.places.shared_store().swap([Swap(key, None, {"format": 1, "wish": wish, "key": "bad"})])
