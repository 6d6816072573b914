"""The suites for claims with deadlines, on a broker that is a double: they pass there, and notice what they are for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import pytest

from tests.engine.broker import Broker, BrokerQueue
from tidemill.model import Delivery, Lost
from tidemill.testing import conformance
from tidemill.testing.clock import FakeClock
from tidemill.testing.conformance import QUEUE, Bench
from tidemill.testing.conformance.deadlines import DeadlineConformance


class TestBroker(conformance.QueueConformance, conformance.DatabaseConformance):
    @pytest.fixture
    async def bench(self) -> AsyncIterator[Bench]:
        clock = FakeClock()
        async with conformance.opened(Broker(clock), clock) as bench:
            yield bench


class Forgetful(BrokerQueue):
    """Says that it extends, and does not."""

    async def extend(self, deliveries: Sequence[Delivery]) -> Sequence[float | Lost]:
        return [self.clock.monotonic() + self.claim for _ in deliveries]


async def test_an_extension_that_extends_nothing_is_noticed() -> None:
    clock = FakeClock()
    broker = Broker(clock)
    async with conformance.opened(broker, clock) as bench:
        broker.queues[QUEUE.name] = Forgetful(broker.memory.queue(QUEUE), clock, 60.0)
        with pytest.raises(AssertionError):
            await DeadlineConformance().test_an_extended_claim_outlives_its_first_deadline(bench, bench.queue)
