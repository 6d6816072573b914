"""The claims of one queue in this process.

State: for each delivery that was handed out, the receipt that the service takes now; every extension brings a new one,
while the delivery's `claim` stays the same. Calls about one claim come one after the other (`lock`): an extension in
the middle of a settle would leave it with an old receipt. Failure cases. *An extension is not answered*: the receipt
may be an old one from then on (`doubt`), and what is refused for it counts as lost. *A settle is not answered*
(`tried`): refused when it is repeated, and nobody else can have had the message meanwhile, its first try had effect.
Entries go when they are settled or lost, or when their deadline is long past.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tidemill.adapters.storage_queue.envelope import Content
from tidemill.model import Delivery, Outcome, Verdict

REMEMBERED = 10_000
"""How many settled claims are remembered."""


@dataclass(slots=True)
class Held:
    """One claim. `id` is the service's, `dequeued` how often the message was handed out, this time included."""

    id: str
    receipt: str
    deadline: float
    dequeued: int
    content: Content
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    doubt: bool = False
    tried: tuple[Verdict, bool] | None = None
    buried: bool = False

    @property
    def name(self) -> str:
        """The message's id for us: its sender's, else the service's."""
        return self.content.text("id") or self.id


class Claims:
    """All claims by name, those extended last at the end; and what became of the settled."""

    def __init__(self) -> None:
        self._held: dict[str, Held] = {}
        self._settled: dict[str, tuple[Verdict, bool]] = {}

    def standing(self, now: float) -> int:
        """How many there are whose deadline is to come."""
        return sum(held.deadline > now for held in self._held.values())

    def add(self, claim: str, held: Held) -> None:
        self._held[claim] = held

    def get(self, delivery: Delivery) -> Held | None:
        """The claim of this delivery, if it is one."""
        held = self._held.get(delivery.claim)
        return held if held is not None and held.name == delivery.id else None

    def extended(self, claim: str, held: Held, receipt: str, deadline: float) -> None:
        held.receipt, held.deadline, held.doubt = receipt, deadline, False
        self._held.pop(claim, None)
        self._held[claim] = held

    def drop(self, claim: str) -> None:
        self._held.pop(claim, None)

    def forget(self, before: float) -> None:
        """Those whose deadline was before this."""
        while self._held and next(iter(self._held.values())).deadline < before:
            del self._held[next(iter(self._held))]

    def settled(self, outcome: Outcome) -> None:
        """It took effect."""
        self.drop(outcome.delivery.claim)
        self._settled[outcome.delivery.claim] = (outcome.verdict, outcome.started)
        if len(self._settled) > REMEMBERED:
            del self._settled[next(iter(self._settled))]

    def repeated(self, outcome: Outcome) -> bool:
        """Whether exactly this outcome took effect by an earlier call."""
        return self._settled.get(outcome.delivery.claim) == (outcome.verdict, outcome.started)
