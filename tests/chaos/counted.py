"""Replicas of `apps.counting` on a server, writers beside them, and the books of what was written and what came of it.

An item is a row, a thing or a job, and a number that rises with each change of it. What was written without an error
must take effect once; what was written with one may have been committed or not, so once or never.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any, TypeAlias

import asyncpg
import psutil
import pytest

from tests.acceptance.deliveries import item
from tests.acceptance.processes import Fleet, Replica, percentile
from tests.servers.postgres import Postgres
from tidemill.errors import TidemillError

Item: TypeAlias = tuple[str, int]
Put: TypeAlias = Callable[[Sequence[int], int], Awaitable[object]]

KEYS = 60
AT_ONCE = 5
PAUSE = 0.1
"""Each kind is written in calls of five, ten times a second: 150 items a second in all."""
KINDS = ("row", "thing", "job")
DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

EFFECTS = "SELECT convert_from(body, 'UTF8') FROM tidemill.message_effects"
NEWER = "SELECT seq, convert_from(body, 'UTF8') FROM tidemill.message_effects WHERE seq > $1 ORDER BY seq"
OPEN = 3_000
"""Numbers that may yet be committed behind later ones, amply."""
LETTERS = "SELECT count(*) FROM tidemill.letter"
PARKED = "SELECT value::text FROM tidemill.record WHERE key LIKE 'park/%'"
OTHERS = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"


@dataclass
class Books:
    """When each item was written, and which of them are sure to be committed."""

    at: dict[Item, float] = field(default_factory=dict)
    sure: set[Item] = field(default_factory=set)
    errors: int = 0


class Counted:
    """The system under test."""

    def __init__(self, fleet: Fleet, server: Postgres) -> None:
        self.fleet = fleet
        self.server = server
        self.books = Books()
        self._next = dict.fromkeys(KINDS, 0)
        self._writing: list[asyncio.Task[None]] = []
        self._on = False
        self._open: set[Item] = set()
        self._seen_to = 0
        self._link: asyncpg.Connection | None = None
        self.put: dict[str, Put] = {}

    # --- replicas -------------------------------------------------------------------------------------------

    def start(self, name: str) -> Replica:
        """A container that is started again has the name and the pod of the one before."""
        return self.fleet.start(name, TIDEMILL_POD_UID=name, TIDEMILL_CONTAINER="worker")

    @property
    def alive(self) -> list[Replica]:
        return [replica for replica in self.fleet.replicas if replica.process.poll() is None]

    async def stop(self) -> list[int]:
        """SIGTERM for all that run; their exit codes."""
        return list(await asyncio.gather(*(replica.stop() for replica in self.alive)))

    def crashed(self, killed: Sequence[Replica] = ()) -> list[tuple[str, int | None]]:
        """Who ended though nobody had told it to."""
        ended = [one for one in self.fleet.replicas if one not in killed and one.process.poll() is not None]
        return [(one.name, one.process.returncode) for one in ended]

    # --- writing --------------------------------------------------------------------------------------------

    def begin(self) -> None:
        self._on = True
        self._writing = [asyncio.create_task(self._write(kind)) for kind in KINDS]

    async def end(self) -> None:
        self._on = False
        await asyncio.gather(*self._writing)

    async def _write(self, kind: str) -> None:
        """Evenly; what was not written in time is not made up for."""
        due = time.monotonic()
        while self._on:
            await self.once(kind, AT_ONCE)
            due = max(due + PAUSE, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def once(self, kind: str, size: int) -> None:
        """The next few items; each key in its turn."""
        first = self._next[kind]
        self._next[kind] = first + size
        keys, n = [count % KEYS for count in range(first, first + size)], first // KEYS
        items = [(f"{kind}/{key}" if kind != "job" else f"job/{n}-{key}", n) for key in keys]
        now = time.monotonic()
        self.books.at |= dict.fromkeys(items, now)
        try:
            await self.put[kind](keys, n)
        except (TidemillError, *DRIVER):
            self.books.errors += 1
            await asyncio.sleep(PAUSE)
        else:
            self.sure(items)

    def sure(self, items: Iterable[Item]) -> None:
        new = set(items)
        self.books.sure |= new
        self._open |= new

    async def rows(self, keys: Sequence[int], n: int) -> None:
        """A program of somebody else's, which connects again when it has to."""
        if self._link is None or self._link.is_closed():
            self._link = await asyncpg.connect(self.server.url("counted"), timeout=5.0, command_timeout=10.0)
        try:
            await self._link.execute("UPDATE rows SET n = $2 WHERE id = ANY ($1)", [f"{key}" for key in keys], n)
        except DRIVER:
            self._link.terminate()
            raise

    # --- the books ------------------------------------------------------------------------------------------

    async def fetch(self, sql: str) -> list[Any]:
        link = await asyncpg.connect(self.server.url("counted"), timeout=10.0)
        try:
            return [row[0] for row in await link.fetch(sql)]
        finally:
            await link.close()

    async def effects(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in await self.fetch(EFFECTS)]

    async def missing(self) -> set[Item]:
        """What is sure and has no effect yet. Only what is new is read: the backlog's speed is measured with it."""
        link = await asyncpg.connect(self.server.url("counted"), timeout=10.0)
        try:
            rows = await link.fetch(NEWER, self._seen_to - OPEN)
        finally:
            await link.close()
        for seq, text in rows:
            one = json.loads(text)
            self._open.discard((one["of"], one["n"]))
            self._seen_to = max(seq, self._seen_to)
        return self._open

    async def settle(self, limit: float) -> float:
        """Wait until everything sure took effect; the seconds that took."""
        began = time.monotonic()
        while missing := await self.missing():
            if time.monotonic() - began > limit:
                tails = "\n".join(replica.tail(1500) for replica in self.alive)
                raise TimeoutError(f"no effect after {limit:g} s: {len(missing)}, {sorted(missing)[:9]}\n{tails}")
            await asyncio.sleep(0.1)
        return time.monotonic() - began

    async def audit(self) -> None:
        """Each once, each key in order, nothing put aside."""
        found = await self.effects()
        by_item = Counter((one["of"], one["n"]) for one in found)
        by_delivery = Counter(one["id"] for one in found)
        wrong: dict[str, Sequence[object]] = {
            "several effects": [one for one in found if by_delivery[one["id"]] != 1],
            "several changes": [one for one in found if by_item[one["of"], one["n"]] != 1],
            "never written": list(by_item.keys() - self.books.at.keys()),
            "no effect": list(self.books.sure - by_item.keys()),
            "out of order": self.disorder(),
            "dead letters": [count for count in await self.fetch(LETTERS) if count],
            "parked": [key for text in await self.fetch(PARKED) for key in json.loads(text).get("keys", {})],
        }
        assert not any(wrong.values()), {what: list(items)[:8] for what, items in wrong.items() if items}

    def disorder(self) -> list[Item]:
        """Changes that were started first after a later one of the same row."""
        seen: dict[str, int] = {}
        started: set[Item] = set()
        wrong = []
        for line in self.fleet.journal.lines("start"):
            one = item(line)
            if one not in started and one[1] < seen.get(one[0], -1):
                wrong.append(one)
            started.add(one)
            seen[one[0]] = max(one[1], seen.get(one[0], -1))
        return wrong

    def waits(self, since: float, to: float) -> dict[Item, float]:
        """From the write to the first start, of what was written and committed then; the longest last."""
        first: dict[Item, float] = {}
        for line in self.fleet.journal.lines("start"):
            first.setdefault(item(line), line.at)
        late = time.monotonic()
        written = {one: at for one, at in self.books.at.items() if one in self.books.sure and since <= at <= to}
        found = {one: first.get(one, late) - at for one, at in written.items()}
        return dict(sorted(found.items(), key=itemgetter(1)))

    async def drained(self, rounds: int) -> float:
        """Items a second on an idle machine: so many changes of every row, thing and job, all at once.

        What other programs take of the cores meanwhile is no fault of ours: only what they left is counted, and in
        units of a loop that takes them longer when caches and hyperthreads are shared.
        """
        count, left, unit = len(KINDS) * rounds * KEYS, self._left(), loop()
        for kind in KINDS:
            for _ in range(rounds):
                self._next[kind] += -self._next[kind] % KEYS
                await self.once(kind, KEYS)
        await self.settle(60.0)
        left, unit = self._left() - left, (unit + loop()) / 2
        return float(count * unit / LOOP / max(left / psutil.cpu_count(), 0.1))

    def _left(self) -> float:
        """Core seconds that nobody else has taken: those of ours, and those in which nothing ran."""
        busy = psutil.Process(self.server.pid)
        ours = [psutil.Process(), busy, *busy.children(), *(psutil.Process(one.pid) for one in self.alive)]
        used = 0.0
        for one in ours:
            with suppress(psutil.NoSuchProcess):
                times = one.cpu_times()
                used += times.user + times.system + times.children_user + times.children_system
        machine = psutil.cpu_times()
        return float(used + machine.idle + machine.iowait)

    async def recovered(self, what: str, before: float) -> None:
        """After a phase that ends now: the usual waits within ten seconds, then the usual speed; then the audit."""
        over = time.monotonic()
        await asyncio.sleep(14.0)
        waits = self.waits(over + 10.0, over + 13.0)
        late = percentile(list(waits.values()), 0.99)
        await self.end()
        rest = await self.settle(30.0)
        rates = [await self.drained(ROUNDS)]
        while max(rates) < 0.9 * before and len(rates) < TRIES:
            rates.append(await self.drained(ROUNDS))
        await self.audit()
        again = len(self.fleet.journal.lines("start")) - len(self.books.sure)
        print(
            f"\n{what}: {len(self.books.sure)} items, {self.books.errors} calls of writers failed, {again} deliveries"
            f" more; wait p99 {late:.3f} s ten seconds after, rest {rest:.1f} s; {before:.0f} items/s before,"
            f" {', '.join(f'{rate:.0f}' for rate in rates)} after"
        )
        assert late <= 1.0, list(waits.items())[-9:]
        assert max(rates) >= 0.9 * before


