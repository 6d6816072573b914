"""The handlers' side as the engine sees it: pools of slots, one for each worker, around the loop of the user's code.

State: made → started → stopped. Calls submitted before the start wait in their lines; after the stop they come back
unstarted. Inline (the harness, simulations) there is no thread and no child: plain functions and those of
`process=True` are called right on the loop.

Who may touch what: the engine's methods (`Hands`) touch the lines, which either side may pop from, and ring the
handlers' loop at most once a batch; all else of the loop's pools happens on that loop. So `submit`, `take_back`,
`load` and `stuck` answer while it is stuck. Time is looked at by one beat: it ticks every 0.25 s (what `stuck`
measures) and ends what is over its limit once a second. What happens when the loop dies stands in `home`.
"""

from __future__ import annotations

from asyncio import get_running_loop
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextvars import Context as Variables
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, TypeVar

from tidemill.app.client import Client
from tidemill.app.context import Context
from tidemill.app.worker import Worker
from tidemill.core.inject import Injector
from tidemill.core.signature import Kind
from tidemill.engine.call_plan import CallPlan, compile_call
from tidemill.engine.child import target_of
from tidemill.engine.home import Home
from tidemill.engine.lifespan import live
from tidemill.engine.outbox import Outbox
from tidemill.engine.process_pool import ChildCalls
from tidemill.engine.reading import type_of
from tidemill.engine.runners import LoopPool
from tidemill.engine.slot import Line
from tidemill.engine.stall import whereabouts
from tidemill.engine.threads import FunctionCalls, Performer, ThreadPool
from tidemill.engine.work import Call, Load, Result, Stuck
from tidemill.errors import ConfigurationError
from tidemill.ports import Clock

T = TypeVar("T")

_TICK = 0.25
_SWEEP = 1.0
_SILENT = 1.0
_WORKER = attrgetter("worker.name")


