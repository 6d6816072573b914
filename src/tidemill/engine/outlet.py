"""Sends and document writes of handlers, on their way to the backend.

Handlers live on their own loop, backends on the engine's. What handlers ask for crosses in batches, one wake-up a
batch, and is coalesced: of each operation and place one request is in flight, and what is asked meanwhile goes
with the next, so that many small writes share one commit. The same object serves a client without a worker, where
both loops are one.
"""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from tidemill.engine.admission import Admission
from tidemill.engine.controls import pause
from tidemill.engine.places import Places
from tidemill.errors import BadOption, TidemillError, Unavailable
from tidemill.model import Commit, Message, Query, Rows, Statement, Stored, Write, Written

Lane: TypeAlias = tuple[str, str]

_READS = ("get", "query")

MOST = 1_000
"""Items in one request to a port."""


class Asked:
    """One call of a handle: its items, and the future on the caller's loop that waits for as many results."""

    __slots__ = ("future", "items", "loop")

    def __init__(self, items: Sequence[Any], loop: asyncio.AbstractEventLoop) -> None:
        self.items: Sequence[Any] = items
        self.loop: asyncio.AbstractEventLoop = loop
        self.future: asyncio.Future[Sequence[Any]] = loop.create_future()


class Outlet:
    """Implements `tidemill.app.client.Client` over the ports. Made on the engine's loop, used from any."""

    def __init__(self, places: Places, loop: asyncio.AbstractEventLoop) -> None:
        self._places = places
        self._loop = loop
        self._admission = Admission(places, loop.time)
        self._lock = threading.Lock()
        self._arrivals: dict[asyncio.AbstractEventLoop, list[tuple[Lane, Asked]]] = {}
        self._waiting: defaultdict[Lane, list[Asked]] = defaultdict(list)
        self._busy: dict[Lane, asyncio.Task[None]] = {}
        self._closed = False

    async def send(self, queue: str, messages: Sequence[Message]) -> Sequence[str]:
        self.check(queue, messages)
        return await self._ask(("send", queue), messages)

    def check(self, queue: str, messages: Sequence[Message]) -> None:
        self._admission.check(queue, messages)

    def statements(self, commit: Commit) -> Sequence[Statement]:
        homes = {id(home): home for home in (
            *(self._places.queue_database(message.queue) for message in commit.messages),
            *(self._places.source_database(write.collection) for write in commit.writes),
        )}  # fmt: skip
        [home] = homes.values()
        made = getattr(home, "statements", None)
        if made is None:
            name = type(home).__name__.lower()
            raise BadOption(f"connection=: the backend {name} is no SQL database; leave it out")
        found: Sequence[Statement] = made(commit)
        return found

    async def get(self, collection: str, ids: Sequence[str]) -> Sequence[Stored | None]:
        return await self._ask(("get", collection), ids)

    async def write(self, collection: str, writes: Sequence[Write]) -> Sequence[Written]:
        return await self._ask(("write", collection), writes)

    async def query(self, collection: str, query: Query) -> Rows:
        [rows] = await self._ask(("query", collection), [query])
        assert isinstance(rows, Rows)
        return rows

    async def pause(self, worker: str) -> None:
        await self._ask(("pause", worker), [None])

    @property
    def idle(self) -> bool:
        """Nothing is asked or under way."""
        return not self._arrivals and not self._busy

    async def close(self) -> None:
        """Finish what was asked; what is asked afterwards is refused."""
        self._closed = True
        while self._busy:
            await asyncio.gather(*self._busy.values())

    async def _ask(self, lane: Lane, items: Sequence[Any]) -> Sequence[Any]:
        loop = asyncio.get_running_loop()
        asked = Asked(items, loop)
        with self._lock:
            arrivals = self._arrivals.setdefault(loop, [])
            arrivals.append((lane, asked))
        if len(arrivals) == 1:  # what else is asked in this turn of the caller's loop crosses with it
            loop.call_soon(self._wake, loop)
        return await asked.future

    def _wake(self, caller: asyncio.AbstractEventLoop) -> None:
        """On the caller's loop, after a turn in which something was asked."""
        try:
            if caller is self._loop:
                self._arrive(caller)
            else:
                self._loop.call_soon_threadsafe(self._arrive, caller)
        except RuntimeError:
            stopped = Unavailable("the worker has stopped")
            _resolve([(asked, stopped) for _, asked in self._arrived(caller)])

    def _arrive(self, caller: asyncio.AbstractEventLoop) -> None:
        for lane, asked in self._arrived(caller):
            self._waiting[lane].append(asked)
            if lane not in self._busy:
                self._busy[lane] = self._loop.create_task(self._serve(lane))

    def _arrived(self, caller: asyncio.AbstractEventLoop) -> Sequence[tuple[Lane, Asked]]:
        with self._lock:
            return self._arrivals.pop(caller, [])

    async def _serve(self, lane: Lane) -> None:
        try:
            while self._waiting[lane]:
                batch = _first(self._waiting[lane])
                if self._closed:
                    _answer(batch, Unavailable("the worker has stopped"))
                    continue
                if lane[0] == "send":
                    batch = await self._admitted(lane[1], batch)
                if batch:
                    await self._request(lane, batch)
        finally:
            del self._busy[lane]
            del self._waiting[lane]

    async def _admitted(self, queue: str, batch: list[Asked]) -> list[Asked]:
        """Those that find room in the queue; the others are told."""
        try:
            refused = await self._admission.admit(queue, [len(asked.items) for asked in batch])
        except Exception as error:
            _answer(batch, error if isinstance(error, TidemillError) else Unavailable(f"depth {queue}: {error!r}"))
            return []
        for asked, full in zip(batch, refused, strict=True):
            if full is not None:
                _answer([asked], full)
        return [asked for asked, full in zip(batch, refused, strict=True) if full is None]

    async def _request(self, lane: Lane, batch: list[Asked]) -> None:
        items = [item for asked in batch for item in asked.items]
        try:
            results: Sequence[Any] = await self._call(lane)(items)
        except TidemillError as error:
            if len(batch) == 1 or isinstance(error, Unavailable):
                _answer(batch, error)
            else:
                await self._alone(lane, batch)
        except Exception as error:
            if len(batch) > 1 and lane[0] in _READS:  # a read that failed so has changed nothing
                await self._alone(lane, batch)
            else:
                _answer(batch, Unavailable(f"{lane[0]} {lane[1]}: {type(error).__name__}: {error}"))
        else:
            _answer(batch, results)

    async def _alone(self, lane: Lane, batch: list[Asked]) -> None:
        """Each by itself: one bad item must not fail its neighbours."""
        for asked in batch:
            await self._request(lane, [asked])

    def _call(self, lane: Lane) -> Callable[[Sequence[Any]], Awaitable[Sequence[Any]]]:
        operation, place = lane
        match operation:
            case "send":
                return self._places.queue(place).send
            case "get":
                return self._places.documents(place).get
            case "write":
                return self._places.documents(place).write
            case "pause":
                return self._pause(place)
            case _:
                return self._queries(place)

    def _pause(self, worker: str) -> Callable[[Sequence[None]], Awaitable[Sequence[None]]]:
        async def paused(asked: Sequence[None]) -> Sequence[None]:
            await pause(self._places.shared_store(), worker)
            return asked

        return paused

    def _queries(self, place: str) -> Callable[[Sequence[Query]], Awaitable[Sequence[Rows]]]:
        documents = self._places.documents(place)

        async def queries(asked: Sequence[Query]) -> Sequence[Rows]:
            return [await documents.query(query) for query in asked]

        return queries


def _first(waiting: list[Asked]) -> list[Asked]:
    """As many as fit into one request, at least one; they leave the list."""
    count = size = 0
    for asked in waiting:
        size += len(asked.items)
        if count and size > MOST:
            break
        count += 1
    batch = waiting[:count]
    del waiting[:count]
    return batch


def _answer(batch: Sequence[Asked], results: Sequence[Any] | Exception) -> None:
    """Hand each caller its part, with one wake-up for each loop."""
    parts: list[tuple[Asked, Sequence[Any] | Exception]] = []
    start = 0
    for asked in batch:
        end = start + len(asked.items)
        parts.append((asked, results if isinstance(results, Exception) else results[start:end]))
        start = end
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[tuple[Asked, Sequence[Any] | Exception]]]
    by_loop = defaultdict(list)
    for part in parts:
        by_loop[part[0].loop].append(part)
    for loop, theirs in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, theirs)
        except RuntimeError:
            continue  # the caller's loop is closed: nobody waits any more


def _resolve(parts: Sequence[tuple[Asked, Sequence[Any] | Exception]]) -> None:
    for asked, result in parts:
        if asked.future.done():
            continue
        if isinstance(result, Exception):
            asked.future.set_exception(result)
        else:
            asked.future.set_result(result)
