"""A queue worker: take in, hand over, settle.

State: `held` deliveries are claimed and not ended; `_outcomes` and `_commits` have ended and are not settled. What was
claimed by a receive whose reply was lost is found and freed by `claims`.
Claims belong to the member where the backend can do that: one renewal keeps them all, and a settle is refused when
the member was buried meanwhile. Elsewhere each has a deadline, and `keeper` extends it. Trust: the fence is compared
before each call (by the handlers' side), before each receive and before each settle is sent. Failure cases: a receive
is never cancelled, for it may have committed its claims; a settle that raised is unknown and is repeated until it is
answered, for settling is idempotent; a process that ends in between leaves claims that fall free by themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import assert_never

from tidemill.app.worker import OnMessage, Worker
from tidemill.core.breaker import Breaker
from tidemill.core.fence import Fence
from tidemill.core.flow import Flow
from tidemill.core.judge import judge_failure, judge_misfit, judge_snooze, killed
from tidemill.core.probes import Reason, reason_of
from tidemill.engine.alone import Alone
from tidemill.engine.claims import Claims
from tidemill.engine.effects import Effects
from tidemill.engine.keeper import Keeper
from tidemill.engine.observe import BreakerWatch, Handled, depth_fact
from tidemill.engine.patience import Patience
from tidemill.engine.standing import Standing
from tidemill.engine.tasks import Tasks
from tidemill.engine.work import Call, Cancelled, End, Ended, Failed, Hands, Misfit, Result, Unstarted, all_done
from tidemill.errors import TidemillError
from tidemill.model import (
    MAX_WAIT,
    Commit,
    Committed,
    Conflicted,
    Dead,
    Delivery,
    Depth,
    Done,
    Fact,
    Fenced,
    Later,
    Lost,
    Observer,
    Outcome,
    Verdict,
)
from tidemill.ports import Clock, Queue

RETURN_AFTER = 2.0
"""Seconds after which an unstarted delivery is given back for others to take."""


class QueueWorker:
    """Works one queue with one handler. `run()` until `stop()`, then `settled()`."""

    def __init__(
        self,
        worker: Worker,
        queue: Queue,
        *,
        standing: Standing,
        hands: Hands,
        effects: Effects,
        alone: Alone,
        clock: Clock,
        random: Random,
        observer: Observer,
    ) -> None:
        assert isinstance(worker.trigger, OnMessage)
        self.worker = worker
        self.source: str = worker.trigger.queue.name
        self.queue = queue
        self.depth: Depth | None = None
        self.measured: float | None = None
        self.held: int = 0
        self.paused: bool = False
        self.polled: float = clock.monotonic()
        self.polling: bool = False
        self.failing: Reason | None = None
        self.breaker: Breaker = Breaker()
        self._standing = standing
        self._claims = Claims(queue, worker.name, lambda: standing.member)
        self._keeper = Keeper(worker, queue, clock, observer)
        standing.frees(self._claims.free)
        standing.listen(self)
        self._hands = hands
        self._effects = effects
        self._clock = clock
        self._random = random
        self._observe = observer
        self._breaker_watch = BreakerWatch(worker.name, self.breaker, observer)
        self._handled = Handled(worker.name, observer)
        self._patience = Patience(clock, random, standing.fence)
        batch = worker.policy.batch
        self._batch = batch or 1
        self._flow = Flow(worker.policy.concurrency * self._batch, worker.policy.rate, clock.monotonic())
        self._outcomes: list[Outcome] = []
        self._commits: list[tuple[Result, Commit]] = []
        self._flushing = False
        self._sending = 0
        self._tasks = Tasks()
        self._calls: set[Call] = set()
        self._changed = asyncio.Event()
        self._stopping = False
        self._suspects = alone
        self._suspects.listen(self._changed)
        self._alone = False
        self._stalled = False

    # --- intake ---------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take in what can start soon, until `stop()`."""
        while not self._stopping:
            self._tasks.check()
            room = self._room()
            if room <= 0:
                await self._clock.wait(self._changed, 0.25)
                self._changed.clear()
                continue
            self.polling = True
            try:
                await self._receive(room)
            finally:
                self.polling = False

    def stop(self) -> None:
        """Take nothing more; unstarted deliveries go back at once. Idempotent."""
        self._stopping = True
        self._changed.set()
        self.give_back()

    def pause(self, paused: bool) -> None:
        self.paused = paused
        if paused:
            self.give_back()
        self._changed.set()

    def stall(self, stalled: bool) -> None:
        """The handlers' loop is silent: keep only what it has begun, take nothing, until it ticks again."""
        self._stalled = stalled
        if stalled:
            self.give_back()
        self._changed.set()

    def give_back(self, *, waited: float = 0.0) -> None:
        """Return what no handler has begun and has waited this long; nobody's attempt is counted."""
        for call in self._hands.take_back(self.worker.name, waited=waited):
            self._returned(call)
        self._flush_soon()

    def fenced(self) -> None:
        """What runs goes on, and what does not is compared with the fence before it starts."""

    def resumed(self) -> None:
        """Nothing was taken from us."""

    def buried(self) -> None:
        """What no handler has begun is others' by now, and must not start under our new id."""
        self.give_back()

    def cancel(self, why: str) -> None:
        """End what runs; it goes back with its attempt unchanged."""
        self._hands.cancel(list(self._calls), why)

    @property
    def fence(self) -> Fence:
        return self._standing.fence

    @property
    def running(self) -> Sequence[Call]:
        return list(self._calls)

    @property
    def idle(self) -> bool:
        """Nothing is being received, worked on or settled."""
        return not (self.polling or self._calls or self.unsettled)

    @property
    def unsettled(self) -> int:
        return len(self._outcomes) + len(self._commits) + self._sending

    def _room(self) -> int:
        now = self._clock.monotonic()
        if self.paused or self._stalled or not self._standing.fence.holds(now):
            return 0
        allowed = self.breaker.allow(now)
        if self._alone:
            allowed = min(1, 1 if allowed is None else allowed) if self._suspects.free_for(self) else 0
        if allowed is not None:
            return max(allowed - self.held, 0)
        room = self._flow.room(self.held, now)
        return room if self._flow.worthwhile(room, self.held) else 0

    async def _receive(self, room: int) -> None:
        self.polled = self._clock.monotonic()
        try:
            deliveries = await self._claims.receive(room, MAX_WAIT / 2)
        except TidemillError as error:
            if self.failing is None:
                self._observe(Fact("poll_failed", self.worker.name, detail={"error": str(error)}))
            self.failing = reason_of(error)
            await self._clock.sleep(0.25 + self._random.random())
            return
        self.failing = None
        if deliveries:
            self._flow.took(len(deliveries))
            self._accept(deliveries)

    def _accept(self, deliveries: Sequence[Delivery]) -> None:
        """Hand over what came in. What ended a process before runs alone: everything beside it goes back first."""
        if self._stopping or self._stalled or self.paused:
            self._settle([Outcome(d, Later(reason="not started", attempt=False), started=False) for d in deliveries])
            return
        suspects = [d for d in deliveries if d.deliveries > 1]
        if not suspects:
            self._alone = False
            self._submit(deliveries)
            return
        self._alone = True
        first = suspects[0] if not self.held and self._suspects.take(self) else None
        dead = killed(first.deliveries) if first else None
        if first and dead:
            self._suspects.release(self)
            self._settle([Outcome(first, dead, error=dead.reason)])
        elif first:
            self._submit([first])
        self._settle(
            [Outcome(d, Later(reason=d.reason, attempt=False), started=False) for d in deliveries if d is not first]
        )

    def _submit(self, deliveries: Sequence[Delivery]) -> None:
        size = self._batch
        fence = self._standing.fence
        calls = []
        for start in range(0, len(deliveries), size):
            items, first = tuple(deliveries[start : start + size]), deliveries[start]
            trust = self._keeper.fence(items) or fence
            call = Call(self.worker, items, trust, self, first.attempt + 1, first.deliveries)
            self._keeper.took(call)
            calls.append(call)
        self.held += len(deliveries)
        self._calls.update(calls)
        self._hands.submit(calls)

    # --- results --------------------------------------------------------------------------------------------

    def results(self, results: Sequence[Result]) -> None:
        """Decide what becomes of each delivery and settle in batches."""
        now = self._clock.monotonic()
        count = 0
        for result in results:
            self._calls.discard(result.call)
            self._keeper.ended(result.call)
            count += len(result.ends)
            if (result.writes or result.messages) and all_done(result.ends):
                self._commits.append((result, self._effects.of_delivery(result)))
                continue
            for item, end in zip(result.call.items, result.ends, strict=True):
                assert isinstance(item, Delivery)
                if type(end) is Ended and type(end.verdict) is Done:  # what nearly all are, without the long way
                    self.breaker.success(item.id, now)
                    self._outcomes.append(Outcome(item, end.verdict))
                else:
                    self._outcomes.append(self._outcome(item, end, now))
            self._handled.note(result)
        self.held -= count
        if not self.held:
            self._suspects.release(self)
        self._handled.tell()
        self._flow.ended(count, now)
        self._breaker_watch.look(now)
        self._flush_soon()
        self._changed.set()

    def _returned(self, call: Call) -> None:
        self._calls.discard(call)
        self._keeper.ended(call)
        self.held -= len(call.items)
        if not self.held:
            self._suspects.release(self)
        for item in call.items:
            assert isinstance(item, Delivery)
            self._outcomes.append(Outcome(item, Later(reason=item.reason, attempt=False), started=False))

    def _outcome(self, delivery: Delivery, end: End, now: float) -> Outcome:
        match end:
            case Ended(verdict):
                return Outcome(delivery, self._verdict(delivery, verdict, now))
            case Failed(error, trace):
                return Outcome(delivery, self._failed(delivery, error, now), error=trace or error)
            case Misfit(why, dead):
                return Outcome(delivery, judge_misfit(why, no_json=dead, reason=delivery.reason), error=why)
            case Cancelled(why):
                return Outcome(delivery, Later(reason=why, attempt=False))
            case Unstarted():
                return Outcome(delivery, Later(reason=delivery.reason, attempt=False), started=False)
            case _:
                assert_never(end)

    def _verdict(self, delivery: Delivery, verdict: Verdict, now: float) -> Verdict:
        match verdict:
            case Done():
                self.breaker.success(delivery.id, now)
                return verdict
            case Later(attempt=False):
                return judge_snooze(verdict, sent_at=delivery.sent_at, now=self._clock.now())
            case Later():
                return self._failed(delivery, verdict.reason, now, delay=verdict.delay)
            case Dead():
                return verdict
            case _:
                assert_never(verdict)

    def _failed(self, delivery: Delivery, error: str, now: float, *, delay: float | None = None) -> Verdict:
        failure = self.breaker.failure(delivery.id, error, now)
        return judge_failure(
            error,
            attempt=delivery.attempt,
            retry=self.worker.policy.retry,
            failure=failure,
            random=self._random,
            delay=delay,
        )

    async def keep(self) -> None:
        """Extend the claims that end by a deadline of their own, while their work is with us."""
        await self._keeper.keep()

    async def measure(self) -> None:
        """How much waits; for metrics and autoscalers."""
        asked = self._clock.monotonic()
        try:
            self.depth = await self.queue.depth()
        except TidemillError:
            return  # a failing backend is told by the polls
        self.measured = asked
        self._observe(depth_fact(self.worker.name, self.source, self.depth))

    # --- settling -------------------------------------------------------------------------------------------

    def _settle(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes.extend(outcomes)
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing and (self._outcomes or self._commits):
            self._flushing = True
            self._tasks.spawn(self._flush())

    async def _flush(self) -> None:
        """One settle in flight; what ends meanwhile goes with the next."""
        try:
            while self._outcomes or self._commits:
                outcomes, self._outcomes = self._outcomes, []
                commits, self._commits = self._commits, []
                self._sending = len(outcomes) + len(commits)
                if outcomes:
                    await self._settle_batch(outcomes)
                if commits:
                    await self._commit_batch(commits)
        finally:
            self._flushing = False
            self._sending = 0
            self._changed.set()

    async def _settle_batch(self, outcomes: list[Outcome]) -> None:
        replies = await self._patience.until_answered(lambda: self.queue.settle(outcomes))
        self._claims.settled(outcome.delivery for outcome in outcomes)
        lost = sum(isinstance(reply, Lost) for reply in replies)
        if lost:
            self._observe(Fact("claims_lost", self.worker.name, lost))
        for outcome, reply in zip(outcomes, replies, strict=True):
            if isinstance(outcome.verdict, Dead) and not isinstance(reply, Lost):
                detail = {"id": outcome.delivery.id, "reason": outcome.verdict.reason}
                self._observe(Fact("dead", self.worker.name, detail=detail))

    async def _commit_batch(self, commits: list[tuple[Result, Commit]]) -> None:
        replies = await self._patience.until_answered(lambda: self._effects.commit([c for _, c in commits]))
        now = self._clock.monotonic()
        for (result, commit), reply in zip(commits, replies, strict=True):
            delivery = commit.outcomes[0].delivery
            if not isinstance(reply, Conflicted):
                self._claims.settled([delivery])
            match reply:
                case Committed():
                    self.breaker.success(delivery.id, now)
                    self._handled.note(result)
                case Conflicted():
                    error = "Conflict: a document was changed by somebody else during the transaction"
                    self._outcomes.append(Outcome(delivery, self._failed(delivery, error, now), error=error))
                case Fenced():
                    self._observe(Fact("claims_lost", self.worker.name))
                case _:
                    assert_never(reply)
