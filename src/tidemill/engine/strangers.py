"""Hosts of another kind beside us, as `Leases` sees them: who lives, who is silent, which of our leases have lapsed.

Where there can be none (no `rules`) nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Sequence

from tidemill.core.foreign import Rules, Vigil
from tidemill.engine.lease_view import LeaseView
from tidemill.model import Fact, Observer
from tidemill.ports import Clock


class Strangers:
    """One vigil for each feed worker."""

    def __init__(self, rules: Rules | None, clock: Clock, observer: Observer) -> None:
        self._rules = rules
        self._clock = clock
        self._observe = observer
        self._vigils: dict[str, Vigil] = {}

    def respect(self, view: LeaseView, asked: float) -> None:
        """After a good read that was asked for at `asked` (monotonic): note in the view whose holders have been silent
        for long enough, and tell each change of hands once."""
        if self._rules is None:
            return
        vigil = self._vigils.setdefault(view.worker, Vigil(self._rules))
        found, received = view.strangers(), self._clock.monotonic()
        view.silent = vigil.saw(found, sent=asked, received=received, now=self._clock.now())
        for partition, owner in vigil.news(found):
            self._observe(Fact("foreign_owner", view.worker, detail={"partition": partition, "owner": owner}))

    def lapsed(self, view: LeaseView) -> Sequence[str]:
        """The partitions that we hold and whose own fence has passed."""
        return [] if self._rules is None else view.lapsed(self._clock.monotonic())
