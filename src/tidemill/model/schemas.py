"""What stands in a database for an app, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Piece:
    """`name` is what it is about, `state` how it is or what was done with it, `told` the rest in one line.

    States of an apply: `made`, `changed`, `there`. Of a check: `ok`, `warning`, `problem`.
    """

    name: str
    state: str
    told: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    """What a schema of ours holds, and what in it is not ours."""

    schema: str
    there: bool
    counts: Mapping[str, int] = field(default_factory=dict)
    """Documents, messages, changes and so on, each by its words."""
    triggers: Sequence[str] = ()
    """The captured tables, which lose their triggers."""
    users: int = 0
    """Connections of ours that are open now."""
    foreign: Sequence[str] = ()
