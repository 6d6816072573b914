"""A feed worker: read the partitions we hold, keep order per key, move the mark.

State: a `PartitionWork` for each partition held; `Dispatch` knows what runs of it. Trust: a lease is ours while
the fence of its store holds; it is compared before each user call (by the handlers' side) and before each write of
checkpoint or park. Failure cases: a lost partition is forgotten at once, its handlers are cancelled and what
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
from tidemill.core.lanes import Lanes
from tidemill.core.member import Member
from tidemill.engine.alone import Alone
from tidemill.engine.effects import Effects
from tidemill.engine.feed_dispatch import Dispatch
from tidemill.engine.feed_intake import READ_MOST, Intake
from tidemill.engine.feed_results import FeedResults
from tidemill.engine.finished import finished_of, forget_finished
from tidemill.engine.leases import Hold
from tidemill.engine.membership import Membership
from tidemill.engine.parking import Decided, Journal
from tidemill.engine.partition import PartitionWork
from tidemill.engine.patience import Patience
from tidemill.engine.tasks import Tasks
from tidemill.engine.work import Call, Hands
from tidemill.errors import TidemillError
from tidemill.model import Expired, Fact, Lag, Moved, Observer, Page
from tidemill.ports import Clock, DeadLetters, Feed, Store


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
        self.source: str = worker.trigger.source.name
        self.feed = feed
        self.paused: bool = False
        self.breaker: Breaker = Breaker()
        self.parts: dict[str, PartitionWork] = {}
        self.lags: Mapping[str, Lag] = {}
        self.measured: float | None = None
        self._store = store
        self._letters = letters
        self._membership = membership
        self._clock = clock
        self._random = random
        self._observe = observer
        self._patience = Patience(clock, random, membership.fence)
        self._wake = asyncio.Event()
        self._stopping = False
        self._stalled = False
        self._alone = alone
        alone.listen(self._wake)
        membership.notes(self.worker, self.behind)
        self._tasks = Tasks()
        results = FeedResults(
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
        self._dispatch = Dispatch(
            worker,
            self.parts,
            results,
            fence=membership.fence,
            still=lambda: self._stopping or self._stalled or self.paused,
            ended=self._wake.set,
            hands=hands,
            breaker=self.breaker,
            alone=alone,
            clock=clock,
            observer=observer,
            tasks=self._tasks,
        )
        self.intake: Intake = Intake(self, feed, wake=self._wake, clock=clock, random=random, observer=observer)

    # --- what Leases asks -----------------------------------------------------------------------------------

    async def partitions(self) -> Sequence[str]:
        return await self.feed.partitions()

    async def start(self, partition: str, since: float = 0.0) -> str:
        at = self.trigger.start
        return await self.feed.start(partition, since if since and at == "now" else at)

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
        self._dispatch.return_unstarted()
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
        self._dispatch.cancel(why, part)

    # --- running --------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Read ahead and hand over, until `stop()`."""
        while not self._stopping:
            self._tasks.check()
            cursors = self.readable()
            if not cursors:
                await self._clock.wait(self._wake, 0.25)
                self._wake.clear()
                self._dispatch.more()
                continue
            for name, page in (await self.intake.read(cursors)).items():
                self._arrived(name, cursors[name], page)
            self._dispatch.more()

    def readable(self) -> dict[str, str]:
        """The partitions that have room, with where to read on."""
        if self._stopping or self.paused or not self._membership.fence.holds(self._clock.monotonic()):
            return {}
        return {name: part.lanes.read_to for name, part in self.parts.items() if part.room() > READ_MOST // 4}

    def dispatch(self) -> None:
        """Hand over what may start."""
        self._dispatch.more()

    def room_of(self, partitions: Iterable[str]) -> int:
        """How many changes may be read of each of these."""
        return min(READ_MOST, *(self.parts[name].room() for name in partitions if name in self.parts))

    def stop(self) -> None:
        """Read nothing more and start nothing more; what runs goes on. Idempotent."""
        self._stopping = True
        for part in self.parts.values():
            part.reading = False
            part.lanes.drop_unstarted()
        self._dispatch.return_unstarted()
        self._wake.set()

    def pause(self, paused: bool) -> None:
        self.paused = paused
        if paused:
            self._dispatch.return_unstarted()
        self._wake.set()

    def stall(self, stalled: bool) -> None:
        """The handlers' loop is silent: nothing new is started; `Leases` lets go what nothing runs of."""
        self._stalled = stalled
        if stalled:
            self._dispatch.return_unstarted()
        self._wake.set()

    def cancel(self, why: str) -> None:
        """End what runs; it comes again from the mark."""
        self._dispatch.cancel(why)

    @property
    def fence(self) -> Fence:
        return self._membership.fence

    @property
    def running(self) -> Sequence[Call]:
        return self._dispatch.running

    @property
    def idle(self) -> bool:
        """Nothing is read ahead, worked on or written."""
        return not self._dispatch.running and all(not len(p.lanes) and p.quiet for p in self.parts.values())

    def decide(self, partition: str, step: Decided) -> bool:
        """Act on a wish about a parked key, if the partition is ours."""
        part = self.parts.get(partition)
        if part is None or part.closed:
            return False
        part.journal.add(step)
        return True

    async def reset(self, partition: str, cursor: str) -> bool:
        """Somebody decided: go on from another cursor. The epoch rises, so that nothing of before can be written, and
        what was finished before counts no more. False if the partition was lost before that was stored."""
        part = self.parts.get(partition)
        if part is None:
            return False
        part.reading = False
        part.lanes.drop_unstarted()
        self._dispatch.return_unstarted()
        self._dispatch.cancel("reset", part)
        while not part.quiet and not part.closed:
            await self._clock.wait(part.changed, 0.25)
            part.changed.clear()
        if part.closed:
            return False
        self._forget(part)
        if not await part.hold.reset(cursor):
            return False
        finished = await finished_of(self._store, self._patience, part.hold.key)
        if finished:
            await forget_finished(self._store, self._patience, part.hold.key, sorted(finished))
        await self.acquired(part.hold)
        return True

    async def resume_halted(self, partition: str) -> bool:
        """Somebody decided: try again what it stands still for. False if the partition was lost before that was
        stored."""
        part = self.parts.get(partition)
        if part is None or part.closed:
            return False
        if part.halted:
            part.halted = ""
            part.hold.mark(part.lanes.mark, state="running")
            self._wake.set()
        return await part.hold.flush()

    async def measure(self) -> None:
        """How far behind each partition is; for metrics and autoscalers."""
        asked = self._clock.monotonic()
        cursors = {name: part.lanes.mark for name, part in self.parts.items()}
        try:
            self.lags = await self.feed.lag(cursors) if cursors else {}
        except TidemillError:
            return  # the next one may succeed; a failing backend is told by the polls
        self.measured = asked
        items = sum(lag.items for lag in self.lags.values())
        oldest = max((lag.seconds for lag in self.lags.values()), default=0.0)
        self._observe(Fact("lag", self.worker, items, oldest))

    def behind(self) -> Mapping[str, int]:
        """Changes that were not done when measured last, by partition; of those we hold."""
        return {name: lag.items for name, lag in self.lags.items() if name in self.parts}

    def others(self) -> Sequence[Member]:
        """The other replicas that may hold partitions."""
        return [member for member in self._membership.living() if member.id != self._membership.member]

    # --- inside ---------------------------------------------------------------------------------------------

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
