"""What is claimed through a handle, and what it has settled."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from tidemill.model import Delivery, Lost, Outcome, Settled, Verdict

REMEMBERED = 10_000
"""Settled claims that are recognised when the same outcome comes again because its reply was lost."""

H = TypeVar("H")


@dataclass(slots=True)
class Claims(Generic[H]):
    """By their names. Only the caller of the first call can repeat it, so memory is enough."""

    held: dict[str, H] = field(default_factory=dict)
    settled: dict[str, tuple[str, Verdict, bool]] = field(default_factory=dict)

    def of(self, delivery: Delivery) -> H | None:
        """What is held under the claim of this delivery."""
        return self.held.get(delivery.claim)

    def absent(self, outcome: Outcome) -> Settled | Lost:
        """The reply to an outcome whose claim is not held."""
        return Settled() if self.settled.get(outcome.delivery.claim) == _said(outcome) else Lost()

    def ended(self, outcome: Outcome) -> Settled:
        """It took effect."""
        self.held.pop(outcome.delivery.claim, None)
        self.settled[outcome.delivery.claim] = _said(outcome)
        if len(self.settled) > REMEMBERED:
            del self.settled[next(iter(self.settled))]
        return Settled()

    def lost(self, outcome: Outcome) -> Lost:
        """It is not ours any more."""
        self.held.pop(outcome.delivery.claim, None)
        return Lost()


def _said(outcome: Outcome) -> tuple[str, Verdict, bool]:
    return outcome.delivery.id, outcome.verdict, outcome.started
