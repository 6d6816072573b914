"""Wishes are acted on by who holds the partition, and removed only when what they want is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import cast

import pytest

from tidemill.adapters.memory import Memory
from tidemill.engine.controls import FEED, Controls
from tidemill.engine.feeds import FeedWorker
from tidemill.model import Swap
from tidemill.ports import Store
from tidemill.testing.clock import FakeClock


class Holder:
    """A feed worker that holds partition 0. `stored`: whether the lease is still ours when it writes."""

    worker = "bill"
    paused = False

    def __init__(self) -> None:
        self.parts: Mapping[str, object] = {"0": object()}
        self.stored = asyncio.get_running_loop().create_future()
        self.asked: list[tuple[str, str]] = []

    async def resume_halted(self, partition: str) -> bool:
        self.asked.append(("resume", partition))
        return bool(await self.stored)

    async def reset(self, partition: str, cursor: str) -> bool:
        self.asked.append((f"reset to {cursor}", partition))
        return bool(await self.stored)


async def controls_of(holder: Holder, **wishes: Mapping[str, str]) -> tuple[Store, Controls]:
    store = Memory(FakeClock()).store()
    await store.swap([Swap(FEED + key.replace("_", "/"), None, value) for key, value in wishes.items()])
    return store, Controls(store, [cast(FeedWorker, holder)], [])


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


RESUME = {"wish": "resume"}
RESET = {"wish": "reset", "cursor": "7"}


@pytest.mark.parametrize(("wish", "asked"), [(RESUME, "resume"), (RESET, "reset to 7")])
@pytest.mark.parametrize("stored", [True, False])
async def test_a_wish_stands_until_it_is_stored(wish: Mapping[str, str], asked: str, stored: bool) -> None:
    """A crash before that leaves it to the next owner; a second look meanwhile does not act twice."""
    holder = Holder()
    store, controls = await controls_of(holder, bill_0_x=wish)
    for _ in range(3):
        await controls.look()
        await settle()
    assert holder.asked == [(asked, "0")]
    assert len(await store.scan(FEED, FEED, 10)) == 1
    holder.stored.set_result(stored)
    await settle()
    assert len(await store.scan(FEED, FEED, 10)) == (0 if stored else 1)
    await controls.look()
    await settle()
    assert len(holder.asked) == (1 if stored else 2), "what was lost meanwhile is asked for again"


async def test_a_wish_for_what_is_not_held_here_waits() -> None:
    holder = Holder()
    store, controls = await controls_of(holder, bill_1_x=RESUME, audit_0_x=RESUME)
    await controls.look()
    await settle()
    assert holder.asked == []
    assert len(await store.scan(FEED, FEED, 10)) == 2


async def test_wishes_that_nobody_acts_on_hide_no_others() -> None:
    holder = Holder()
    holder.stored.set_result(True)
    others = {f"audit_{n:05}_x": RESUME for n in range(2_500)}
    store, controls = await controls_of(holder, **others, bill_0_x=RESUME)
    await controls.look()
    await settle()
    assert holder.asked == [("resume", "0")]
    assert len(await store.scan(FEED, FEED, 9_999)) == 2_500
