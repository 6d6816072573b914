"""The outbox's forwarder: messages that were committed beside their effects, on their way to another backend.

An ordinary queue worker without a handler of the user's. It claims from the reserved queue, sends to the target under
the message's own id, then settles: a crash between sends the same id again, and the target knows duplicates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from random import Random

from tidemill.engine.claims import Claims
from tidemill.engine.effects import OUTBOX, unboxed
from tidemill.engine.membership import Membership
from tidemill.engine.patience import Patience
from tidemill.engine.places import Places
from tidemill.errors import TidemillError
from tidemill.model import MAX_WAIT, Delivery, Done, Fact, Message, Observer, Outcome
from tidemill.ports import Clock, Database, Queue

MOST = 500


class Forwarder:
    """Forwards one database's outbox."""

    def __init__(
        self,
        database: Database,
        membership: Membership,
        places: Places,
        *,
        clock: Clock,
        random: Random,
        observer: Observer,
    ) -> None:
        self._queue = database.queue(OUTBOX)
        self._membership = membership
        self._places = places
        self._clock = clock
        self._observe = observer
        self._patience = Patience(clock, random, membership.fence)
        self._stopping = False
        self._busy = False
        self._claims = Claims(self._queue, OUTBOX.name, lambda: membership.member)
        membership.frees(self._claims.free)

    @property
    def idle(self) -> bool:
        return not self._busy

    def stop(self) -> None:
        """Forward nothing more; what waits is durable."""
        self._stopping = True

    async def run(self) -> None:
        """Forward until `stop()`."""
        while not self._stopping:
            if not self._membership.fence.holds(self._clock.monotonic()):
                await self._clock.sleep(0.25)
                continue
            try:
                deliveries = await self._claims.receive(MOST, MAX_WAIT / 2)
            except TidemillError as error:
                self._observe(Fact("poll_failed", OUTBOX.name, detail={"error": str(error)}))
                await self._clock.sleep(1.0)
                continue
            if deliveries:
                self._busy = True
                try:
                    await self._forward(deliveries)
                finally:
                    self._busy = False

    async def _forward(self, deliveries: Sequence[Delivery]) -> None:
        by_target: defaultdict[str, list[Message]] = defaultdict(list)
        for delivery in deliveries:
            message = unboxed(delivery)
            by_target[message.queue].append(message)
        for target, messages in by_target.items():
            await self._send(self._places.queue(target), messages)
        outcomes = [Outcome(delivery, Done()) for delivery in deliveries]
        await self._patience.until_answered(lambda: self._queue.settle(outcomes))
        self._claims.settled(deliveries)

    async def _send(self, queue: Queue, messages: Sequence[Message]) -> None:
        await self._patience.until_answered(lambda: queue.send(messages))
