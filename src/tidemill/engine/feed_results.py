"""What becomes of changes once their calls have ended: done, again, by the park, to the dead letters, or halt."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from random import Random
from typing import assert_never

from tidemill.app.worker import OnChange, Worker
from tidemill.core.breaker import Breaker
from tidemill.core.lanes import Entry
from tidemill.core.park import State
from tidemill.core.poison import Decision, Halt, Keep, Pass, Wait, after_failure, after_misfit, again, poisoned
from tidemill.engine.effects import Effects
from tidemill.engine.letters import letter_of
from tidemill.engine.observe import Handled
from tidemill.engine.parking import Admit, Retried, Worked
from tidemill.engine.partition import MOST_AHEAD, PartitionWork, Work
from tidemill.engine.patience import Patience
from tidemill.engine.tasks import Tasks
from tidemill.engine.work import DONE, Cancelled, End, Ended, Failed, Misfit, Result, Unstarted, all_done
from tidemill.model import Committed, Conflicted, Dead, Done, Fact, Fenced, Later, Logged, Observer, Verdict
from tidemill.ports import Clock, DeadLetters

KILLED = "the process ended during it"
LOST = "claimed by another replica during a transaction"


class FeedResults:
    """Takes the results of one feed worker and acts on them, lane by lane."""

    def __init__(
        self,
        worker: Worker,
        letters: DeadLetters,
        *,
        effects: Effects | None,
        breaker: Breaker,
        patience: Patience,
        clock: Clock,
        random: Random,
        observer: Observer,
        tasks: Tasks,
        lose: Callable[[str, str], None],
        ended: Callable[[], None],
    ) -> None:
        assert isinstance(worker.trigger, OnChange)
        self._on_poison = worker.trigger.on_poison
        self._worker = worker
        self._letters = letters
        self._effects = effects
        self._breaker = breaker
        self._patience = patience
        self._clock = clock
        self._random = random
        self._observe = observer
        self._tasks = tasks
        self._lose = lose
        self._ended = ended
        self._handled = Handled(worker.name, observer)
        self._done: defaultdict[PartitionWork, list[Entry]] = defaultdict(list)
        self._commits: list[tuple[Work, Result]] = []
        self._task: asyncio.Task[None] | None = None

    def take(self, work: Work, result: Result, now: float) -> None:
        """One call has ended."""
        part = work.partition
        part.calls -= 1
        part.changed.set()
        if part.closed:
            return  # the lease is not ours: what it did stands, what it did not comes again elsewhere
        self._handled.note(result)
        if (result.writes or result.messages) and all_done(result.ends):
            part.calls += 1  # it runs until its commit is answered
            self._commits.append((work, result))
        elif work.parked is not None:
            self._parked(work, result.ends[0], now)
        elif len(work.entries) == 1:
            self._one(part, work.entries[0], result.ends[0], now)
        else:
            self._batch(part, work.entries, result.ends, now)

    def flush(self) -> None:
        """Move the marks past what was taken since the last flush, and send the commits."""
        self._handled.tell()
        for part, entries in self._done.items():
            if not part.closed:
                part.lanes.finish(entries)
                part.mark()
        self._done.clear()
        if self._commits and self._task is None:
            self._task = self._tasks.spawn(self._commit())

    def unstarted(self, work: Work, now: float) -> None:
        """No handler has begun it: it stays first in its lane."""
        part = work.partition
        part.calls -= 1
        part.changed.set()
        if part.closed:
            return
        if work.parked is not None:
            part.trying.discard(work.parked)
        else:
            part.lanes.settle_batch((), work.entries, now, now)

    def head(self, part: PartitionWork, key: str, change: Logged) -> Work:
        """The head of a parked key as work."""
        entry = Entry(change)
        parked = part.journal.index.keys[key]
        entry.failures, entry.error = parked.attempts, parked.error
        return Work(part, (entry,), key)

    def killer(self, part: PartitionWork, entry: Entry, now: float) -> None:
        """This change was running, alone, when its process ended."""
        decision = poisoned(KILLED, attempts=entry.failures + 1, on_poison=self._on_poison)
        self._act(part, entry, decision, now)

    # --- live changes ---------------------------------------------------------------------------------------

    def _one(self, part: PartitionWork, entry: Entry, end: End, now: float) -> None:
        if end is DONE or (isinstance(end, Ended) and isinstance(end.verdict, Done)):
            self._breaker.success(entry.key, now)
            self._done[part].append(entry)
        elif isinstance(end, Cancelled | Unstarted):
            part.lanes.put_back(entry, now, now)
        else:
            self._act(part, entry, self._decide(part, entry, end, now), now)

    def _batch(self, part: PartitionWork, entries: Sequence[Entry], ends: Sequence[End], now: float) -> None:
        """Of each key, what follows the first that is not done comes again too: order over progress."""
        if self._breaker.calm and all_done(ends):
            self._done[part] += entries
            return
        done: list[Entry] = []
        rest: dict[str, list[tuple[Entry, End]]] = {}
        for entry, end in zip(entries, ends, strict=True):
            key = entry.change.key
            if key not in rest and isinstance(end, Ended) and isinstance(end.verdict, Done):
                self._breaker.success(key, now)
                done.append(entry)
            else:
                rest.setdefault(key, []).append((entry, end))
        if not rest:
            self._done[part] += done
            return
        back: list[Entry] = []
        until = now
        kept: list[tuple[list[Entry], Decision]] = []
        for failing in rest.values():
            first, end = failing[0]
            entries_of_key = [entry for entry, _ in failing]
            decision = self._decide_batch(part, first, end, now)
            if isinstance(decision, Wait):
                first.failures = decision.failures
                until = max(until, now + decision.delay)
                back += entries_of_key
            else:
                kept.append((entries_of_key, decision))
        part.lanes.settle_batch(done, back, until, now)
        for entries_of_key, decision in kept:
            self._act(part, entries_of_key[0], decision, now, entries_of_key)
        part.mark()

    def _decide_batch(self, part: PartitionWork, entry: Entry, end: End, now: float) -> Decision:
        if isinstance(end, Cancelled | Unstarted):
            return Wait(0.0, entry.failures)
        return self._decide(part, entry, end, now)

    def _decide(self, part: PartitionWork, entry: Entry, end: End, now: float) -> Decision:
        crowded = len(part.lanes) > MOST_AHEAD // 2
        match end:
            case Ended(verdict):
                return self._decide_verdict(entry, verdict, now, crowded)
            case Cancelled() | Unstarted():
                return Wait(0.0, entry.failures)
            case Failed(error, trace):
                entry.error = trace or error
                return self._failure(entry, error, now, crowded, None)
            case Misfit(why, dead):
                return after_misfit(
                    why, no_json=dead, failures=entry.failures, last=entry.error, on_poison=self._on_poison
                )
            case _:
                assert_never(end)

    def _decide_verdict(self, entry: Entry, verdict: Verdict, now: float, crowded: bool) -> Decision:
        match verdict:
            case Done():
                return Wait(0.0, entry.failures)
            case Later(delay, reason, attempt):
                if attempt:
                    return self._failure(entry, reason, now, crowded, delay)
                return again(delay, failures=entry.failures, error=reason, crowded=crowded)
            case Dead(reason):
                return poisoned(reason, attempts=entry.failures + 1, on_poison=self._on_poison)
            case _:
                assert_never(verdict)

    def _failure(self, entry: Entry, error: str, now: float, crowded: bool, delay: float | None) -> Decision:
        return after_failure(
            error,
            failures=entry.failures,
            failure=self._breaker.failure(entry.change.key, error, now),
            retry=self._worker.policy.retry,
            on_poison=self._on_poison,
            crowded=crowded,
            random=self._random,
            delay=delay,
        )

    def _act(
        self, part: PartitionWork, entry: Entry, decision: Decision, now: float, taken: Sequence[Entry] = ()
    ) -> None:
        taken = taken or (entry,)
        match decision:
            case Wait(delay, failures):
                entry.failures = failures
                part.lanes.settle_batch((), taken, now + delay, now)
            case Keep(state, delay, attempts, error):
                self._admit(part, part.lanes.hand_over(taken), state, delay, attempts, error)
            case Pass(attempts, error):
                self._tasks.spawn(self._skip(part, taken, attempts, error))
            case Halt(error):
                part.lanes.settle_batch((), taken, now, now)
                self._halt(part, error)
            case _:
                assert_never(decision)

    def _admit(
        self, part: PartitionWork, entries: list[Entry], state: str, delay: float, attempts: int, error: str
    ) -> None:
        head, *behind = entries

        def done() -> None:
            part.lanes.close(entries)
            part.mark()
            self._ended()

        if state == "parked":
            detail = {"partition": part.name, "key": head.change.key, "error": error}
            self._observe(Fact("parked", self._worker.name, detail=detail))
        part.journal.add(
            Admit(
                head.change,
                tuple(entry.change for entry in behind),
                "parked" if state == "parked" else "waiting",
                self._clock.now() + delay,
                attempts,
                error,
                done,
            )
        )

    async def _skip(self, part: PartitionWork, taken: Sequence[Entry], attempts: int, error: str) -> None:
        """The dead letter is durable before the mark passes; what followed it in its batch comes again."""
        part.calls += 1
        entry, *others = taken
        await self._keep_letter(part, entry.change, attempts, error)
        part.calls -= 1
        part.changed.set()
        if not part.closed:
            now = self._clock.monotonic()
            part.lanes.settle_batch([entry], others, now, now)
            part.mark()
            self._ended()

    async def _keep_letter(self, part: PartitionWork, change: Logged, attempts: int, error: str) -> None:
        source = f"{part.journal.source}/skipped"
        letter = letter_of(source, change, attempts=attempts, error=error, now=self._clock.now())
        await self._patience.until_answered(lambda: self._letters.put([letter]))
        self._observe(Fact("dead", self._worker.name, detail={"id": change.id, "reason": error}))

    def _halt(self, part: PartitionWork, error: str) -> None:
        part.halted = error
        part.hold.mark(part.lanes.mark, state="halted")
        self._observe(Fact("halted", self._worker.name, detail={"partition": part.name, "error": error}))

    # --- heads of parked keys -------------------------------------------------------------------------------

    def _parked(self, work: Work, end: End, now: float) -> None:
        part, [entry], key = work.partition, work.entries, work.parked
        assert key is not None
        if isinstance(end, Cancelled | Unstarted):
            part.trying.discard(key)
            return
        if isinstance(end, Ended) and isinstance(end.verdict, Done):
            self._breaker.success(key, now)
            self._worked(part, entry, key)
            return
        decision = self._decide(part, entry, end, now)
        match decision:
            case Wait(delay, failures):
                self._retried(part, key, "waiting", delay, failures, entry.error)
            case Keep(state, delay, attempts, error):
                self._retried(part, key, state, delay, attempts, error)
            case Pass(attempts, error):
                self._tasks.spawn(self._skip_parked(part, entry, key, attempts, error))
            case Halt(error):
                part.trying.discard(key)
                self._halt(part, error)
            case _:
                assert_never(decision)

    def _retried(self, part: PartitionWork, key: str, state: State, delay: float, attempts: int, error: str) -> None:
        due = self._clock.now() + delay
        part.journal.add(Retried(key, state, due, attempts, error, self._tried(part, key)))

    def _tried(self, part: PartitionWork, key: str) -> Callable[[], None]:
        """The head of a key may be tried again only once the index tells how the last try ended."""

        def done() -> None:
            part.trying.discard(key)
            self._ended()

        return done

    async def _skip_parked(self, part: PartitionWork, entry: Entry, key: str, attempts: int, error: str) -> None:
        await self._keep_letter(part, entry.change, attempts, error)
        self._worked(part, entry, key)

    def _worked(self, part: PartitionWork, entry: Entry, key: str) -> None:
        change = entry.change
        size = len(change.body or b"") + len(change.before or b"") + 200
        part.journal.add(Worked(key, change.order, change.id, size, self._tried(part, key)))

    # --- transactions ---------------------------------------------------------------------------------------

    async def _commit(self) -> None:
        """Effects and finished rows, several calls in one request; one request at a time."""
        assert self._effects is not None
        effects = self._effects
        try:
            while self._commits:
                batch, self._commits = self._commits, []
                commits = [effects.of_change(result) for _, result in batch]
                replies = await self._patience.until_answered(lambda: effects.commit(commits))  # noqa: B023
                now = self._clock.monotonic()
                for (work, _), reply in zip(batch, replies, strict=True):
                    work.partition.calls -= 1
                    work.partition.changed.set()
                    if not work.partition.closed:
                        self._committed(work, reply, now)
        finally:
            self._task = None
        self.flush()
        self._ended()

    def _committed(self, work: Work, reply: Committed | Conflicted | Fenced, now: float) -> None:
        part, [entry] = work.partition, work.entries
        match reply:
            case Committed():
                part.rows.append((entry.change.order, entry.change.id))
                end: End = Ended(Done())
            case Conflicted():
                end = Failed("Conflict: a document was changed by somebody else during the transaction")
            case Fenced():
                self._lose(part.name, LOST)
                return
            case _:
                assert_never(reply)
        if work.parked is not None:
            self._parked(work, end, now)
        else:
            self._one(part, entry, end, now)