class Handlers:
    """The handlers of these workers (`Hands`). All that is wrong with them is told at once, as `ConfigurationError`.

    `client` is what handles find inside of handlers and lifespan; `transactional` names the workers whose backend
    commits effects with the ack; `overrides` replace dependencies; `on_death` is called on the engine's loop.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        clock: Clock,
        *,
        lifespan: Callable[[], Any] | None = None,
        client: Client | None = None,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        transactional: frozenset[str] = frozenset(),
        inline: bool = False,
        on_death: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._clock = clock
        self._now = clock.monotonic
        injector = Injector(Context, overrides=overrides)
        plans = _compile(workers, injector, self._now, transactional)
        self._live = partial(live, lifespan, client, injector.app_scope())
        self._home = Home(clock, inline=inline, on_death=on_death)
        self._lines = {plan.worker.name: Line() for plan in plans}
        self._outbox = Outbox(self._now, self._returned)
        self._base = Variables()
        self._on_loop: dict[str, LoopPool] = {}
        self._in_threads: dict[str, ThreadPool] = {}
        for plan in plans:
            self._add_pool(plan, inline)
        self._tick = self._now()
        self._open = False
        self._stopped = False
        self._rung = False

    # --- from start to stop ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Enter the lifespan and make the app-scoped dependencies. Raises `ConfigurationError` as it is, anything
        else as a `TidemillError` of one line with its cause."""
        engine = get_running_loop()

        def entered(base: Variables) -> None:
            self._base = base
            self._tick = self._now()
            self._outbox.open(engine, self._home.loop)
            for pool in self._on_loop.values():
                pool.open(base)

        await self._home.start(self._live, entered)
        self._open = True
        if self._stopped:  # meanwhile
            self._return_waiting()
            return
        self._home.run(self._beat, "the beat of the handlers' loop")
        self._wake(self._lines)

    async def stop(self, timeout: float) -> str:
        """Leave the lifespan. "" if that went well, else in one line what did not. May be called twice, and before
        the start. What still runs is told to end, and not waited for."""
        self._stopped = True
        for pool in self._in_threads.values():
            pool.close()
        if self._open:
            self._return_waiting()
        return await self._home.stop(timeout, self._close)

    async def spawn(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await this on the handlers' loop, in the lifespan's context (health rules). Cancelling the wait cancels
        the work."""
        return await self._home.spawn(work)

    def run_web(self, serve: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the user's web server on the handlers' loop. If it fails, that is the death of all."""
        self._home.run(serve, "the web server")

    # --- Hands ----------------------------------------------------------------------------------------------

    def submit(self, calls: Sequence[Call]) -> None:
        now = self._now()
        workers = set()
        for worker, its in groupby(calls, _WORKER):
            self._lines[worker].put(list(its), now)
            workers.add(worker)
        if self._stopped:
            self._return_waiting()
        elif self._open:
            self._wake(workers)

    def take_back(self, worker: str, *, waited: float = 0.0) -> Sequence[Call]:
        line = self._lines[worker]
        taken = line.take_back(self._now() - waited)
        if len(line) and self._open:  # who looked meanwhile may have found the line empty
            self._wake((worker,))
        return taken

    def cancel(self, calls: Sequence[Call], why: str) -> None:
        by_worker: dict[str, list[Call]] = {}
        for call in calls:
            by_worker.setdefault(call.worker.name, []).append(call)
        for worker, its in by_worker.items():
            for call in self._cancel(worker, its, why):
                self._outbox.unstarted(call, why)

    def load(self, worker: str) -> Load:
        return self._lines[worker].load(self._now())

    def stuck(self) -> Stuck:
        """How long the loop has been silent, and where it is if that is long. From any thread. Once it is told to
        stop, its beat ends and the stop's own limit holds."""
        if self._stopped:
            return Stuck(0.0)
        silent = max(0.0, self._now() - self._tick)
        thread = self._home.thread
        if silent <= _SILENT or thread is None:
            return Stuck(silent)
        return Stuck(silent, *whereabouts(self._home.loop, thread))

    # --- within ---------------------------------------------------------------------------------------------

    def _add_pool(self, plan: CallPlan, inline: bool) -> None:
        worker = plan.worker
        line = self._lines[worker.name]
        if inline or (plan.plan.kind is Kind.ASYNC and not worker.policy.process):
            self._on_loop[worker.name] = LoopPool(plan, line, self._outbox, self._now)
            return
        self._in_threads[worker.name] = ThreadPool(
            line,
            self._outbox,
            self._now,
            name=worker.name,
            size=worker.policy.concurrency,
            performer=self._performer(plan),
        )

    def _performer(self, plan: CallPlan) -> Callable[[], Performer]:
        if plan.worker.policy.process:
            return partial(ChildCalls, target_of(plan.worker), self._now)
        return lambda: FunctionCalls(plan, self._base, self._home.loop)

    def _wake(self, workers: Iterable[str]) -> None:
        ring = False
        for worker in workers:
            pool = self._in_threads.get(worker)
            if pool is None:
                ring = True
            else:
                pool.wake()
        if ring and not self._rung:
            self._rung = True
            self._home.post(self._wake_loop)

    def _wake_loop(self) -> None:
        self._rung = False
        for pool in self._on_loop.values():
            if len(pool.line):
                pool.wake()

    def _cancel(self, worker: str, calls: list[Call], why: str) -> list[Call]:
        threads = self._in_threads.get(worker)
        if threads is not None:
            withdrawn = threads.withdraw(calls)
            threads.cancel(calls, why)
            return withdrawn
        withdrawn = self._lines[worker].withdraw(calls)
        if self._open:
            self._home.post(partial(self._on_loop[worker].cancel, calls, why))
            self._wake((worker,))
        return withdrawn

    def _return_waiting(self) -> None:
        for line in self._lines.values():
            while (call := line.take()) is not None:
                self._outbox.unstarted(call, "stopped")

    def _returned(self, result: Result) -> None:
        self._lines[result.call.worker.name].returned(result)

    def _close(self) -> None:
        for pool in self._on_loop.values():
            pool.close()

    async def _beat(self) -> None:
        swept = self._now()
        while True:
            now = self._tick = self._now()
            if now - swept >= _SWEEP:
                swept = now
                for loop_pool in self._on_loop.values():
                    loop_pool.sweep(now)
                for thread_pool in self._in_threads.values():
                    thread_pool.sweep(now)
            await self._clock.sleep(_TICK)


def _compile(
    workers: Sequence[Worker], injector: Injector, now: Callable[[], float], transactional: frozenset[str]
) -> list[CallPlan]:
    plans: list[CallPlan] = []
    problems: list[str] = []
    for worker in workers:
        try:
            plans.append(
                compile_call(worker, injector, now, type_=type_of(worker), transactional=worker.name in transactional)
            )
            if worker.policy.process:
                target_of(worker)
        except ConfigurationError as error:
            problems.extend(error.problems or (str(error),))
    if problems:
        raise ConfigurationError(*problems)
    return plans
