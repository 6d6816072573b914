"""The facts that people want to read about, as log lines. Counts of what went well are metrics, not lines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TypeAlias

from tidemill.model import Fact

_Line: TypeAlias = tuple[int, Callable[[Fact], str]]


class Events:
    """An observer that writes a line for each fact worth one."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger("tidemill")

    def __call__(self, fact: Fact) -> None:
        found = _LINES.get(fact.name)
        if found is None:
            return
        level, words = found
        if self._logger.isEnabledFor(level):
            extra = {"worker": fact.worker or None, "id": fact.detail.get("id")}
            self._logger.log(level, "%s", words(fact), extra=extra)


def _of(fact: Fact, name: str) -> str:
    return str(fact.detail.get(name, ""))


def _drained(fact: Fact) -> str:
    left = fact.detail.get("left")
    return f"drained, but left: {', '.join(map(str, left))}" if isinstance(left, list) and left else "drained"


_LINES: Mapping[str, _Line] = {
    "poll_failed": (logging.WARNING, lambda f: f"the backend failed: {_of(f, 'error')}; trying on"),
    "polls_again": (logging.INFO, lambda f: "the backend answers again"),
    "claims_lost": (logging.WARNING, lambda f: f"{f.count} claim(s) were lost; others work on those deliveries"),
    "dead": (logging.ERROR, lambda f: f"dead letter: {_of(f, 'reason')}"),
    "parked": (logging.WARNING, lambda f: f"key {_of(f, 'key')!r} is {_of(f, 'state') or 'parked'}: {_of(f, 'error')}"),
    "halted": (logging.ERROR, lambda f: f"partition {_of(f, 'partition')} stands still: {_of(f, 'error')}"),
    "expired": (logging.ERROR, lambda f: f"partition {_of(f, 'partition')}: retention removed changes never handled"),
    "partition_lost": (logging.WARNING, lambda f: f"lost partition {_of(f, 'partition')}: {_of(f, 'why')}"),
    "stalled": (logging.ERROR, lambda f: "the handlers' loop is blocked: unstarted work goes back to the others"),
    "recovered": (logging.INFO, lambda f: "the handlers' loop runs again"),
    "fenced": (logging.ERROR, lambda f: "fenced: the store did not answer in time, nothing new is started"),
    "drained": (logging.INFO, _drained),
}
