"""Results on their way to the engine: collected where they are made, handed over in one wake-up a batch.

State: a deque that every thread of the handlers' side appends to, and one flag, "the engine was rung". Who appends
looks at the flag after; the engine lowers it before it empties the deque. So a result is either seen by the
emptying under way or rings anew; the worst case is one ring for nothing.
"""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections import deque
from collections.abc import Callable

from tidemill.engine.call_plan import ALL_DONE, FENCED
from tidemill.engine.slot import Slot
from tidemill.engine.work import Call, End, Result, Sink, Unstarted


class Outbox:
    """Where results are put. `returned` is told of each on the engine's loop, before its sink is."""

    def __init__(self, now: Callable[[], float], returned: Callable[[Result], None]) -> None:
        self._now = now
        self._returned = returned
        self._results: deque[Result] = deque()
        self._engine: AbstractEventLoop | None = None
        self._hands: AbstractEventLoop | None = None
        self._rung = False
        self._soon = False

    def open(self, engine: AbstractEventLoop, hands: AbstractEventLoop) -> None:
        """Results go from the handlers' loop (and any thread) to the engine's, which may be the same."""
        self._engine, self._hands = engine, hands

    def put(self, call: Call, slot: Slot, ends: tuple[End, ...]) -> None:
        """A call has ended. From a thread."""
        self._results.append(_result(call, slot, ends, self._now()))
        self._ring()

    def put_soon(self, call: Call, slot: Slot, ends: tuple[End, ...]) -> float:
        """A call has ended. On the handlers' loop: rings once for all that ends in this turn of it. The time."""
        now = self._now()
        self._results.append(_result(call, slot, ends, now))
        if not self._soon and self._hands is not None:
            self._soon = True
            self._hands.call_soon(self._turn_over)
        return now

    def unstarted(self, call: Call, why: str) -> None:
        """The handler will never see this call. On the engine's loop."""
        call.started = 0.0
        self._results.append(Result(call, (Unstarted(why),) * len(call.items), 0.0))
        if self._engine is not None and not self._rung:
            self._rung = True
            self._engine.call_soon(self._empty)

    def _turn_over(self) -> None:
        self._soon = False
        if self._engine is self._hands:
            self._empty()
        else:
            self._ring()

    def _ring(self) -> None:
        if self._rung or self._engine is None:
            return
        self._rung = True
        try:
            self._engine.call_soon_threadsafe(self._empty)
        except RuntimeError:  # the engine's loop is closed: the process is on its way out, nobody settles any more
            pass

    def _empty(self) -> None:
        self._rung = False
        results = self._results
        groups: dict[int, tuple[Sink, list[Result]]] = {}
        while results:
            result = results.popleft()
            self._returned(result)
            sink = result.call.sink
            group = groups.get(id(sink))
            if group is None:
                group = groups[id(sink)] = (sink, [])
            group[1].append(result)
        for sink, its in groups.values():
            self._tell(sink, its)

    def _tell(self, sink: Sink, results: list[Result]) -> None:
        try:
            sink.results(results)
        except Exception as error:  # one service's fault must not cost the others their results
            if self._engine is not None:
                told = {"message": "a sink failed to take results", "exception": error, "sink": sink}
                self._engine.call_exception_handler(told)


def _result(call: Call, slot: Slot, ends: tuple[End, ...], now: float) -> Result:
    if ends[0] is FENCED:
        call.started = 0.0
    seconds = now - call.started if call.started else 0.0
    context = slot.context
    if context is not None and ends == ALL_DONE and (collected := context.collected()):
        return Result(call, ends, seconds, tuple(collected.writes), tuple(collected.messages))
    return Result(call, ends, seconds)
