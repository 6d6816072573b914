"""Claims that end by a deadline of their own, as brokers have them, are kept for as long as their work is with us.

State: for each call that is waiting or running, a claim for each of its deliveries: its deadline, and when it is to be
extended (after a third of its time). Trust: the fence of such a call is the earliest deadline of its claims, each
counted from *before* the request that gave it; it is compared before the handler starts. Failure cases. *An extension
is not answered*: the deadlines stand as they are, and it is asked again at the next look. *A claim is lost*: the fence
is dropped, so what has not begun does not begin; what runs goes on, for its work may be half done, and its settle is
refused. *We were frozen*: the deadline has passed before anything starts. *A coroutine that ignores its time limit* is
no longer kept `OVERRUN` seconds after it; a plain function cannot be ended, so its claim is kept until it returns.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from tidemill.app.worker import Worker
from tidemill.core.fence import Fence
from tidemill.engine.work import Call
from tidemill.errors import TidemillError
from tidemill.model import Delivery, Fact, Lost, Observer
from tidemill.ports import Clock, Queue

KEEP_EVERY = 1.0
"""Seconds between two looks."""

OVERRUN = 10.0
"""Seconds beyond its time limit after which a call counts as running on: the claim of a coroutine is kept no longer."""

FOREVER = float("inf")


@dataclass(slots=True)
class _Claim:
    delivery: Delivery
    deadline: float
    due: float


class Keeper:
    """Keeps the claims of one queue worker. Claims without a deadline are none of its business."""

    def __init__(self, worker: Worker, queue: Queue, clock: Clock, observer: Observer) -> None:
        limit = worker.policy.time_limit
        ends = limit is not None and inspect.iscoroutinefunction(worker.handler)
        self._patience = limit + OVERRUN if limit is not None and ends else FOREVER
        self._worker = worker.name
        self._queue = queue
        self._observe = observer
        self._clock = clock
        self._claims: dict[Call, list[_Claim]] = {}

    def fence(self, deliveries: Sequence[Delivery]) -> Fence | None:
        """What a call for these trusts in, if that is their deadlines; None if it is something else. A backend's claims
        have deadlines or have none, so the first tells."""
        if deliveries[0].deadline == FOREVER:
            return None
        return Fence(min(delivery.deadline for delivery in deliveries))

    def took(self, call: Call) -> None:
        """Keep the claims of this call, until `ended`."""
        first = call.items[0]
        if isinstance(first, Delivery) and first.deadline != FOREVER:
            now, items = self._clock.monotonic(), [item for item in call.items if isinstance(item, Delivery)]
            self._claims[call] = [_Claim(item, item.deadline, _third(now, item.deadline)) for item in items]

    def ended(self, call: Call) -> None:
        """What it claimed is settled next."""
        if self._claims:
            self._claims.pop(call, None)

    async def keep(self) -> None:
        """Extend what is due."""
        now = self._clock.monotonic()
        due = [
            (call, claim)
            for call, claims in self._claims.items()
            if not call.started or now - call.started < self._patience
            for claim in claims
            if now >= claim.due
        ]
        if not due:
            return
        try:
            replies = await self._queue.extend([claim.delivery for _, claim in due])
        except TidemillError:  # that the backend fails is told by the polls
            return
        lost = 0
        for (call, claim), reply in zip(due, replies, strict=True):
            if isinstance(reply, Lost):
                lost += call in self._claims  # else it was settled while we asked
                claim.due = FOREVER
                call.fence.drop()
            else:
                claim.deadline, claim.due = reply, _third(now, reply)
                self._extend(call)
        if lost:
            self._observe(Fact("claims_lost", self._worker, lost))

    def _extend(self, call: Call) -> None:
        claims = self._claims.get(call, ())
        if claims and not any(claim.due == FOREVER for claim in claims):
            call.fence.deadline = min(claim.deadline for claim in claims)


def _third(now: float, deadline: float) -> float:
    """The moment at which two thirds of the time are left."""
    return now + (deadline - now) / 3
