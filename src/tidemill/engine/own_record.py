"""Our own member record: created, renewed, deleted. `membership` decides what each reply means for our trust.

State: the version that stands for certain, and the writes that were sent since, each with the moment it was *first*
sent. Nobody but us writes a record of ours that lives. So a stale reply that shows a living record shows a write of
ours whose reply was lost, and how long ago it was sent; a stale reply that shows anything else means that we were
buried. Failure cases: a renewal that is not answered is not cancelled, for it may commit; up to four are on their way
beside each other, all over the same version, of which one can win. A reply of an older one is passed over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from tidemill.core.member import Behind, Member, key_of
from tidemill.engine.work import Profile
from tidemill.errors import Unavailable
from tidemill.model import Gone, Record, Stale, Swap, Swapped
from tidemill.ports import Clock, Store

TRIES = (1.0, 1.6, 1.9)
"""When a renewal is sent, in renewal intervals after the send of the last good one; then one each `AGAIN`."""
AGAIN = 0.2
JITTER = 0.1
AT_ONCE = 4
WAIT = 1.0


@dataclass(frozen=True, slots=True)
class _Sent:
    """A write that may stand: when it was first sent, and what it says."""

    at: float
    member: Member


class OwnRecord:
    """`member` is what we want to be seen as, `stored` what was seen last for certain.

    `replied` is told with each reply: when the write that stands was sent (monotonic), or None: we were buried.
    `behind` is asked at each renewal, for what it notes beside.
    """

    def __init__(
        self,
        store: Store,
        member: Member,
        *,
        clock: Clock,
        random: Random,
        profile: Profile,
        replied: Callable[[float | None], None],
        behind: Callable[[], Behind] = dict,
    ) -> None:
        self._store = store
        self._clock = clock
        self._random = random
        self._interval = profile.renew
        self._replied = replied
        self._behind = behind
        self.restart(member)

    def restart(self, member: Member) -> None:
        """Another id: nothing is known of its record."""
        self.member = member
        self.stored: Member | None = None
        self.wake: asyncio.Event = asyncio.Event()
        self._version: str | None = None
        self._good = self._last = float("-inf")
        self._interval_now = self._interval
        self._tries = self._in_flight = 0
        self._asked: Member | None = None
        self._sent: dict[str, _Sent] = {}

    def wait(self) -> float:
        """Seconds until the next renewal is to be sent; 0 or less for now."""
        if self._in_flight >= AT_ONCE:
            return WAIT
        if self._asked is not self.member:
            return 0.0
        now = self._clock.monotonic()
        if self._tries == 0:
            return self._good + self._interval_now - now
        if self._tries < len(TRIES):
            return self._good + TRIES[self._tries] * self._interval - now
        return self._last + AGAIN * self._interval - now

    async def create(self) -> bool:
        """One try to create it; the same write each time. False if it is not known to stand. Raises `Unavailable`."""
        if not self._sent:
            self._sent[self._new_write()] = _Sent(self._clock.monotonic(), self.member)
        [(write, sent)] = self._sent.items()
        self._asked = sent.member
        value = replace(sent.member, write=write).to_value()
        [result] = await self._store.swap([Swap(key_of(sent.member.id), None, value)])
        self._take(write, result)
        return self._version is not None

    async def renew(self) -> None:
        """Send one renewal. Ends with its reply, however late that is."""
        write, member, now = self._new_write(), self.member, self._clock.monotonic()
        self._sent[write] = _Sent(now, member)
        self._asked, self._last = member, now
        self._tries += 1
        self._in_flight += 1
        noted = replace(member, write=write, behind=self._behind())
        swap = Swap(key_of(member.id), self._version, noted.to_value())
        result: Swapped | None = None
        try:
            [result] = await self._store.swap([swap])
        except Unavailable:
            pass  # it may have committed: then a later one is stale, and finds this write
        if member.id != self.member.id:
            return  # of a former life
        self._in_flight -= 1
        if result is not None:
            self._take(write, result)
        self.wake.set()

    async def delete(self) -> None:
        """Remove it, if it is there. Returns when it is known to be gone, or buried."""
        while self._version is not None:
            try:
                [result] = await self._store.swap([Swap(key_of(self.member.id), self._version, None)])
            except Unavailable:
                await self._clock.sleep(AGAIN)
                continue
            living = _living(result)
            self._version = None if isinstance(result, Gone) or living is None else living.version

    def _take(self, write: str, result: Swapped) -> None:
        if isinstance(result, Record):
            self._stands(write, result.version)
        elif (living := _living(result)) is not None:
            self._asked = None  # whatever stands, it is not what we sent just now
            self._stands(str(living.value.get("write")), living.version)
        else:
            self._replied(None)

    def _stands(self, write: str, version: str) -> None:
        sent = self._sent.get(write)
        if sent is None or sent.at < self._good:
            if self._asked is None:
                self._version = version
            return
        self._version, self.stored = version, sent.member
        self._good, self._tries = sent.at, 0
        self._interval_now = self._interval * (1 + JITTER * (2 * self._random.random() - 1))
        self._sent = {w: s for w, s in self._sent.items() if s.at > sent.at}
        self._replied(sent.at)

    def _new_write(self) -> str:
        return f"{self._random.getrandbits(64):016x}"


def _living(result: Swapped) -> Record | None:
    current = result.current if isinstance(result, Stale) else None
    return current if current is not None and current.value.get("state") == "live" else None
