"""What a handle settled, so that its own repeated call is told from a lost claim."""

from __future__ import annotations

from collections.abc import Iterable

from tidemill.model import Outcome, Verdict

REMEMBERED = 10_000
"""How many settled claims are remembered."""


class SettledClaims:
    """The claims that took effect by this handle, the oldest forgotten. Only the caller of the first call can repeat
    it (its reply was lost), so memory is enough."""

    def __init__(self) -> None:
        self._settled: dict[str, tuple[Verdict, bool]] = {}

    def remember(self, outcomes: Iterable[Outcome]) -> None:
        """These took effect."""
        settled = self._settled
        for outcome in outcomes:
            settled[outcome.delivery.claim] = (outcome.verdict, outcome.started)
        for claim in list(settled)[: len(settled) - REMEMBERED] if len(settled) > 2 * REMEMBERED else ():
            del settled[claim]

    def repeated(self, outcome: Outcome) -> bool:
        """Whether exactly this outcome took effect by an earlier call."""
        return self._settled.get(outcome.delivery.claim) == (outcome.verdict, outcome.started)
