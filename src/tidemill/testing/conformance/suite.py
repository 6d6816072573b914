"""What the suites share: fixtures that take the bench apart, and short words for what tests do all the time."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest

from tidemill.model import Dead, Delivery, Expect, Json, Logged, Message, Outcome, Page, Put, Start, Verdict
from tidemill.ports import Database, DeadLetters, Documents, Feed, Queue, Store
from tidemill.testing.conformance.bench import COLLECTION, QUEUE, Bench

Advance: TypeAlias = Callable[[float], Awaitable[None]]
"""Let so many seconds pass."""


class Suite:
    """The base of all suites. The adapter's own test class gives the fixture `bench`, these are its parts.

    A part that the backend does not have skips the test.
    """

    @pytest.fixture
    def database(self, bench: Bench) -> Database:
        return bench.database

    @pytest.fixture
    def peer(self, bench: Bench) -> Database:
        return bench.peer

    @pytest.fixture
    def advance(self, bench: Bench) -> Advance:
        return bench.advance

    @pytest.fixture
    def tick(self, bench: Bench) -> float:
        return bench.tick

    @pytest.fixture
    def store(self, bench: Bench) -> Store:
        return bench.store

    @pytest.fixture
    def queue(self, bench: Bench) -> Queue:
        return bench.queue

    @pytest.fixture
    def documents(self, bench: Bench) -> Documents:
        return bench.documents

    @pytest.fixture
    def feed(self, bench: Bench) -> Feed:
        return bench.feed

    @pytest.fixture
    def letters(self, bench: Bench) -> DeadLetters:
        return bench.letters


def need_claims_of_members(delivery: Delivery) -> None:
    """Skip the test if the claim ends by a deadline of its own."""
    if delivery.deadline != float("inf"):
        pytest.skip("claims of this backend have deadlines and belong to no member")


def message(
    id: str,
    *,
    body: bytes = b"{}",
    key: str | None = None,
    priority: int = 0,
    delay: float = 0.0,
    dedup: str | None = None,
) -> Message:
    """A message of the suites' queue."""
    return Message(QUEUE.name, id, body, key=key, priority=priority, delay=delay, dedup=dedup)


def put(id: str, *, key: str = "k", expect: Expect | str = Expect.ANYTHING, **fields: Json) -> Put:
    """A write of a document of the suites' collection with these fields."""
    return Put(COLLECTION.name, id, key, json.dumps(fields).encode(), expect)


async def take(queue: Queue, owner: str = "a") -> list[Delivery]:
    """Claim everything that is due, in the order in which it came."""
    taken: list[Delivery] = []
    while some := await queue.receive(owner, 100, 0.0):
        taken += some
        assert len({delivery.id for delivery in taken}) == len(taken), "no message is claimed twice"
    return taken


async def take_one(queue: Queue, owner: str = "a") -> Delivery:
    """Claim one message that must be there."""
    (delivery,) = await queue.receive(owner, 1, 0.0)
    return delivery


async def settle_one(queue: Queue, delivery: Delivery, verdict: Verdict, *, started: bool = True) -> object:
    """The reply to one outcome."""
    (reply,) = await queue.settle(
        [Outcome(delivery, verdict, started, "the error" if isinstance(verdict, Dead) else "")]
    )
    return reply


async def start_all(feed: Feed, at: Start) -> dict[str, str]:
    """A cursor for each partition."""
    return {name: await feed.start(name, at) for name in await feed.partitions()}


async def read_on(feed: Feed, cursors: dict[str, str], limit: int = 100) -> list[Logged]:
    """All changes from `cursors` to the end, partition by partition in order; moves `cursors` behind them."""
    found: list[Logged] = []
    behind = True
    while behind:
        assert len({change.id for change in found}) == len(found), "no change comes twice"
        behind = False
        for name, page in (await feed.read(cursors, limit, 0.0)).items():
            assert isinstance(page, Page), f"{name}: {page}"
            assert len(page.changes) <= limit
            assert all(change.partition == name for change in page.changes)
            cursors[name] = page.cursor
            found += page.changes
            behind = behind or bool(page.changes) or page.more
    return found
