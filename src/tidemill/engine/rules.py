"""The user's health rules: asked every few seconds on the handlers' side, answered from the last answer.

A rule that hangs keeps its last answer for a while and then says so itself; a rule that raises is unhealthy in words of
ours, for the text of an exception may hold secrets.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tidemill.app.worker import Rule
from tidemill.core.health import Check, Health
from tidemill.errors import TidemillError
from tidemill.ports import Clock

EVERY = 2.0
LONGEST = 10.0

_log = logging.getLogger("tidemill")


class Rules:
    """The rules that belong to this replica. `ask` runs a coroutine function on the handlers' side."""

    def __init__(
        self, rules: Sequence[Rule], clock: Clock, ask: Callable[[Callable[[], Any]], Awaitable[Sequence[Check]]]
    ) -> None:
        self._rules = rules
        self._clock = clock
        self._ask = ask
        self._asked: float | None = None
        self._checks: tuple[Check, ...] = tuple(
            Check(rule.name, Health.unhealthy("not asked yet"), rule.probes) for rule in rules
        )

    async def run(self) -> None:
        """Ask for ever."""
        while self._rules:
            self._asked = self._clock.monotonic()
            try:
                self._checks = tuple(await self._ask(self._all))
            except TidemillError:
                return  # the handlers are gone; the drain is under way
            self._asked = None
            await self._clock.sleep(EVERY)

    def checks(self) -> Sequence[Check]:
        """The last answers."""
        asked = self._asked
        silent = 0.0 if asked is None else self._clock.monotonic() - asked
        if silent < LONGEST:
            return self._checks
        late = Health.unhealthy(f"no answer for {silent:.0f} s")
        return [Check(check.name, late, check.probes) for check in self._checks]

    async def _all(self) -> Sequence[Check]:
        return [await self._one(rule) for rule in self._rules]

    async def _one(self, rule: Rule) -> Check:
        began = self._clock.monotonic()
        try:
            answer = rule.check()
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception:
            _log.exception("the health rule %r raised", rule.name)
            answer = Health.unhealthy("the rule failed (see the log)")
        if not isinstance(answer, Health):
            answer = Health.unhealthy(f"the rule returned {type(answer).__name__}, not Health")
        return Check(rule.name, answer, rule.probes, self._clock.monotonic() - began)
