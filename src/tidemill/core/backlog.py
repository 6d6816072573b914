"""How much work a group has: what an autoscaler asks for. A value and the text that is answered; no I/O.

Work is what waits now plus what runs on any replica: a group that is scaled by what waits alone shrinks as soon as
everything is claimed. Messages that are delayed are not counted: no replica can do anything about them yet.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

OLD = 300.0
"""Seconds after which a measure is none any more: who scales by it should fall back to what it was told for that."""


@dataclass(frozen=True, slots=True)
class Source:
    """A queue or a feed worker: what waits, and what runs on any replica. A feed counts from the mark, so what runs of
    it is among what waits."""

    name: str
    waiting: int
    running: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """The work of one group as of `at` (monotonic): when the source measured longest ago was asked. None: one of them
    was never measured."""

    group: str
    at: float | None
    sources: tuple[Source, ...]

    @property
    def work(self) -> int:
        """Items that wait or run."""
        return sum(source.waiting + source.running for source in self.sources)


def text(backlog: Backlog, age: float) -> str:
    """As it is answered: JSON, the age in seconds."""
    sources = {source.name: {"waiting": source.waiting, "running": source.running} for source in backlog.sources}
    told = {"group": backlog.group, "work": backlog.work, "sources": sources, "age": round(max(age, 0.0), 1)}
    return json.dumps(told) + "\n"
