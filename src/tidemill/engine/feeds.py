"""A feed worker: read the partitions we hold, keep order per key, move the mark.

State: a `PartitionWork` for each partition held; `_works` says what each running call is about. Trust: a lease is ours
while the fence of its store holds; it is compared before each user call (by the handlers' side) and before each
write of checkpoint or park. Failure cases: a lost partition is forgotten at once, its handlers are cancelled and what
they still return is ignored; a crash re-reads from the mark; a key that fails goes by the park and never holds
the mark.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from tidemill.app.worker import OnChange, Worker
from tidemill.core.breaker import Breaker
from tidemill.core.fence import Fence
from tidemill.core.flow import Flow
from tidemill.core.lanes import Lanes
from tidemill.engine.alone import Alone
from tidemill.engine.effects import Effects
from tidemill.engine.feed_intake import READ_MOST, Intake
from tidemill.engine.feed_results import FeedResults
from tidemill.engine.finished import finished_of, forget_finished
from tidemill.engine.leases import Hold
from tidemill.engine.membership import Membership
from tidemill.engine.parking import Decided, Journal
from tidemill.engine.partition import PartitionWork, Work
from tidemill.engine.patience import Patience
from tidemill.engine.tasks import Tasks
from tidemill.engine.work import Call, Hands, Result
from tidemill.errors import TidemillError
from tidemill.model import Expired, Fact, Lag, Moved, Observer, Page
from tidemill.ports import Clock, DeadLetters, Feed, Store

PARKED_AT_ONCE = 4


class FeedWorker:
    """Works the partitions of one feed with one handler: `run()` until `stop()`; `Leases` gives and takes them."""

    def __init__(
        self,
        worker: Worker,
        feed: Feed,
        *,
        store: Store,
        letters: DeadLetters,
        membership: Membership,
        hands: Hands,
        effects: Effects | None,
        alone: Alone,
        clock: Clock,
        random: Random,
        observer: Observer,
    ) -> None:
        assert isinstance(worker.trigger, OnChange)
        self.trigger: OnChange = worker.trigger
        self.declared = worker
        self.worker: str = worker.name
        self.group: str = worker.group
        self.feed = feed
        self.paused: bool = False
        self.breaker: Breaker = Breaker()
        self.parts: dict[str, PartitionWork] = {}
        self.lags: Mapping[str, Lag] = {}
        self._store = store
        self._letters = letters
        self._membership = membership
        self._hands = hands
        self._clock = clock
        self._random = random
        self._observe = observer
        self._patience = Patience(clock, random, membership.fence)
        self._batch = worker.policy.batch
        self._flow = Flow(worker.policy.concurrency * (self._batch or 1), worker.policy.rate, clock.monotonic())
        self._works: dict[Call, Work] = {}
        self._running = 0
        self._turn = 0
        self._wake = asyncio.Event()
        self._stopping = False
        self._stalled = False
        self._open = False
        self._alone = alone
        self._alone.listen(self._wake)
        self._tasks = Tasks()
        self.intake: Intake = Intake(self, feed, wake=self._wake, clock=clock, random=random, observer=observer)
        self._results = FeedResults(
            worker,
            letters,
            effects=effects,
            breaker=self.breaker,
            patience=self._patience,
            clock=clock,
            random=random,
            observer=observer,
            tasks=self._tasks,
            lose=self.lost,
            ended=self._wake.set,
        )

    # --- what Leases asks -----------------------------------------------------------------------------------

    async def partitions(self) -> Sequence[str]:
        return await self.feed.partitions()

    async def start(self, partition: str) -> str:
        return await self.feed.start(partition, self.trigger.start)

    async def acquired(self, hold: Hold) -> None:
        """The lease is ours: seal the park, read what is finished, begin."""
        journal = Journal(
            self.worker,
            hold.partition,
            store=self._store,
            letters=self._letters,
            patience=self._patience,
            random=self._random,
            tasks=self._tasks,
            now=self._clock.now,
            lost=lambda why: self.lost(hold.partition, why),
            changed=self._wake.set,
        )
        await journal.seal(hold.token[0])
        finished = await finished_of(self._store, self._patience, hold.key)
        part = PartitionWork(hold, journal, finished, lambda: self._store_soon(hold))
        if hold.lease.state == "halted":
            part.halted = "halted"
        if not hold.lost:
            self.parts[hold.partition] = part
            self._wake.set()

    async def quiet(self, partition: str, deadline: float) -> bool:
        """Stop reading it and let what runs end; True once nothing of it runs. Else it is kept."""
        part = self.parts.get(partition)
        if part is None:
            return True
        part.reading = False
        part.lanes.drop_unstarted()
        self.return_unstarted()
        while not part.quiet and not part.closed and self._clock.monotonic() < deadline:
            await self._clock.wait(part.changed, min(0.25, max(deadline - self._clock.monotonic(), 0.001)))
            part.changed.clear()
        if part.closed:
            return True
        part.mark()
        if part.quiet:
            self._forget(part)
            return True
        self._tasks.spawn(self._restart(part))
        return False

    def lost(self, partition: str, why: str) -> None:
        """It is not ours any more: cancel what runs, write nothing."""
        part = self.parts.get(partition)
        if part is None:
            return
        self._forget(part)
        self._observe(Fact("partition_lost", self.worker, detail={"partition": partition, "why": why}))
        self._hands.cancel([call for call, work in self._works.items() if work.partition is part], why)

    # --- running --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read ahead and hand over, until `stop()`."""
        while not self._stopping:
            self._tasks.check()
            cursors = self.readable()
            if not cursors:
                await self._clock.wait(self._wake, 0.25)
                self._wake.clear()
                self.dispatch()
                continue
            for name, page in (await self.intake.read(cursors)).items():
                self._arrived(name, cursors[name], page)
            self.dispatch()

    def readable(self) -> dict[str, str]:
        """The partitions that have room, with where to read on."""
        if self._stopping or self.paused or not self._membership.fence.holds(self._clock.monotonic()):
            return {}
        return {name: part.lanes.read_to for name, part in self.parts.items() if part.room() > READ_MOST // 4}

    def room_of(self, partitions: Iterable[str]) -> int:
        """How many changes may be read of each of these."""
        return min(READ_MOST, *(self.parts[name].room() for name in partitions if name in self.parts))

    def stop(self) -> None:
        """Read nothing more and start nothing more; what runs goes on. Idempotent."""
        self._stopping = True
        for part in self.parts.values():
            part.reading = False
            part.lanes.drop_unstarted()
        self.return_unstarted()
        self._wake.set()

    def pause(self, paused: bool) -> None:
        self.paused = paused
        if paused:
            self.return_unstarted()
        self._wake.set()

    def stall(self, stalled: bool) -> None:
        """The handlers' loop is silent: nothing new is started; `Leases` lets go what nothing runs of."""
        self._stalled = stalled
        if stalled:
            self.return_unstarted()
        self._wake.set()

    def cancel(self, why: str) -> None:
        """End what runs; it comes again from the mark."""
        self._hands.cancel(list(self._works), why)

    @property
    def fence(self) -> Fence:
        return self._membership.fence

    @property
    def running(self) -> Sequence[Call]:
        return list(self._works)

    @property
    def idle(self) -> bool:
        """Nothing is read ahead, worked on or written."""
        return not self._works and all(not len(p.lanes) and p.quiet for p in self.parts.values())

    def return_unstarted(self, *, waited: float = 0.0) -> None:
        """Take back what no handler has begun; it stays first in its lane."""
        now = self._clock.monotonic()
        for call in self._hands.take_back(self.worker, waited=waited):
            work = self._works.pop(call)
            self._running -= len(call.items)
            self._results.unstarted(work, now)
            self._alone.release(work.partition)

    def decide(self, partition: str, step: Decided) -> bool:
        """Act on a wish about a parked key, if the partition is ours."""
        part = self.parts.get(partition)
        if part is None or part.closed:
            return False
        part.journal.add(step)
        return True

    async def reset(self, partition: str, cursor: str) -> bool:
        """Somebody decided: go on from another cursor. The epoch rises, so that nothing of before can be written.
        False if the partition was lost before that was stored."""
        part = self.parts.get(partition)
        if part is None:
            return False
        part.reading = False
        part.lanes.drop_unstarted()
        self.return_unstarted()
        self._hands.cancel([call for call, work in self._works.items() if work.partition is part], "reset")
        while not part.quiet and not part.closed:
            await self._clock.wait(part.changed, 0.25)
            part.changed.clear()
        if part.closed:
            return False
        self._forget(part)
        if not await part.hold.reset(cursor):
            return False
        await self.acquired(part.hold)
        return True

    def resume_halted(self, partition: str) -> None:
        part = self.parts.get(partition)
        if part is not None and part.halted:
            part.halted = ""
            part.hold.mark(part.lanes.mark, state="running")
            self._wake.set()

    async def measure(self) -> None:
        """How far behind each partition is; for status and metrics."""
        cursors = {name: part.lanes.mark for name, part in self.parts.items()}
        try:
            self.lags = await self.feed.lag(cursors) if cursors else {}
        except TidemillError:
            return  # the next one may succeed; a failing backend is told by the polls
        items = sum(lag.items for lag in self.lags.values())
        oldest = max((lag.seconds for lag in self.lags.values()), default=0.0)
        self._observe(Fact("lag", self.worker, items, oldest))

    def results(self, results: Sequence[Result]) -> None:
        """Ends of calls: lanes, marks, parks; then more work."""
        now = self._clock.monotonic()
        ended = 0
        for result in results:
            work = self._works.pop(result.call, None)
            if work is None:
                continue
            ended += len(result.ends)
            alone = work.partition.single
            self._results.take(work, result, now)
            if alone:
                self._tasks.spawn(self._stepped(work.partition))
        self._running -= ended
        self._flow.ended(ended, now)
        self._results.flush()
        self._watch_breaker(now)
        self.dispatch()
        self._wake.set()

    def dispatch(self) -> None:
        """Hand over what may start, fairly over the partitions, as much as can start soon."""
        now = self._clock.monotonic()
        room = self._room(now)
        calls: list[Call] = []
        parts = list(self.parts.values())
        for offset in range(len(parts)):
            if room <= 0:
                break
            part = parts[(self._turn + offset) % len(parts)]
            if part.closed or part.halted or not part.reading:
                continue
            made = self._calls_of(part, room, now)
            room -= sum(len(call.items) for call in made)
            calls += made
        self._turn += 1
        if calls:
            self._running += sum(len(call.items) for call in calls)
            self._flow.took(sum(len(call.items) for call in calls))
            self._hands.submit(calls)

    # --- inside ---------------------------------------------------------------------------------------------

    def _room(self, now: float) -> int:
        if self._stopping or self._stalled or self.paused or not self._membership.fence.holds(now):
            return 0
        allowed = self.breaker.allow(now)
        if allowed is not None:
            return max(allowed - self._running, 0)
        return self._flow.room(self._running, now)

    def _calls_of(self, part: PartitionWork, room: int, now: float) -> list[Call]:
        self._try_parked(part)
        if part.single:
            return self._single(part, now)
        if self._batch:
            entries = part.lanes.take_batch(min(room, self._batch), now)
            return [self._call(Work(part, entries))] if entries else []
        return [self._call(Work(part, (entry,))) for entry in part.lanes.take(room, now)]

    def _call(self, work: Work) -> Call:
        entries = work.entries
        call = Call(
            self.declared,
            tuple([entry.change for entry in entries]),
            self._membership.fence,
            self,
            entries[0].failures + 1,
            1,
            work.partition.token,
        )
        self._works[call] = work
        work.partition.calls += 1
        return call

    def _single(self, part: PartitionWork, now: float) -> list[Call]:
        """One change at a time, each named in the lease before it starts: who ends the process is found."""
        if part.calls or part.trying or not part.lanes.startable(now) or not self._alone.take(part):
            return []
        [entry] = part.lanes.take(1, now)
        if part.condemned == entry.change.order:
            part.condemned = None
            self._alone.release(part)
            self._results.killer(part, entry, now)
            return []
        part.calls += 1  # it counts as running while its name is being written
        self._tasks.spawn(self._name_then_start(part, Work(part, (entry,))))
        return []

    async def _name_then_start(self, part: PartitionWork, work: Work) -> None:
        part.step(work.entries[0].change.order)
        await part.hold.flush()
        part.calls -= 1
        if part.closed or part.hold.lost or self._stopping or not part.reading:
            part.lanes.put_back(work.entries[0], 0.0, 0.0)
            part.changed.set()
            self._alone.release(part)
            return
        call = self._call(work)
        self._running += 1
        self._hands.submit([call])

    def _try_parked(self, part: PartitionWork) -> None:
        """Begin with the heads of keys that are due; a few at a time, so that live changes go on."""
        if not part.journal.index.keys or part.single:
            return
        for key in part.journal.index.due(self._clock.now()):
            if len(part.trying) >= PARKED_AT_ONCE:
                return
            if key not in part.trying:
                part.trying.add(key)
                self._tasks.spawn(self._try_head(part, key))

    async def _try_head(self, part: PartitionWork, key: str) -> None:
        change = await part.journal.head(key)
        if change is None or part.closed or not part.reading or self._stopping:
            part.trying.discard(key)
            return
        call = self._call(self._results.head(part, key, change))
        self._running += 1
        self._hands.submit([call])

    def _arrived(self, name: str, asked: str, page: Page | Moved | Expired) -> None:
        part = self.parts.get(name)
        if part is None or not part.reading or part.lanes.read_to != asked:
            return  # it was given up meanwhile, or came back: then it reads again from its mark
        match page:
            case Page():
                part.arrived(page)
                part.mark()
            case Expired(cursor):
                self._observe(Fact("expired", self.worker, detail={"partition": name}))
                if part.quiet and not len(part.lanes):
                    part.lanes = Lanes(cursor)
                    part.mark()
            case Moved(children):
                part.reading = False
                self._tasks.spawn(self._split(part, children))

    async def _split(self, part: PartitionWork, children: Mapping[str, str]) -> None:
        """Work off what was read and what is parked, then hand the children on. Parked keys keep the parent."""
        while not part.closed and (len(part.lanes) or not part.quiet or part.journal.index.keys):
            await self._clock.wait(part.changed, 1.0)
            part.changed.clear()
        if not part.closed:
            self._forget(part)
            if not await part.hold.split(children) and not part.hold.lost:
                self._observe(Fact("halted", self.worker, detail={"partition": part.name, "error": "it was merged"}))

    async def tidy(self, part: PartitionWork) -> None:
        """Remove finished rows that lie below the mark as it is stored."""
        gone = part.stored_below()
        if gone:
            await forget_finished(self._store, self._patience, part.hold.key, gone)

    async def _restart(self, part: PartitionWork) -> None:
        """It is kept: once what runs has ended, go on from the mark."""
        while not part.quiet and not part.closed:
            await self._clock.wait(part.changed, 0.25)
            part.changed.clear()
        if not part.closed and not self._stopping:
            part.lanes = Lanes(part.lanes.mark)
            part.reading = True
            self._wake.set()

    def _watch_breaker(self, now: float) -> None:
        """Say once that it opened: a worker that stands still should not do so in silence."""
        if self.breaker.is_open(now) != self._open:
            self._open = not self._open
            if self._open:
                self._observe(Fact("breaker", self.worker, detail={"error": self.breaker.error}))

    async def _stepped(self, part: PartitionWork) -> None:
        """What came of the one that ran alone is stored before another suspect may start."""
        await part.hold.flush()
        self._alone.release(part)

    def _store_soon(self, hold: Hold) -> None:
        async def store() -> None:
            await hold.flush()

        self._tasks.spawn(store())

    def _forget(self, part: PartitionWork) -> None:
        part.closed = True
        part.journal.close()
        self._alone.release(part)
        if self.parts.get(part.name) is part:
            del self.parts[part.name]
