"""Facts about finished calls, told in batches: one fact for each worker and verdict and turn of the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tidemill.core.breaker import Breaker
from tidemill.engine.work import DONE, Cancelled, End, Ended, Failed, Misfit, Result, Unstarted
from tidemill.model import Dead, Depth, Done, Fact, Json, Later, Observer
from tidemill.ports import Database, Metered


class BreakerWatch:
    """Says once that a breaker opened: a worker that stands still should not do so in silence."""

    def __init__(self, worker: str, breaker: Breaker, observer: Observer) -> None:
        self._worker = worker
        self._breaker = breaker
        self._observe = observer
        self._open = False

    def look(self, now: float) -> None:
        if self._breaker.is_open(now) != self._open:
            self._open = not self._open
            if self._open:
                self._observe(Fact("breaker", self._worker, detail={"error": self._breaker.error}))


class Handled:
    """Counts the ends of one worker and tells them when asked."""

    def __init__(self, worker: str, observer: Observer) -> None:
        self._worker = worker
        self._observe = observer
        self._counts: dict[str, int] = {}
        self._seconds: list[float] = []

    def note(self, result: Result) -> None:
        """One call has ended."""
        ends = result.ends
        done = ends.count(DONE)  # what nearly all are, without the long way
        if done:
            self._counts["done"] = self._counts.get("done", 0) + done
        if done != len(ends):
            for end in ends:
                if end != DONE:
                    self._count(verdict_word(end), 1)
        self._seconds.append(result.seconds)

    def _count(self, word: str, count: int) -> None:
        self._counts[word] = self._counts.get(word, 0) + count

    def tell(self) -> None:
        """Pass on what was noted since the last time."""
        if not self._counts:
            return
        counts, self._counts = self._counts, {}
        seconds, self._seconds = self._seconds, []
        for word, count in counts.items():
            self._observe(Fact("handled", self._worker, count, detail={"verdict": word}))
        self._observe(Fact("handler_seconds", self._worker, len(seconds), sum(seconds), {"each": seconds}))


def depth_fact(worker: str, queue: str, depth: Depth) -> Fact:
    """How much waits in a worker's queue."""
    counts: dict[str, Json] = {
        "queue": queue,
        "ready": depth.ready,
        "delayed": depth.delayed,
        "claimed": depth.claimed,
    }
    return Fact("depth", worker, seconds=depth.oldest, detail=counts)


def charges(databases: Sequence[Database]) -> Sequence[Fact]:
    """What the backends that charge by the request have charged so far, by container: all accounts together."""
    totals: Counter[str] = Counter()
    for database in databases:
        if isinstance(database, Metered):
            totals.update(database.charged())
    return [Fact("charged", detail={"container": name, "total": total}) for name, total in sorted(totals.items())]


def verdict_word(end: End) -> str:
    """How an end is named in metrics and logs."""
    match end:
        case Ended(Done()):
            return "done"
        case Ended(Later(attempt=False)):
            return "snoozed"
        case Ended(Later()):
            return "failed"
        case Ended(Dead()):
            return "rejected"
        case Failed():
            return "failed"
        case Misfit():
            return "unfit"
        case Cancelled():
            return "cancelled"
        case Unstarted():
            return "unstarted"
        case _:
            return "unknown"
