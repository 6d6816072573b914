"""Timers: wait for what is due, write what is pending, read what others wrote.

State: each timer is a `Timed` that decides for itself; here is what they share. One task waits for the next due moment
of all timers (a minimum over them: a turn of a timer with nothing to do costs a microsecond or two, and the clock is
looked at once a second anyway, for it may jump). One short-lived task at most talks to the store: it writes all that
is pending in one batch or, once a second, reads all records and controls. So a slow store delays neither the timers
of each replica nor the drain.

Trust: the fence is compared before each start and before each batch is sent. Failure cases: a batch that raised is
unknown, and `timed` says what each timer makes of that; reads may be old, and what was decided by one is refused by
the swap, whose answer is newer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random

from tidemill.app.worker import Cron, Every, Worker
from tidemill.core.schedule import cron, every
from tidemill.core.timer import Rules, control_key, control_of, key_of
from tidemill.engine.observe import Handled
from tidemill.engine.timed import Members, Pending, Replica, Timed
from tidemill.engine.work import Call, Hands, Result, Unstarted
from tidemill.errors import Unavailable
from tidemill.model import Observer, Record, Stale, Swap
from tidemill.ports import Clock, Store

LOOK_EVERY = 1.0
LONGEST_WAIT = 1.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Timers:
    """All timers of this replica. `run()` ends after `stop()` when nothing is held or unwritten any more.

    `store` and `membership` may be None where every timer is `per_replica`.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        store: Store | None,
        membership: Members | None,
        hands: Hands,
        *,
        clock: Clock,
        random: Random,
        observer: Observer,
    ) -> None:
        self._store = store
        self._members = membership
        self._hands = hands
        self._clock = clock
        self._random = random
        self._replica = Replica(self, self._cancel, clock, random, observer)
        self._timers = {worker.name: self._timed(worker) for worker in workers}
        self._handled = {name: Handled(name, observer) for name in self._timers}
        self._changed = asyncio.Event()
        self._stopping = False
        self._exchange: asyncio.Task[None] | None = None
        self._send_at = float("-inf")
        self._pause = _FIRST_PAUSE
        if membership is not None:
            membership.listen(self)

    # --- life -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work the timers. Raises what asking the store again cannot change."""
        try:
            while not (self._stopping and self.idle):
                self._turn()
                self._exchange_soon()
                await self._clock.wait(self._changed, self._wait())
                self._changed.clear()
        finally:
            if self._exchange is not None:
                self._exchange.cancel()

    def stop(self) -> None:
        """Claim nothing more; what no handler has begun goes back at once. Idempotent."""
        self._stopping = True
        self._close(True)

    def stall(self, stalled: bool) -> None:
        """The handlers' loop is silent: keep only what it has begun, claim nothing, until it ticks again."""
        self._close(stalled or self._stopping)

    def _close(self, closed: bool) -> None:
        self._replica.closed = closed
        if closed:
            for name, timed in self._timers.items():
                for call in self._hands.take_back(name):
                    timed.ended(call, Unstarted("taken back"))
        self._changed.set()

    def cancel(self, why: str) -> None:
        """End what runs. It goes back with its attempt unchanged, or is lost where it may run at most once."""
        self._hands.cancel([t.run.call for t in self._timers.values() if t.run and t.run.call], why)

    @property
    def running(self) -> Sequence[str]:
        """The timers with a call that has not ended."""
        return [name for name, t in self._timers.items() if t.run is not None and t.run.call is not None]

    @property
    def idle(self) -> bool:
        """Nothing is held, running or unwritten."""
        return all(t.run is None and t.pending is None for t in self._timers.values())

    def results(self, results: Sequence[Result]) -> None:
        """How calls ended."""
        for result in results:
            name = result.call.worker.name
            self._handled[name].note(result)
            self._timers[name].ended(result.call, result.ends[0])
        for handled in self._handled.values():
            handled.tell()
        self._changed.set()

    # --- what membership says -------------------------------------------------------------------------------

    def fenced(self) -> None:
        """Trust has ended: what runs is cancelled, for its owner may be buried soon."""
        self._turn()

    def resumed(self) -> None:
        """What was cancelled and is still ours starts again."""
        self._changed.set()

    def buried(self) -> None:
        """What runs was claimed by an id that is dead."""
        self._turn()

    # --- the one task ---------------------------------------------------------------------------------------

    def _timed(self, worker: Worker) -> Timed:
        if isinstance(worker.trigger, Every) and worker.trigger.per_replica:
            return Timed(worker, rules_of(worker), self._replica, None)
        if self._store is None or self._members is None:
            raise TypeError(f"timer {worker.name!r} runs once for all replicas and needs a store")
        return Timed(worker, rules_of(worker), self._replica, self._members)

    def _turn(self) -> None:
        calls = [call for timed in self._timers.values() if (call := timed.turn()) is not None]
        if calls:
            self._hands.submit(calls)

    def _cancel(self, call: Call, why: str) -> None:
        self._hands.cancel([call], why)

    def _wait(self) -> float:
        """Seconds until something is due. What is sent or asked for wakes us when it is answered."""
        waits = [timed.wait() for timed in self._timers.values() if timed.pending is None]
        now = self._clock.monotonic()
        if self._store is not None and self._exchange is None:
            waits.append(self._replica.look_at - now)
            if any(self._sendable(timed) for timed in self._timers.values()):
                waits.append(self._send_at - now)
        return max(0.0, min([LONGEST_WAIT, *waits]))

    # --- the store ------------------------------------------------------------------------------------------

    def _exchange_soon(self) -> None:
        """Begin to talk to the store if there is a reason to and nobody is talking."""
        if self._exchange is not None:
            if not self._exchange.done():
                return
            exchange, self._exchange = self._exchange, None
            exchange.result()
        now, store = self._clock.monotonic(), self._store
        if store is None:
            return
        loop = asyncio.get_running_loop()
        if now >= self._send_at and any(self._sendable(timed) for timed in self._timers.values()):
            self._exchange = loop.create_task(self._send(store))
        elif now >= self._replica.look_at:
            self._exchange = loop.create_task(self._look(store))
        if self._exchange is not None:
            self._exchange.add_done_callback(lambda _: self._changed.set())

    def _sendable(self, timed: Timed) -> bool:
        return timed.pending is not None and timed.trusted()

    async def _send(self, store: Store) -> None:
        """All that is pending, in one batch."""
        batch = [(t, t.pending) for t in self._timers.values() if t.pending is not None and t.trusted()]
        if not batch:
            return
        for _, pending in batch:
            pending.sent = True
        try:
            replies = await store.swap([_swap(timed, pending) for timed, pending in batch])
        except Unavailable:
            self._send_at = self._clock.monotonic() + self._pause * (0.5 + self._random.random())
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
            for timed, pending in batch:
                timed.unanswered(pending)
            return
        self._pause = _FIRST_PAUSE
        for (timed, pending), reply in zip(batch, replies, strict=True):
            if timed.pending is not pending:
                self._replica.look_at = self._clock.monotonic()  # it was given up meanwhile: see what stands there
            elif isinstance(reply, Record):
                timed.stands(pending, pending.value, reply.version)
            else:
                timed.refused(pending, reply.current if isinstance(reply, Stale) else None)

    async def _look(self, store: Store) -> None:
        """All controls and records at once, then who of the owners is dead."""
        self._replica.look_at = self._clock.monotonic() + LOOK_EVERY
        timers = list(self._timers.values())
        shared = [timed for timed in timers if timed.shared]
        keys = [control_key(timed.worker.name) for timed in timers] + [key_of(timed.worker.name) for timed in shared]
        try:
            records = await store.get(keys)
            for timed, record in zip(timers, records, strict=False):
                timed.saw_control(control_of(None if record is None else record.value))
            for timed, record in zip(shared, records[len(timers) :], strict=True):
                timed.saw(record)
            self._replica.looked = self._clock.monotonic()
            await self._see_who_is_dead(shared)
        except Unavailable:
            return  # the next look comes soon

    async def _see_who_is_dead(self, shared: Sequence[Timed]) -> None:
        assert self._members is not None or not shared
        for timed in shared:
            owner = timed.stranger()
            if owner is None or self._members is None:
                continue
            alive = any(member.id == owner for member in self._members.members())
            if (self._members.is_buried(owner) or not alive) and await self._members.certainly_buried(owner):
                timed.buried_owner = owner


def _swap(timed: Timed, pending: Pending) -> Swap:
    return Swap(key_of(timed.worker.name), pending.version, pending.value.to_value())


def rules_of(worker: Worker) -> Rules:
    """The worker's trigger. Raises `ConfigurationError` for a schedule that cannot be read."""
    match worker.trigger:
        case Every(interval, _, misfire, once):
            return Rules(every(interval), misfire, once)
        case Cron(expression, tz, misfire, once):
            return Rules(cron(expression, tz), misfire, once)
        case other:
            raise TypeError(f"worker {worker.name!r} is no timer: {other!r}")
