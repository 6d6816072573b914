"""What the engine sees of itself at a tick, as the frozen value the health thread answers from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from tidemill.core.health import Check
from tidemill.core.probes import GAP, Followed, Longest, Seen, Snapshot, StoreSeen, follow
from tidemill.engine.backlog import backlogs
from tidemill.engine.engine import Engine
from tidemill.engine.feeds import FeedWorker
from tidemill.engine.keeper import OVERRUN
from tidemill.engine.queues import QueueWorker
from tidemill.engine.work import Call, Stuck


class Publisher:
    """Makes a snapshot at each tick and hands it to `publish`. `stuck` and `rules` are asked each time."""

    def __init__(
        self,
        engine: Engine,
        *,
        publish: Callable[[Snapshot], None],
        stuck: Callable[[], Stuck],
        rules: Callable[[], Sequence[Check]],
    ) -> None:
        self._engine = engine
        self._publish = publish
        self._stuck = stuck
        self._rules = rules
        self._followed: dict[str, Followed] = {}
        self._ready: float | None = None
        self._ticked = self._watched = engine.machine.clock.monotonic()
        self._longest: dict[str, Longest] = {}
        self.started = False
        self.draining = False

    def tick(self) -> None:
        """Look at everything once and publish it."""
        now = self._engine.machine.clock.monotonic()
        stuck = self._stuck()
        self._time(stuck, now)
        for seen in self._seen(now):
            self._followed[seen.worker] = follow(self._followed.get(seen.worker), seen, now)
        self._publish(
            Snapshot(
                now,
                self.started,
                self.draining,
                now - stuck.silent,
                stuck.worker,
                stuck.where,
                tuple(self._followed.values()),
                tuple(
                    StoreSeen(f"{n}", membership.fence.deadline, membership.fence.deadline - fence)
                    for n, membership in enumerate(self._engine.memberships)
                    for fence in (self._engine.machine.profile.fence,)
                ),
                tuple(self._rules()),
                self._ready,
                dict(self._longest),
                backlogs(self._engine),
            )
        )

    def _time(self, stuck: Stuck, now: float) -> None:
        """Note the moment of readiness and, from then until the drain, the longest silences. A gap between our own
        ticks (a held GIL, a frozen process) is the engine's: the handlers are not blamed for it."""
        gap, self._ticked = now - self._ticked, now
        if not self.started or self.draining:
            return
        if self._ready is None:
            self._ready = self._watched = now
            return
        if gap > GAP:
            self._watched = now
        silent = min(stuck.silent, now - self._watched)
        self._note("engine", Longest(gap))
        self._note("handlers", Longest(silent, stuck.worker, stuck.where))

    def _note(self, loop: str, silence: Longest) -> None:
        if silence.seconds > self._longest.get(loop, Longest()).seconds:
            self._longest[loop] = silence

    def _seen(self, now: float) -> Iterable[Seen]:
        for queue in self._engine.queues:
            yield self._seen_queue(queue, now)
        for feed in self._engine.feeds:
            yield self._seen_feed(feed, now)

    def _seen_queue(self, queue: QueueWorker, now: float) -> Seen:
        load = self._engine.hands.load(queue.worker.name)
        overrun, longest = _overrun(queue.running, queue.worker.policy.time_limit, now)
        return Seen(
            queue.worker.name,
            paused=self._held(queue, now),
            free=queue.worker.policy.concurrency - load.running,
            waiting=load.waiting,
            running=load.running,
            started=load.started,
            polls=True,
            polled=queue.polled,
            polling=queue.polling,
            failing=queue.failing,
            breaker_open=queue.breaker.is_open(now),
            overrun=overrun,
            longest=longest,
        )

    def _seen_feed(self, feed: FeedWorker, now: float) -> Seen:
        load = self._engine.hands.load(feed.worker)
        overrun, longest = _overrun(feed.running, feed.declared.policy.time_limit, now)
        parts = list(feed.parts.values())
        return Seen(
            feed.worker,
            paused=self._held(feed, now),
            free=feed.declared.policy.concurrency - load.running,
            waiting=load.waiting + sum(part.lanes.ready for part in parts if part.reading and not part.halted),
            running=load.running,
            started=load.started,
            polls=any(part.room() for part in parts),
            polled=feed.intake.polled,
            polling=feed.intake.polling,
            failing=feed.intake.failing,
            breaker_open=feed.breaker.is_open(now),
            overrun=overrun,
            longest=longest,
            partitions=len(parts),
            halted=sum(bool(part.halted) for part in parts),
        )

    def _held(self, worker: QueueWorker | FeedWorker, now: float) -> bool:
        """It is not meant to start anything now, so that nothing started is no fault."""
        return (
            worker.paused
            or worker.breaker.is_open(now)
            or self.draining
            or self._engine.stalled
            or not worker.fence.holds(now)
        )


def _overrun(calls: Iterable[Call], limit: float | None, now: float) -> tuple[int, float]:
    if limit is None:
        return 0, 0.0
    lengths = [now - call.started for call in calls if call.started and now - call.started > limit + OVERRUN]
    return len(lengths), max(lengths, default=0.0)
