"""What all values are made of, and the facts that observers are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"
Value: TypeAlias = "Mapping[str, Json]"

FORMAT = 1
"""The format number written with everything that is stored by this release."""

MAX_WAIT = 1.0
"""No `wait` given to a port is longer, in seconds: a drain awaits its receives instead of cancelling them."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that happened, for observers: what, to which worker, and the rest as fields."""

    name: str
    worker: str = ""
    count: int = 1
    seconds: float = 0.0
    detail: Value = field(default_factory=dict)


Observer: TypeAlias = Callable[[Fact], None]
