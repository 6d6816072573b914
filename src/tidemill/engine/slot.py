"""One place in which a worker's calls run, one after the other, and the line of calls in front of these places.

State of a slot: free, or in a call; in a call it may be *expired* (the time limit passed) or *told why* it should
end; whichever came first counts. Asking to end is a word, not an end: the slot stays taken until the user's code
returns. All of it changes under the lock of the pool, so that a wish never meets the slot's next call.

State of a line: calls wait in a deque, which either side may pop from at any time (each pop is atomic). All counters
belong to the engine's thread alone: what runs is what was submitted and neither came back nor still waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from threading import Event, Lock

from tidemill.app.context import Context
from tidemill.engine.work import Call, Load, Result


class Slot:
    """One call at a time. `interrupt` makes the running call end (None: only `context.cancelled` tells it)."""

    __slots__ = ("call", "context", "deadline", "event", "expired", "interrupt", "lock", "why")

    def __init__(self, lock: Lock, interrupt: Callable[[], object] | None = None) -> None:
        self.lock: Lock = lock
        self.interrupt: Callable[[], object] | None = interrupt
        self.call: Call | None = None
        self.deadline: float = float("inf")
        self.expired: bool = False
        self.why: str = ""
        self.event: Event | None = None
        self.context: Context | None = None

    def begin(self, call: Call) -> None:
        """Take the slot for this call. Under the lock."""
        self.call = call
        self.deadline = float("inf")
        self.expired = False
        self.why = ""
        self.event = None
        self.context = None

    def start(self, now: float) -> None:
        """The user's code runs from now on: its time counts."""
        call = self.call
        if call is not None:
            call.started = now
            limit = call.worker.policy.time_limit
            self.deadline = float("inf") if limit is None else now + limit

    def end(self) -> None:
        """Free the slot."""
        with self.lock:
            self.call = None
            self.deadline = float("inf")

    def cancel(self, call: Call, why: str) -> None:
        """Ask this call to end, if it is the one that runs here."""
        with self.lock:
            if self.call is call and not self.asked:
                self.why = why
                self._ask()

    def expire(self, now: float) -> None:
        """Ask the call to end if its time is over."""
        if now < self.deadline:
            return
        with self.lock:
            if self.call is not None and now >= self.deadline and not self.asked:
                self.expired = True
                self._ask()

    def connect(self, event: Event) -> None:
        """The handler looks at `context.cancelled`: set it when the call should end, at once if it should already."""
        with self.lock:
            self.event = event
            if self.asked:
                event.set()

    @property
    def heard(self) -> bool:
        """Whether the call was cancelled and its code was told: what it returned then may be only half done."""
        return bool(self.why) and (self.interrupt is not None or self.event is not None)

    @property
    def asked(self) -> bool:
        """Whether the call was asked to end."""
        return self.expired or bool(self.why)

    def _ask(self) -> None:
        if self.event is not None:
            self.event.set()
        if self.interrupt is not None:
            self.interrupt()


class Line:
    """The calls of one worker that wait for a slot, oldest first. The engine's side but for `take`."""

    __slots__ = ("_ended", "_returned", "_submitted", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Call]] = deque()
        self._submitted = 0
        self._returned = 0
        self._ended = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def outstanding(self) -> int:
        """Calls that were submitted and have not come back."""
        return self._submitted - self._returned

    def put(self, calls: Sequence[Call], now: float) -> None:
        self._waiting.extend([(now, call) for call in calls])
        self._submitted += len(calls)

    def take(self) -> Call | None:
        """The next call, None if there is none. From any thread."""
        try:
            return self._waiting.popleft()[1]
        except IndexError:
            return None

    def take_back(self, before: float) -> list[Call]:
        """Those that have waited since `before` or longer."""
        taken: list[Call] = []
        while (first := self._pop()) is not None:
            if first[0] > before:
                self._waiting.appendleft(first)
                break
            taken.append(first[1])
        self._returned += len(taken)
        return taken

    def withdraw(self, calls: Sequence[Call]) -> list[Call]:
        """Those of these calls that still wait; they leave the line, but are not counted as returned yet."""
        wanted = {id(call) for call in calls}
        kept: list[tuple[float, Call]] = []
        withdrawn: list[Call] = []
        while (first := self._pop()) is not None:
            if id(first[1]) in wanted:
                withdrawn.append(first[1])
            else:
                kept.append(first)
        self._waiting.extendleft(reversed(kept))
        return withdrawn

    def returned(self, result: Result) -> None:
        """A result of this worker has come back."""
        self._returned += 1
        if result.call.started:
            self._ended += 1

    def load(self, now: float) -> Load:
        try:
            oldest = now - self._waiting[0][0]
        except IndexError:
            oldest = 0.0
        waiting = len(self._waiting)
        running = max(0, self.outstanding - waiting)
        return Load(running, waiting, max(0.0, oldest), self._ended + running)

    def _pop(self) -> tuple[float, Call] | None:
        try:
            return self._waiting.popleft()
        except IndexError:
            return None
