"""One connection of a process that looks for news, for all its feeds and queues.

It asks often after news and seldom without (2 ms to 0.8 s); a process that wrote something says so by
`NOTIFY`, so that the others look at once. The notice is sent on a connection of its own, never in a transaction that
somebody waits for, and at most every 50 ms: a commit with a NOTIFY in it holds a lock that all such commits wait for.
Whoever listens to a topic is woken by news, and by a reconnection; with nobody listening nothing is asked.
"""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from tidemill.adapters.postgres.address import Address
from tidemill.adapters.postgres.faults import DRIVER, translate
from tidemill.adapters.postgres.names import Names
from tidemill.adapters.postgres.pool import CONNECT, options
from tidemill.adapters.postgres.windows import Ticks, tick_of
from tidemill.adapters.sql.bell import Bell
from tidemill.errors import Unavailable
from tidemill.ports import Clock

SHORTEST, LONGEST, GROWTH = 0.002, 0.8, 1.25
"""Seconds between two looks, and the factor from one to the next while nothing happens."""

UNHEARD = 0.25
"""The longest pause where notices do not come through: behind a transaction pooler."""

HOT = 1.0
"""Seconds after a message's number was drawn in which it may be committed: queues are woken at each look."""

KEPT = 2_000
"""Ticks kept in memory."""

AGAIN, SELDOM = 0.1, 0.5
"""Seconds between two tries to connect: at first, and at most. A server that is back is to be used at once."""

DEBOUNCE = 0.05
CHANNEL = "tidemill"


class Watch:
    """`bell` rings `feed` and `queue`; `ticks` are the newest that are known."""

    def __init__(self, address: Address, names: Names, clock: Clock) -> None:
        self.bell: Bell = Bell()
        self.ticks: Ticks = Ticks([])
        self._address = address
        self._clock = clock
        self._look = f"SELECT * FROM {names.schema}.look($1, $2)"
        self._newest = (
            f"SELECT id, seq, era, snapshot::text, xact::text FROM {names.schema}.tick ORDER BY id DESC LIMIT 1"
        )
        self._wake = asyncio.Event()
        self._messages = -1
        self._hearing = False
        self._signals: tuple[str | None, float] = (None, float("-inf"))
        self._hot = float("-inf")
        self._noticed = float("-inf")
        self._owed = False
        self._asked: list[asyncio.Future[None]] = []
        self._lost: str | None = f"{address.shown}: not connected"
        self._task: asyncio.Task[None] | None = None
        self._link: Any | None = None

    async def start(self) -> None:
        """Begin, once there was a first look."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="tidemill watch")
            await self.fresh()

    @property
    def signals(self) -> str | None:
        """What changes with any bell or control, as of the last look; None if that is too long ago to go by."""
        self._hearing = True
        version, at = self._signals
        return version if self._lost is None and self._clock.monotonic() - at < 2 * LONGEST else None

    def check(self) -> None:
        """Raises while there is no connection: what is known here may be old."""
        if self._lost is not None:
            raise Unavailable(self._lost)

    async def fresh(self) -> None:
        """After this, everything that was committed before is known. Raises if it cannot be found out."""
        asked = asyncio.get_running_loop().create_future()
        self._asked.append(asked)
        self._wake.set()
        await asked

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            self._lost = f"{self._address.shown}: closed"
            self._answer(self._asked)

    def poke(self, *, tell: bool = True) -> None:
        """Something was written here: look now, and let the others look (unless they need not)."""
        self._owed = self._owed or tell
        self._wake.set()

    async def _run(self) -> None:
        pause = AGAIN
        while True:
            try:
                await self._connected()
            except DRIVER as error:
                pause = AGAIN if self._lost is None else min(pause * 2, SELDOM)
                self._lost = str(translate(error, self._address.shown))
                self._answer(self._asked)
                self.bell.ring_all()  # whoever waits is to hear of it
                await self._clock.sleep(pause)
            finally:
                self._drop()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.terminate()

    def _answer(self, asked: list[asyncio.Future[None]]) -> None:
        for future in asked:
            if future.done():
                continue
            if self._lost is None:
                future.set_result(None)
            else:
                future.set_exception(Unavailable(self._lost))
        self._asked = [future for future in self._asked if not future.done()]

    async def _connected(self) -> None:
        """Look until the connection is lost. What was known before may be gone after a failover: begin anew."""
        link = await asyncpg.connect(self._address.dsn, **options(self._address, "watch"), command_timeout=CONNECT)
        self._link = link
        if not self._address.pooled:
            await link.add_listener(CHANNEL, lambda *_: self._wake.set())
        longest = UNHEARD if self._address.pooled else LONGEST
        async with link.transaction():
            newest = await link.fetchrow(self._newest)
        if newest is None:
            raise asyncpg.InterfaceError("the table tick is empty: somebody removed what Tidemill wrote")
        self.ticks = Ticks([tick_of(*newest)])
        self._messages = -1
        self.bell.ring_all()
        interval = SHORTEST
        while True:
            self._wake.clear()
            asked = list(self._asked)
            if await self._news(link, fresh=bool(asked)):
                interval = SHORTEST
            self._lost = None
            self._answer(asked)
            if self._owed:
                await self._notify(link)
            woken = await self._clock.wait(self._wake, interval)
            interval = SHORTEST if woken else min(interval * GROWTH, longest)
            await self._asked_for()

    async def _asked_for(self) -> None:
        while not (self.bell.anybody or self._hearing or self._owed or self._asked):
            await self._clock.wait(self._wake, UNHEARD)
            self._wake.clear()

    async def _news(self, link: Any, *, fresh: bool) -> bool:
        known = self.ticks.newest.id
        async with _single(link, self._address.pooled):
            rows = await link.fetch(self._look, known, fresh)
        self._signals = (rows[0][1], self._clock.monotonic())
        found = [tick_of(*row[2:]) for row in rows if row[2] is not None]
        for tick in found:
            self.ticks.add(tick)
        if found:
            self.ticks.forget(KEPT)
            self.bell.ring(("feed",))
        messages, now = rows[0][0], self._clock.monotonic()
        if messages != self._messages:
            self._messages, self._hot = messages, now + HOT
        if now <= self._hot:
            self.bell.ring(("queue",))
        return bool(found) or messages != self._messages

    async def _notify(self, link: Any) -> None:
        """Tell the other processes; what is said too early is said at the next look."""
        now = self._clock.monotonic()
        if self._address.pooled:
            self._owed = False
        elif now - self._noticed >= DEBOUNCE:
            self._owed, self._noticed = False, now
            await link.execute(f"NOTIFY {CHANNEL}")


def _single(link: Any, pooled: bool) -> Any:
    """Around one statement: a transaction where a pooler wants one."""
    return link.transaction() if pooled else _Nothing()


class _Nothing:
    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *exc: object) -> None: ...
