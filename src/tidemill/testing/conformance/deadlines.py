"""Conformance of `tidemill.ports.Queue`: claims that end by a deadline of their own, as brokers have them.

Skipped where claims belong to members, and on a clock of the real world where a claim lasts for longer than
`PATIENCE`: open such a backend with shorter claims.
"""

from __future__ import annotations

import asyncio

import pytest

from tidemill.model import Delivery, Done, Later, Lost, Outcome, Settled
from tidemill.ports import Queue
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance.bench import Bench
from tidemill.testing.conformance.suite import Suite, message, settle_one, take, take_one

PATIENCE = 15.0
"""Seconds of real time that a test waits for a claim to end, at most."""


class DeadlineConformance(Suite):
    """The part of `QueueConformance` that waits for claims to end."""

    async def test_a_claim_that_nobody_extends_comes_back(self, bench: Bench, queue: Queue) -> None:
        await queue.send([message("a")])
        first = await take_one(queue, "dead")
        await _pass(bench, first, 1.0)
        second = await take_one(queue, "alive")
        assert (second.id, second.attempt, second.deliveries) == ("a", 0, 2), "no verdict came, so nothing failed"
        for late in (Done(), Later(0.0, "late")):
            assert await settle_one(queue, first, late) == Lost()
        assert list(await queue.extend([first])) == [Lost()]
        assert await settle_one(queue, second, Done()) == Settled()
        assert await take(queue) == []

    async def test_an_extended_claim_outlives_its_first_deadline(self, bench: Bench, queue: Queue) -> None:
        await queue.send([message("a")])
        claim = await take_one(queue)
        await _pass(bench, claim, 0.5)
        asked = bench.clock.monotonic()
        (deadline,) = await queue.extend([claim])
        assert isinstance(deadline, float)
        assert deadline > max(claim.deadline, asked)
        await _pass(bench, claim, 1.0)
        assert await take(queue, "other") == []
        assert await settle_one(queue, claim, Done()) == Settled()

    async def test_a_settle_beside_an_extension_has_its_effect(self, bench: Bench, queue: Queue) -> None:
        """The two cross: the engine extends what runs, and it ends at that moment."""
        await queue.send([message(f"m{n}") for n in range(8)])
        held = await take(queue)
        _need_deadlines(bench, held[0])
        extended, *replies = await asyncio.gather(
            queue.extend(held), *(queue.settle([Outcome(delivery, Done())]) for delivery in held)
        )
        assert len(extended) == 8
        assert [list(reply) for reply in replies] == [[Settled()]] * 8
        depth = await queue.depth()
        assert (depth.ready, depth.delayed, depth.claimed) == (0, 0, 0)


def _need_deadlines(bench: Bench, delivery: Delivery) -> None:
    if delivery.deadline == float("inf"):
        pytest.skip("claims of this backend belong to members")


async def _pass(bench: Bench, delivery: Delivery, part: float) -> None:
    """Let this part of the time until the deadline go by; a little more than all of it for 1."""
    _need_deadlines(bench, delivery)
    left = delivery.deadline - bench.clock.monotonic()
    if left > PATIENCE and not isinstance(bench.clock, FakeClock):
        pytest.skip(f"claims last for {left:.0f} s here, longer than a test waits")
    await bench.advance(left * part + (bench.tick if part == 1.0 else 0.0))
