"""What happened in one simulated run, in order, and what of it should not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Run:
    """One call of a handler, for one item. `end` is None while it runs; `how` is done, failed, cancelled or killed."""

    host: str
    worker: str
    item: str
    key: str
    number: int
    start: float
    end: float | None = None
    how: str = ""


@dataclass(slots=True)
class History:
    """`blamed` holds an invariant's name and what broke it."""

    clock: Callable[[], float]
    lines: list[str] = field(default_factory=list)
    runs_of: list[Run] = field(default_factory=list)
    blamed: list[tuple[str, str]] = field(default_factory=list)
    over: bool = False

    def note(self, text: str) -> None:
        self.lines.append(f"{self.clock():9.3f} {text}")

    def blame(self, invariant: str, text: str) -> None:
        if not self.over:
            self.note(f"!!! {invariant}: {text}")
            self.blamed.append((invariant, text))

    def began(self, run: Run) -> None:
        self.runs_of.append(run)
        self.note(f"{run.host} {run.worker} {run.key}#{run.number} starts")

    def ended(self, run: Run, how: str) -> None:
        run.end, run.how = self.clock(), how
        self.note(f"{run.host} {run.worker} {run.key}#{run.number} {how}")

    def runs(self, host: str, item: str) -> bool:
        """Whether this item runs there now."""
        return any(run.end is None and run.host == host and run.item == item for run in self.runs_of)

    def running(self, host: str) -> list[Run]:
        """What runs there now."""
        return [run for run in self.runs_of if run.end is None and run.host == host]
