"""Controls: wishes written as records. Only the owner of the thing acts on one, and then removes it.

`control/worker/<worker>` {wish: pause} stands for as long as the pause; `control/feed/<worker>/<partition>/<n>` {wish:
replay | drop, key} or {wish: resume | reset} is for whoever holds the partition. Looked for once a second and when the
bell rings. A wish that was acted on and not removed (a crash in between) is acted on again: each is idempotent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence

from tidemill.engine.feeds import FeedWorker
from tidemill.engine.parking import Decided
from tidemill.engine.partition import PartitionWork
from tidemill.engine.queues import QueueWorker
from tidemill.engine.tasks import Tasks
from tidemill.errors import TidemillError
from tidemill.model import Record, Stale, Swap
from tidemill.ports import Store

PAUSE = "control/worker/"
FEED = "control/feed/"
PAGE = 1_000


FORMAT = 1


async def pause(store: Store, worker: str) -> None:
    """Wish that this worker starts nothing more, over whatever stands there."""
    key = PAUSE + worker
    [found] = await store.get([key])
    while found is None or found.value.get("wish") != "pause":
        [reply] = await store.swap([Swap(key, found.version if found else None, {"format": FORMAT, "wish": "pause"})])
        if not isinstance(reply, Stale):
            return
        found = reply.current


class Controls:
    """Reads the wishes that concern the workers of this replica."""

    def __init__(self, store: Store, feeds: Sequence[FeedWorker], queues: Sequence[QueueWorker]) -> None:
        self._store = store
        self._feeds: Mapping[str, FeedWorker] = {feed.worker: feed for feed in feeds}
        self._queues: Mapping[str, QueueWorker] = {queue.worker.name: queue for queue in queues}
        self._acting: dict[str, PartitionWork] = {}  # under this hold of the partition; another hold acts anew
        self._leasing: set[str] = set()
        self._tasks = Tasks()

    async def look(self) -> None:
        """One look at all wishes. A store that does not answer is asked again at the next."""
        self._tasks.check()
        names = [*self._feeds, *self._queues]
        try:
            pauses = await self._store.get([PAUSE + name for name in names]) if names else []
            wishes = await self._wishes() if self._feeds else []
        except TidemillError:
            return
        for name, record in zip(names, pauses, strict=True):
            self._pause(name, record is not None and record.value.get("wish") == "pause")
        for record in wishes:
            self._act(record)

    async def _wishes(self) -> list[Record]:
        """All of them: those that nobody here can act on must not hide others."""
        found: list[Record] = []
        after = FEED
        while True:
            page = await self._store.scan(FEED, after, PAGE)
            found += page
            if len(page) < PAGE:
                return found
            after = page[-1].key

    def _pause(self, name: str, paused: bool) -> None:
        worker = self._feeds.get(name) or self._queues.get(name)
        if worker is not None and worker.paused != paused:
            worker.pause(paused)

    def _act(self, record: Record) -> None:
        worker, _, rest = record.key.removeprefix(FEED).partition("/")
        partition, _, _ = rest.partition("/")
        feed = self._feeds.get(worker)
        part = feed.parts.get(partition) if feed is not None else None
        if feed is None or part is None or record.key in self._leasing or self._acting.get(record.key) is part:
            return
        match record.value.get("wish"):
            case "replay" | "drop" as wish:
                key = str(record.value.get("key"))
                if feed.decide(partition, Decided(key, wish, lambda: self._remove(record))):
                    self._acting[record.key] = part
            case "resume":
                self._spawn(record, feed.resume_halted(partition))
            case "reset":
                self._spawn(record, feed.reset(partition, str(record.value.get("cursor"))))

    def _spawn(self, record: Record, act: Awaitable[bool]) -> None:
        """The wish is removed once what it wants is stored; else whoever holds the partition next acts on it."""
        self._leasing.add(record.key)

        async def work() -> None:
            if await act:
                self._remove(record)
            else:
                self._leasing.discard(record.key)

        self._tasks.spawn(work())

    def _remove(self, record: Record) -> None:
        async def remove() -> None:
            try:
                await self._store.swap([Swap(record.key, record.version, None)])
            except TidemillError:
                return  # it is found and acted on again: idempotent
            finally:
                self._acting.pop(record.key, None)
                self._leasing.discard(record.key)

        self._tasks.spawn(remove())
