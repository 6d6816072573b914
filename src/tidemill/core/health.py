"""What a health rule says, and how many of them make one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

Status: TypeAlias = Literal["healthy", "degraded", "unhealthy"]

_ORDER: tuple[Status, ...] = ("healthy", "degraded", "unhealthy")


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of a rule: a status and, unless all is well, why (the rule's own words; they are shown)."""

    status: Status = "healthy"
    why: str = ""

    @classmethod
    def healthy(cls, why: str = "") -> Health:
        return cls("healthy", why)

    @classmethod
    def degraded(cls, why: str) -> Health:
        return cls("degraded", why)

    @classmethod
    def unhealthy(cls, why: str) -> Health:
        return cls("unhealthy", why)


@dataclass(frozen=True, slots=True)
class Check:
    """One named answer in a report. `probes` says which of live, ready and startup it counts for."""

    name: str
    health: Health
    probes: frozenset[str] = frozenset({"ready"})
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Report:
    """All checks at one moment: the status of the whole is the worst of its parts."""

    checks: tuple[Check, ...]

    def status(self, probe: str | None = None) -> Status:
        return worst(c.health.status for c in self.checks if probe is None or probe in c.probes)


def worst(statuses: Iterable[Status]) -> Status:
    return max(statuses, key=_ORDER.index, default="healthy")
