"""What of a feed's partitions starts now: fair over the partitions, one of each key, as much as can start soon.

State: `_works` says what each running call is about; `_running` counts their changes. All on the engine's loop. Trust:
nothing starts unless the fence holds; the handlers' side compares it once more before each call. After crashes a
partition runs one change at a time, each named in the lease before it starts, and one suspect in the whole replica.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tidemill.app.worker import Worker
from tidemill.core.breaker import Breaker
from tidemill.core.fence import Fence
from tidemill.core.flow import Flow
from tidemill.core.lanes import Entry
from tidemill.engine.alone import Alone
from tidemill.engine.feed_results import FeedResults
from tidemill.engine.observe import BreakerWatch
from tidemill.engine.partition import PartitionWork, Work
from tidemill.engine.tasks import Tasks
from tidemill.engine.work import Call, Hands, Result
from tidemill.model import Observer
from tidemill.ports import Clock

PARKED_AT_ONCE = 4


class Dispatch:
    """Starts calls for `parts`, and is where their results come back. `still`: nothing may start at present."""

    def __init__(
        self,
        worker: Worker,
        parts: Mapping[str, PartitionWork],
        results: FeedResults,
        *,
        fence: Fence,
        still: Callable[[], bool],
        ended: Callable[[], None],
        hands: Hands,
        breaker: Breaker,
        alone: Alone,
        clock: Clock,
        observer: Observer,
        tasks: Tasks,
    ) -> None:
        self._worker = worker
        self._parts = parts
        self._results = results
        self._fence = fence
        self._still = still
        self._ended = ended
        self._hands = hands
        self._breaker = breaker
        self._alone = alone
        self._clock = clock
        self._tasks = tasks
        self._batch = worker.policy.batch
        self._breaker_watch = BreakerWatch(worker.name, breaker, observer)
        self._flow = Flow(worker.policy.concurrency * (self._batch or 1), worker.policy.rate, clock.monotonic())
        self._works: dict[Call, Work] = {}
        self._running = 0
        self._turn = 0

    @property
    def running(self) -> Sequence[Call]:
        return list(self._works)

    def more(self) -> None:
        """Hand over what may start."""
        now = self._clock.monotonic()
        allowed = self._breaker.allow(now)
        room = self._room(now, allowed)
        calls: list[Call] = []
        taken = 0
        for part in self._in_turn(now, trial=allowed is not None and room > 0):
            if taken >= room:
                break
            if part.closed or part.halted or not (part.reading and part.hold.fence.holds(now)):
                continue
            made = self._calls_of(part, room - taken, now, trial=allowed is not None)
            taken += sum([len(call.items) for call in made])
            calls += made
        if calls:
            self._running += taken
            self._flow.took(taken)
            self._hands.submit(calls)

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
        self._breaker_watch.look(now)
        self.more()
        self._ended()

    def cancel(self, why: str, part: PartitionWork | None = None) -> None:
        """End what runs, of this partition or of all; it comes again from the mark."""
        self._hands.cancel([call for call, work in self._works.items() if part is None or work.partition is part], why)

    def return_unstarted(self) -> None:
        """Take back what no handler has begun; it stays first in its lane."""
        now = self._clock.monotonic()
        for call in self._hands.take_back(self._worker.name):
            work = self._works.pop(call)
            self._running -= len(call.items)
            self._results.unstarted(work, now)
            self._alone.release(work.partition)

    def _in_turn(self, now: float, *, trial: bool) -> Sequence[PartitionWork]:
        """Each is first in its turn; but a suspect before all, for an innocent should not wait for the next crash, and
        in a trial the one with the best hope."""
        parts = list(self._parts.values())
        self._turn = (self._turn + 1) % max(len(parts), 1)
        turn = [*parts[self._turn :], *parts[: self._turn]]
        if trial:
            return sorted(turn, key=lambda part: _failures(part.lanes.trial(now)))
        return sorted(turn, key=_unsuspected)

    # --- inside ---------------------------------------------------------------------------------------------

    def _room(self, now: float, allowed: int | None) -> int:
        if self._still() or not self._fence.holds(now):
            return 0
        if allowed is not None:
            return max(allowed - self._running, 0)
        return self._flow.room(self._running, now)

    def _calls_of(self, part: PartitionWork, room: int, now: float, *, trial: bool) -> list[Call]:
        self._try_parked(part)
        if part.single:
            self._single(part, now)
            return []
        if trial or self._batch:
            entries = part.lanes.take_trial(now) if trial else part.lanes.take_batch(min(room, self._batch or 1), now)
            return [self._call(Work(part, entries))] if entries else []
        return [self._call(Work(part, (entry,))) for entry in part.lanes.take(room, now)]

    def _call(self, work: Work) -> Call:
        entries = work.entries
        call = Call(
            self._worker,
            tuple([entry.change for entry in entries]),
            work.partition.hold.fence,
            self,
            entries[0].failures + 1,
            1,
            work.partition.token,
        )
        self._works[call] = work
        work.partition.calls += 1
        return call

    def _start(self, work: Work) -> None:
        call = self._call(work)
        self._running += 1
        self._hands.submit([call])

    # --- one at a time, after crashes -----------------------------------------------------------------------

    def _single(self, part: PartitionWork, now: float) -> None:
        """One change at a time, each named in the lease before it starts: who ends the process is found."""
        if part.calls or part.trying or not part.lanes.startable(now) or not self._alone.take(part):
            return
        [entry] = part.lanes.take(1, now)
        if part.condemned == entry.change.order:
            part.condemned = None
            self._alone.release(part)
            self._results.killer(part, entry, now)
            return
        part.calls += 1  # it counts as running while its name is being written
        self._tasks.spawn(self._name_then_start(part, Work(part, (entry,))))

    async def _name_then_start(self, part: PartitionWork, work: Work) -> None:
        part.step(work.entries[0].change.order)
        await part.hold.flush()
        part.calls -= 1
        if part.closed or part.hold.lost or not part.reading:
            part.lanes.put_back(work.entries[0], 0.0, 0.0)
            part.changed.set()
            self._alone.release(part)
            return
        self._start(work)

    async def _stepped(self, part: PartitionWork) -> None:
        """What came of the one that ran alone is stored before another suspect may start."""
        part.stepped()
        await part.hold.flush()
        self._alone.release(part)

    # --- heads of parked keys -------------------------------------------------------------------------------

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
        if change is None or part.closed or not part.reading:
            part.trying.discard(key)
            return
        self._start(self._results.head(part, key, change))


def _failures(entry: Entry | None) -> float:
    return float("inf") if entry is None else entry.failures


def _unsuspected(part: PartitionWork) -> bool:
    return not part.suspected
