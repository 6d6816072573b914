"""What it costs that handlers run on a loop of their own: no-op calls, inline against across threads.

Two questions, measured in turn and interleaved so that a noisy machine hits both alike: how many calls a second
go through `submit` → results at most, and how much CPU time a call costs at a paced 20,000/s. Every call is
counted back in: lost and doubled ones are printed, and make the exit code 1.

    python -m bench.crossing [--rounds 7] [--calls 40000]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from collections.abc import Sequence

from tidemill.app.app import App
from tidemill.app.worker import Worker
from tidemill.core.fence import Fence
from tidemill.engine.clock import SystemClock
from tidemill.engine.handlers import Handlers
from tidemill.engine.work import Call, Ended, Result
from tidemill.model import Delivery

_BATCH = 100
_IN_FLIGHT = 1000
_PACE = 20_000
_SLICE = 0.005


class Counter:
    """A sink that knows each call it waits for."""

    def __init__(self) -> None:
        self.waiting: set[int] = set()
        self.back = 0
        self.doubled = 0
        self.failed = 0
        self.wakeups = 0
        self.room = asyncio.Event()

    def results(self, results: Sequence[Result]) -> None:
        self.wakeups += 1
        for result in results:
            number = int(result.call.items[0].id)  # type: ignore[union-attr]
            if number in self.waiting:
                self.waiting.remove(number)
                self.back += 1
            else:
                self.doubled += 1
            if not isinstance(result.ends[0], Ended):
                self.failed += 1
        self.room.set()


def worker_of(concurrency: int) -> Worker:
    app = App("bench")
    queue = app.queue("numbers", int)

    @app.on_message(queue, concurrency=concurrency)
    async def nothing(number: int) -> None: ...

    return app.declared().workers[0]


def calls_of(worker: Worker, sink: Counter, first: int, count: int, fence: Fence) -> list[Call]:
    sink.waiting.update(range(first, first + count))
    return [
        Call(worker, (Delivery("numbers", str(n), b"7", None, {}, 0, 0.0, 0, 1, "", str(n)),), fence, sink)
        for n in range(first, first + count)
    ]


async def flat_out(handlers: Handlers, worker: Worker, calls: int) -> tuple[float, Counter]:
    """Calls a second, with at most so many in flight."""
    sink, fence = Counter(), Fence(float("inf"))
    began, sent = time.perf_counter(), 0
    while sink.back < calls:
        while sent < calls and len(sink.waiting) < _IN_FLIGHT:
            handlers.submit(calls_of(worker, sink, sent, _BATCH, fence))
            sent += _BATCH
        sink.room.clear()
        await sink.room.wait()
    return calls / (time.perf_counter() - began), sink


async def paced(handlers: Handlers, worker: Worker, calls: int) -> tuple[float, Counter]:
    """CPU microseconds a call, at 20,000 calls a second."""
    sink, fence = Counter(), Fence(float("inf"))
    step = int(_PACE * _SLICE)
    began, cpu = time.perf_counter(), time.process_time()
    for sent in range(0, calls, step):
        handlers.submit(calls_of(worker, sink, sent, step, fence))
        due = began + (sent + step) / _PACE
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
    while sink.waiting:
        sink.room.clear()
        await sink.room.wait()
    return (time.process_time() - cpu) / calls * 1e6, sink


def measure(inline: bool, calls: int, pace: bool, sinks: list[Counter]) -> float:
    async def one() -> float:
        worker = worker_of(16)
        handlers = Handlers([worker], SystemClock(), inline=inline)
        await handlers.start()
        await flat_out(handlers, worker, 2000)
        figure, sink = await (paced if pace else flat_out)(handlers, worker, calls)
        sinks.append(sink)
        if problem := await handlers.stop(5.0):
            print(problem)
        return figure

    return asyncio.run(one())


def report(what: str, unit: str, rounds: int, calls: int, pace: bool) -> tuple[float, float, int]:
    inline: list[float] = []
    across: list[float] = []
    sinks: list[Counter] = []
    for _ in range(rounds):
        inline.append(measure(True, calls, pace, sinks))
        across.append(measure(False, calls, pace, sinks))
    lost = sum(len(sink.waiting) for sink in sinks)
    doubled = sum(sink.doubled for sink in sinks)
    failed = sum(sink.failed for sink in sinks)
    here, there = statistics.median(inline), statistics.median(across)
    per_ring = statistics.median(sink.back / sink.wakeups for sink in sinks[1::2])
    print(
        f"{what:<10} inline {here:>10,.1f} {unit}   across {there:>10,.1f} {unit}   results a wake-up {per_ring:,.0f}"
    )
    print(f"{'':<10} lost {lost}, doubled {doubled}, failed {failed} of {rounds * 2 * calls:,}")
    return here, there, lost + doubled + failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=40_000)
    options = parser.parse_args()
    sys.setswitchinterval(0.0005)  # as `tidemill run` does
    fast, slow, wrong = report("flat out", "/s", options.rounds, options.calls, False)
    print(f"{'':<10} crossing costs {1 - slow / fast:.1%} of the throughput\n")
    less, more, also = report("20,000/s", "µs", options.rounds, options.calls, True)
    print(f"{'':<10} crossing costs {more / less - 1:.1%} CPU, {(more - less) * _PACE / 1e6:.1%} of a core")
    return 1 if wrong or also else 0


if __name__ == "__main__":
    sys.exit(main())
