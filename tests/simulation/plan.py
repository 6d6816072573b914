"""What befalls a simulated world, chosen by its seed."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pydantic import BaseModel

PARTITIONS = 3
MARGIN = 4.0
"""Seconds that a host may stand still and be harmless: from the fence to the earliest burial."""


class Thing(BaseModel):
    id: str
    key: str
    n: int


class Letter(BaseModel):
    id: str
    kind: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What befalls a world, by its seed. Pauses up to `longest_pause`; a likelihood each second for the rest."""

    seed: int
    calm: bool
    outage: bool
    hosts: int
    longest_pause: float
    pauses: float
    kills: float
    drains: float
    poison: bool
    killer: bool
    batch: int | None
    length: float = 36.0

    @property
    def gentle(self) -> bool:
        """No host stands still for longer than the margin: two owners must never run one thing at once."""
        return self.longest_pause < MARGIN


def plan_of(seed: int) -> Plan:
    """The plan of a seed: every fifth is calm, every fifth has an outage of what the handlers depend on."""
    random = Random(f"plan {seed}")
    calm, outage = seed % 5 == 0, seed % 5 == 1
    long = not calm and random.random() < 0.4
    return Plan(
        seed,
        calm,
        outage,
        hosts=random.choice((2, 2, 3)),
        longest_pause=25.0 if long else 3.0,
        pauses=0.0 if calm else 0.05,
        kills=0.0 if calm else 0.04,
        drains=0.04 if random.random() < 0.5 else 0.0,
        poison=not outage and random.random() < 0.7,
        killer=not calm and not outage and random.random() < 0.25,
        batch=None if random.random() < 0.75 else 4,
    )
