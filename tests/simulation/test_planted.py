"""The simulation bites: each planted fault is found within a few worlds, and by the invariant that it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from tests.simulation.checker import check
from tests.simulation.plan import Plan, plan_of
from tests.simulation.weather import FaultyQueue
from tests.simulation.world import World, run_plan
from tidemill.core.fence import Fence
from tidemill.core.lanes import Lanes
from tidemill.engine.census import Census
from tidemill.engine.claims import Claims
from tidemill.engine.feeds import FeedWorker
from tidemill.engine.parking import Journal
from tidemill.engine.queues import QueueWorker
from tidemill.model import Delivery, Later, Outcome

Change = Callable[[Plan], Plan]


def _as_it_is(plan: Plan) -> Plan:
    return plan


def _rough(plan: Plan) -> Plan:
    return replace(plan, calm=False, outage=False, poison=True, killer=False, batch=None)


def _frozen(plan: Plan) -> Plan:
    return replace(_rough(plan), longest_pause=25.0, pauses=0.15)


def _killing(plan: Plan) -> Plan:
    return replace(_rough(plan), kills=0.12)


def _draining(plan: Plan) -> Plan:
    return replace(_rough(plan), drains=0.15)


async def _found(change: Change, invariants: set[str], most: int) -> bool:
    """Whether one of these invariants is reported within `most` worlds."""
    for seed in range(most):
        world: World = await run_plan(change(plan_of(seed)))
        if invariants & {name for name, _ in check(world)}:
            return True
    return False


async def test_a_claim_without_a_burial(monkeypatch: pytest.MonkeyPatch) -> None:
    async def bury(self: Census, member: str, version: str | None) -> bool:
        self._note(member)
        return True

    monkeypatch.setattr(Census, "bury", bury)
    assert await _found(_frozen, {"J1"}, 20)


async def test_a_fence_that_a_late_reply_extends(monkeypatch: pytest.MonkeyPatch) -> None:
    def holds(self: Fence, now: float) -> bool:
        return self.deadline > float("-inf")  # trusted until a timer says otherwise, and no timer has run

    monkeypatch.setattr(Fence, "holds", holds)
    assert await _found(_frozen, {"J13"}, 20)


async def test_a_park_that_is_not_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def seal(self: Journal, epoch: int) -> None:
        return

    monkeypatch.setattr(Journal, "seal", seal)
    assert await _found(_killing, {"I1", "I2", "I10", "J4"}, 20)


async def test_a_drain_that_gives_back_what_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = QueueWorker.stop

    def stop_and_return(self: QueueWorker) -> None:
        stop(self)
        deliveries = [item for call in self._calls for item in call.items if isinstance(item, Delivery)]
        self._settle([Outcome(delivery, Later(attempt=False), started=False) for delivery in deliveries])

    monkeypatch.setattr(QueueWorker, "stop", stop_and_return)
    assert await _found(_draining, {"J8"}, 20)


async def test_a_lease_that_is_released_while_its_keys_run(monkeypatch: pytest.MonkeyPatch) -> None:
    async def quiet(self: FeedWorker, partition: str, deadline: float) -> bool:
        part = self.parts.get(partition)
        if part is not None:
            self._forget(part)
        return True

    monkeypatch.setattr(FeedWorker, "quiet", quiet)
    assert await _found(_draining, {"J8"}, 20)


async def test_a_receive_that_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Claims.receive

    async def impatient(self: Claims, limit: int, wait: float) -> Sequence[Delivery]:
        assert isinstance(self._queue, FaultyQueue)
        task = asyncio.ensure_future(receive(self, limit, wait))
        await self._queue.host.sleep(0.2)
        task.cancel()
        with suppress(asyncio.CancelledError):
            return await task
        return []

    monkeypatch.setattr(Claims, "receive", impatient)
    assert await _found(_rough, {"J12"}, 3)


async def test_a_lost_receive_that_nobody_frees(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: Claims, owner: str, mine: str) -> bool:
        return False

    monkeypatch.setattr(Claims, "_unknown", unknown)
    assert await _found(_rough, {"I1"}, 20)


async def test_a_mark_that_passes_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    def move_mark(self: Lanes) -> None:
        for entry in [entry for entry in self._open if entry.done]:
            self._open.remove(entry)
            if entry.cursor is not None and entry.change.order > self.passed:
                self.mark, self.passed = entry.cursor, entry.change.order
        if not self._open:
            self.mark = self.read_to

    monkeypatch.setattr(Lanes, "move_mark", move_mark)
    assert await _found(_killing, {"I1", "I2", "I10", "J15"}, 20)


async def test_without_a_fault_the_same_worlds_are_well() -> None:
    for change in (_as_it_is, _frozen, _killing, _draining):
        for seed in range(3):
            world = await run_plan(change(plan_of(seed)))
            assert not check(world), check(world)[:3]
