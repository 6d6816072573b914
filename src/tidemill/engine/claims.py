"""Claims that nobody knows of: a receive may commit and its reply be lost, and then its member lives on and holds them.

State: each receive claims under an owner of its own, `<member>.<n>.<worker>`; `_known` counts what came in under each
and has not been settled. Trust: an owner of ours that is neither known nor being asked for holds only what was lost on
the way, so it is freed, as the owners of buried members are; that is looked at whenever membership frees. Failure case:
a receive that is still on its way when its owner is freed claims after that: it is freed at the next look.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from tidemill.model import Delivery
from tidemill.ports import Queue


class Claims:
    """Receives from one queue for one worker, and frees what is nobody's."""

    def __init__(self, queue: Queue, worker: str, member: Callable[[], str]) -> None:
        self._queue = queue
        self._worker = worker
        self._member = member
        self._count = 0
        self._asked = ""
        self._owners: dict[str, str] = {}  # by claim
        self._known: Counter[str] = Counter()

    async def receive(self, limit: int, wait: float) -> Sequence[Delivery]:
        """As `Queue.receive`, for our member. One at a time."""
        self._count += 1
        member = self._member()
        self._asked = owner = f"{member}.{self._count}.{self._worker}"
        try:
            deliveries = await self._queue.receive(owner, limit, wait)
            if self._member() != member:
                return []  # it was buried while the reply was on its way: they are others' now
            self._owners.update((delivery.claim, owner) for delivery in deliveries)
            self._known[owner] += len(deliveries)
        finally:
            self._asked = ""
        return deliveries

    def settled(self, deliveries: Iterable[Delivery]) -> None:
        """These are not ours any more."""
        for delivery in deliveries:
            owner = self._owners.pop(delivery.claim, None)
            if owner is not None:
                self._known[owner] -= 1
                if self._known[owner] <= 0:
                    del self._known[owner]

    async def free(self, members: Sequence[str]) -> Sequence[str]:
        """End the claims of these members, and those of ours that we do not know of. The members that hold others."""
        holding = await self._queue.free([])
        buried, mine = set(members), self._member()
        gone = [owner for owner in holding if _member_of(owner) in buried or self._unknown(owner, mine)]
        if gone:
            holding = await self._queue.free(gone)
        return sorted({_member_of(owner) for owner in holding})

    def _unknown(self, owner: str, mine: str) -> bool:
        """Ours (two workers may share a queue), and neither known nor being asked for."""
        ours = _member_of(owner) == mine and owner.split(".", 2)[2:] == [self._worker]
        return ours and owner != self._asked and owner not in self._known


def _member_of(owner: str) -> str:
    return owner.partition(".")[0]