def loop() -> float:
    """Processor seconds for a fixed piece of work."""
    began = time.process_time()
    sum(range(10_000_000))
    return time.process_time() - began


LOOP = 0.11
"""What it takes here when nothing else runs, about; only a unit."""
ROUNDS, TRIES = 8, 5
"""The size of a backlog; how often its speed is measured where other programs may have the cores."""


@asynccontextmanager
async def counted(
    folder: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch, replicas: int = 3
) -> AsyncIterator[tuple[Counted, float]]:
    """Replicas and writers at work, and the speed at which a backlog was drained before."""
    with Fleet(folder, "tests.chaos.apps.counting:app") as fleet:
        fleet.database = server.create("counted") + "?pool=4"
        server.psql(
            "CREATE TABLE rows (id text PRIMARY KEY, n int NOT NULL);"
            f"INSERT INTO rows SELECT i::text, -1 FROM generate_series(0, {KEYS - 1}) i;",
            "counted",
        )
        monkeypatch.setenv("JOURNAL", str(fleet.journal.path))
        from tests.chaos.apps import counting

        importlib.reload(counting)  # it finds its journal when it is imported
        made = Counted(fleet, server)
        await asyncio.gather(*(made.start(f"r{n}").ready() for n in range(replicas)))
        async with counting.app.client(database=fleet.database):
            made.put = {
                "row": made.rows,
                "thing": lambda keys, n: counting.things.put_many([{"id": f"{key}", "n": n} for key in keys]),
                "job": lambda keys, n: counting.jobs.send_many([{"id": f"{n}-{key}", "n": n} for key in keys]),
            }
            old = {(f"row/{key}", -1): 0.0 for key in range(KEYS)}
            made.books.at |= old
            made.sure(old)
            await made.settle(30.0)  # a row that is changed before it is filled in comes twice with the same number
            await made.drained(2)
            speed = median([await made.drained(ROUNDS) for _ in range(3)])
            made.begin()
            try:
                await asyncio.sleep(3.0)
                yield made, speed
            finally:
                made._on = False
                await asyncio.wait(made._writing)
                if made._link is not None:
                    made._link.terminate()
