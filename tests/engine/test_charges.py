"""What backends charge by the request, from the port to the observer: every five seconds, and in no log."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import pytest

from tidemill import App
from tidemill.adapters.memory import Memory
from tidemill.engine.observe import charges
from tidemill.model import Fact
from tidemill.ports import Metered
from tidemill.telemetry.facts import log_fact
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness


class Meter:
    """What two accounts may have charged."""

    def __init__(self, **charged: float) -> None:
        self.total = charged

    def charged(self) -> Mapping[str, float]:
        return self.total


class MeteredMemory(Memory):
    """A backend in memory that charges for each time it is asked for its store."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock)
        self.total = 0.0

    def charged(self) -> Mapping[str, float]:
        self.total += 2.5
        return {"things": self.total}


def told(facts: list[Fact]) -> list[tuple[object, object]]:
    return [(fact.detail["container"], fact.detail["total"]) for fact in facts if fact.name == "charged"]


def test_accounts_are_added_up_by_container() -> None:
    one, two = Meter(orders=1.5, tidemill=2), Meter(orders=4)
    assert isinstance(one, Metered)
    facts = charges([one, Memory(FakeClock()), two])  # type: ignore[list-item]
    assert told(list(facts)) == [("orders", 5.5), ("tidemill", 2)]


async def test_a_metered_backend_is_told_every_five_seconds() -> None:
    app = App("shop")
    app.on_message(app.queue("q", dict), name="work")(_pass)
    clock = FakeClock()
    async with Harness(app, database=MeteredMemory(clock), clock=clock) as harness:
        await harness.advance("21s")
        totals = [total for _, total in told(harness.facts)]
        assert totals == [2.5 * n for n in range(1, len(totals) + 1)]
        assert 4 <= len(totals) <= 6


async def test_a_backend_that_charges_nothing_is_not_told_of() -> None:
    app = App("shop")
    app.on_message(app.queue("q", dict), name="work")(_pass)
    async with Harness(app) as harness:
        await harness.advance("11s")
        assert not isinstance(harness.places.main, Metered)
        assert told(harness.facts) == []


def test_charges_are_no_lines_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        log_fact(Fact("charged", detail={"container": "orders", "total": 1.0}))
    assert caplog.records == []


async def _pass(message: dict[str, int]) -> None: ...
