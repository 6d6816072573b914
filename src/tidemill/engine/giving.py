"""Giving partitions away: each when it is quiet, in one write, with a hint who should take it.

State: a task for each partition that is being given, in its view. A partition that does not get quiet is kept and tried
later: balance is never worth a duplicate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any

from tidemill.engine.hold import Hold
from tidemill.engine.lease_view import LeaseView
from tidemill.model import Fact, Observer
from tidemill.ports import Clock

QUIET_WITHIN = 8.0
TRY_LATER = 30.0


class Giving:
    """Gives for `Leases`, out of its `views`. `ended` is told of each hold that was released, `ring` wakes those who
    may take it, `changed` is called when one has come to its end, either way; `plan` says who should take what."""

    def __init__(
        self,
        *,
        clock: Clock,
        observer: Observer,
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        ended: Callable[[Hold, str], None],
        ring: Callable[[str], Awaitable[None]],
        changed: Callable[[], None],
        views: Mapping[str, LeaseView],
        plan: Callable[[], Mapping[str, Sequence[tuple[str, str | None]]]],
    ) -> None:
        self._clock = clock
        self._observe = observer
        self._spawn = spawn
        self._ended = ended
        self._ring = ring
        self._changed = changed
        self._views = views
        self._plan = plan

    def some(self, view: LeaseView, releases: Sequence[tuple[str, str | None]]) -> float:
        """Begin with these, as far as they may be tried. When another may be (monotonic)."""
        now, again = self._clock.monotonic(), float("inf")
        for partition, next_owner in releases:
            hold, kept = view.holds.get(partition), view.kept_until.get(partition, float("-inf"))
            if kept > now:
                again = min(again, kept)
            elif hold is not None and partition not in view.giving:
                view.giving[partition] = self._spawn(self.give(view, hold, next_owner, now + QUIET_WITHIN))
        return again

    async def all(self, deadline: float) -> None:
        """Give everything until `deadline` (monotonic), in place of what is being given already."""
        views = list(self._views.values())
        under_way = [task for view in views for task in view.giving.values()]
        for task in under_way:
            task.cancel()
        if under_way:
            await asyncio.wait(under_way)
        next_owner = {(name, p): owner for name, pairs in self._plan().items() for p, owner in pairs}
        await asyncio.gather(
            *(
                self.give(view, hold, next_owner.get((view.worker, hold.partition)), deadline)
                for view in views
                for hold in list(view.holds.values())
            )
        )

    async def give(self, view: LeaseView, hold: Hold, next_owner: str | None, deadline: float) -> None:
        """Give this one, if it gets quiet until `deadline` (monotonic)."""
        partition = hold.partition
        try:
            await asyncio.wait([view.begun[partition]])
            if not hold.lost and await view.holder.quiet(partition, deadline):
                if await hold.release(next_owner):
                    self._ended(hold, "released")
                    await self._ring(view.group)
            elif not hold.lost:
                view.kept_until[partition] = self._clock.monotonic() + TRY_LATER
                self._observe(Fact("lease_kept", view.worker, detail={"partition": partition}))
        finally:
            view.giving.pop(partition, None)
            self._changed()
