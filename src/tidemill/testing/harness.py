"""A harness that runs an app in memory, on the test's own loop, with a clock that moves when told.

    async with Harness(app) as harness:
        await invoices.send(Invoice(number="1", total=9))
        await harness.idle()
        assert harness.verdicts == [("send_invoice", "done")]

It is the real engine over the memory backend, with no threads; time stands still except in `idle` and `advance`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from types import TracebackType
from typing import Any, Self

from tidemill.adapters.memory import Memory
from tidemill.adapters.memory.store import MemoryPresence
from tidemill.app.app import App
from tidemill.app.client import using
from tidemill.app.handles import Queue
from tidemill.core.duration import Duration, seconds
from tidemill.core.member import Identity
from tidemill.engine.drain import drain
from tidemill.engine.engine import Engine, Machine
from tidemill.engine.handlers import Handlers
from tidemill.engine.observe import verdict_word
from tidemill.engine.outlet import Outlet
from tidemill.engine.places import Places, places, worked
from tidemill.engine.work import NORMAL, Budget, Call, Ended, Failed, Hands, Load, Misfit, Result, Sink
from tidemill.locate import transactional
from tidemill.model import Dead, DeadLetter, Fact, Later
from tidemill.ports import Database
from tidemill.testing.clock import FakeClock


@dataclass(frozen=True, slots=True)
class Seen:
    """One item as it ended in its handler: done, failed, snoozed, rejected, unfit or cancelled; `reason` says why.

    Compares equal to `(worker, verdict)` and `(worker, id, verdict)`, for short assertions.
    """

    worker: str
    id: str
    verdict: str
    reason: str = ""

    def __eq__(self, other: object) -> bool:
        if isinstance(other, tuple):
            return other in ((self.worker, self.verdict), (self.worker, self.id, self.verdict))
        if isinstance(other, Seen):
            return (self.worker, self.id, self.verdict) == (other.worker, other.id, other.verdict)
        return NotImplemented

    def __hash__(self) -> int:
        return hash((self.worker, self.id, self.verdict))


class Harness:
    """One replica of an app, in memory. `database` may be shared by several, which then divide the work.

    `overrides` replace dependencies, as in FastAPI. `workers` names those that run (all unless said);
    `queues` sets queues apart into databases of their own.
    """

    def __init__(
        self,
        app: App,
        *,
        database: Database | None = None,
        clock: FakeClock | None = None,
        overrides: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        workers: Sequence[str] | None = None,
        queues: Mapping[str, Database] | None = None,
        seed: int = 0,
        replica: str = "test",
    ) -> None:
        self.clock: FakeClock = clock or FakeClock()
        self.verdicts: list[Seen] = []
        self.facts: list[Fact] = []
        declared = app.declared()
        self.places: Places = places(declared, database or Memory(self.clock), queues=queues)
        declared = worked(declared, self.places)
        chosen = [w for w in declared.workers if workers is None or w.name in workers]
        self._declared = declared
        self._workers = chosen
        self._overrides = overrides
        self._identity = Identity(replica, tuple(sorted({w.group for w in chosen})))
        self._random = Random(f"{seed}/{replica}")
        self._killed = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        await self.places.open()
        self._outlet = Outlet(self.places, loop)
        self._handlers = Handlers(
            self._workers,
            self.clock,
            lifespan=self._declared.lifespan,
            client=self._outlet,
            overrides=self._overrides,
            transactional=transactional(self._workers, self.places),
            inline=True,
        )
        machine = Machine(self.clock, self._random, self._identity, NORMAL, self.facts.append)
        self._recorder = _Recorder(self._handlers, self.verdicts)
        self.engine: Engine = Engine(self._workers, self.places, self._recorder, machine)
        self._stack.enter_context(using(self._outlet, loop))
        await self.engine.join()
        await self._handlers.start()
        self.engine.spawn("tick", self.engine.tick(lambda: None))
        self.engine.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._killed:
            ending = asyncio.ensure_future(drain(self.engine, self, Budget(), asyncio.Event()))
            await self.clock.run_until(ending.done, Budget().total())
            await ending
        await self._stack.aclose()

    async def kill(self) -> None:
        """End it as `kill -9` does: nothing is settled, released or told. Leave the block afterwards."""
        self._killed = self._recorder.deaf = True
        await self.engine.end_services()
        ending = asyncio.ensure_future(self._handlers.stop(0.1))
        await self.clock.run_until(ending.done, 1.0)
        for database in self.places.databases:
            presence = database.presence()
            if isinstance(presence, MemoryPresence):
                for membership in self.engine.memberships:
                    presence.vanish(membership.member)

    async def stop_web(self, timeout: float) -> bool:
        """The harness serves no web; call the ASGI app directly."""
        return True

    async def leave(self, timeout: float) -> str:
        """Leave the lifespan, as a drain does."""
        problem = await self._handlers.stop(timeout)
        await self._outlet.close()
        return problem

    async def idle(self, limit: Duration = "1h") -> None:
        """Until there is nothing to do now: what is delayed (a retry, a snooze) is left for `advance`.

        Raises TimeoutError when that is not so within `limit` of the clock's time.
        """
        await self.clock.settle()
        for _ in range(3):  # one pass may find what the last one has caused
            if not await self.clock.run_until(lambda: self.engine.settled and self._outlet.idle, seconds(limit)):
                raise TimeoutError(f"still busy after {limit}")
            while not await self._nothing_waits():
                await self.clock.advance(0.05)

    async def advance(self, duration: Duration) -> None:
        """Move time, and let everything happen that falls due."""
        await self.clock.advance(seconds(duration))

    async def dead_letters(self, of: Queue[Any] | str) -> Sequence[DeadLetter]:
        """The dead letters of a queue, or of a source by name (`feed/<worker>/<partition>`)."""
        if isinstance(of, str):
            return await self.places.main.dead_letters().page(of, -1, 1_000)
        database = self.places.queue_database(of.name)
        return await database.dead_letters().page(f"queue/{of.name}", -1, 1_000)

    async def _nothing_waits(self) -> bool:
        for queue in self.engine.queues:
            if (await queue.queue.depth()).ready and not queue.paused:
                return False
        for feed in self.engine.feeds:
            names = await feed.partitions()
            if set(names) != set(feed.parts):
                return False
            lags = await feed.feed.lag({name: part.lanes.mark for name, part in feed.parts.items()})
            waiting = sum(lag.items for lag in lags.values()) - sum(len(p.lanes) for p in feed.parts.values())
            if waiting:
                return False
        return self.engine.settled and self._outlet.idle


class _Recorder:
    """Passes calls on and writes down how they end."""

    def __init__(self, hands: Hands, verdicts: list[Seen]) -> None:
        self._hands = hands
        self._verdicts = verdicts
        self._sinks: dict[Call, Sink] = {}
        self.deaf = False

    def submit(self, calls: Sequence[Call]) -> None:
        for call in calls:
            self._sinks[call] = call.sink
            call.sink = self
        self._hands.submit(calls)

    def take_back(self, worker: str, *, waited: float = 0.0) -> Sequence[Call]:
        taken = self._hands.take_back(worker, waited=waited)
        for call in taken:
            call.sink = self._sinks.pop(call)
        return taken

    def cancel(self, calls: Sequence[Call], why: str) -> None:
        self._hands.cancel(calls, why)

    def load(self, worker: str) -> Load:
        return self._hands.load(worker)

    def results(self, results: Sequence[Result]) -> None:
        for result in () if self.deaf else results:
            sink = self._sinks.pop(result.call)
            for item, end in zip(result.call.items, result.ends, strict=True):
                id = getattr(item, "id", None) or f"{getattr(item, 'at', '')}"
                self._verdicts.append(Seen(result.call.worker.name, id, verdict_word(end), _reason(end)))
            sink.results([result])


def _reason(end: object) -> str:
    match end:
        case Ended(Later(reason=reason)) | Ended(Dead(reason)):
            return reason
        case Failed(error):
            return error
        case Misfit(why):
            return why
        case _:
            return ""
