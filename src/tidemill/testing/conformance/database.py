"""Conformance of `tidemill.ports.Database` as a whole, and of `Presence`."""

from __future__ import annotations

import pytest

from tidemill.errors import ConfigurationError, TooLarge
from tidemill.model import CollectionSpec, Put, QueueSpec
from tidemill.ports import Database
from tidemill.testing.conformance.bench import COLLECTION, QUEUE, need
from tidemill.testing.conformance.suite import Suite, message, put, read_on, start_all, take

PARTS = frozenset(["store", "feed", "queue", "documents", "dead_letters", "commit", "presence"])
OF_QUEUES = frozenset(["delay", "dedup", "unique", "priority", "order", "key_order", "sessions", "peek", "purge"])
OF_FEEDS = frozenset(["deletes", "before", "versions", "trim"])
OF_STORES = frozenset(["foreign"])
ABILITIES = OF_QUEUES | OF_FEEDS | OF_STORES | {"key_commit", "now_only"}


class DatabaseConformance(Suite):
    """What is declared, what is refused, and opening twice."""

    async def test_features_are_known_words(self, database: Database) -> None:
        assert database.features
        assert database.features <= PARTS | ABILITIES

    async def test_limits_are_positive(self, database: Database) -> None:
        limits = database.limits
        assert min(limits.batch, limits.body, limits.delay) > 0

    async def test_a_part_that_is_not_offered_is_refused(self, database: Database) -> None:
        asks = {
            "store": database.store,
            "feed": lambda: database.feed(COLLECTION),
            "queue": lambda: database.queue(QUEUE),
            "documents": lambda: database.documents(COLLECTION),
            "dead_letters": database.dead_letters,
        }
        for part, ask in asks.items():
            if part in database.features:
                assert ask() is not None
            else:
                with pytest.raises(ConfigurationError):
                    ask()
        if not database.features & {"commit", "key_commit"}:
            with pytest.raises(ConfigurationError):
                await database.commit([])

    async def test_a_queue_that_was_not_opened_is_refused(self, database: Database) -> None:
        need(database, "queue")
        with pytest.raises(ConfigurationError, match="unknown-queue"):
            database.queue(QueueSpec("unknown-queue"))

    async def test_a_collection_that_was_not_opened_is_refused(self, database: Database) -> None:
        need(database, "documents", "feed")
        for ask in (database.documents, database.feed):
            with pytest.raises(ConfigurationError, match="unknown-collection"):
                ask(CollectionSpec("unknown-collection"))

    async def test_parts_are_handles_on_the_same(self, database: Database) -> None:
        need(database, "queue")
        await database.queue(QUEUE).send([message("a")])
        assert [delivery.id for delivery in await take(database.queue(QUEUE))] == ["a"]

    async def test_open_again_keeps_what_is_there_and_adds_what_is_missing(self, database: Database) -> None:
        need(database, "queue")
        others = QueueSpec("others", dedup_window=1.0)
        await database.queue(QUEUE).send([message("a")])
        await database.open([], [QUEUE, others])
        assert [delivery.id for delivery in await take(database.queue(QUEUE))] == ["a"]
        assert await take(database.queue(others)) == [], "queues are apart"

    async def test_collections_are_apart(self, database: Database) -> None:
        need(database, "documents", "feed")
        more = CollectionSpec("more", partitions=1)
        await database.documents(COLLECTION).write([put("a", n=1)])
        await database.open([COLLECTION, more], [])
        assert list(await database.documents(more).get(["a"])) == [None]
        (a,) = await database.documents(COLLECTION).get(["a"])
        assert a is not None
        feed = database.feed(more)
        assert await read_on(feed, cursors := await start_all(feed, "beginning")) == []
        await database.documents(more).write([Put("more", "a", "k", b"{}"), Put("more", "b", "k", b"{}")])
        assert [(c.document, c.before) for c in await read_on(feed, cursors)] == [("a", None), ("b", None)]

    async def test_a_body_over_the_limit_is_refused(self, database: Database) -> None:
        need(database, "queue")
        if database.limits.body > 1 << 22:
            pytest.skip("the limit is far away")
        queue = database.queue(QUEUE)
        with pytest.raises(TooLarge):
            await queue.send([message("large", body=b"x" * (database.limits.body + 1))])
        await queue.send([message("fits", body=b"x" * database.limits.body)])
        assert [delivery.id for delivery in await take(queue)] == ["fits"]

    async def test_close_twice(self, database: Database) -> None:
        await database.close()
        await database.close()
        assert database.features, "what it declares does not hang on being open"

    async def test_who_is_here_or_unknown_is_not_gone(self, database: Database) -> None:
        need(database, "presence")
        presence = database.presence()
        assert presence is not None
        await presence.hold("me")
        assert list(await presence.gone(["me", "never-heard-of"])) == []
        assert list(await presence.gone([])) == []
        await presence.drop("me")
        await presence.drop("never-heard-of")
