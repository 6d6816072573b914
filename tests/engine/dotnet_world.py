"""A feed in the double of Cosmos DB, and who works it: our engine and simulated hosts of .NET, under one fake clock.

Our side is the real engine with its feed reader and store; theirs is `tests.doubles.dotnet_host`. A judge looks at the
leases after each step of time: a token never goes back, and .NET's fields keep their shape.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from tests.doubles.cosmos.direct import HOST, Direct, account_of, direct
from tests.doubles.cosmos.state import Container, Item, rid_of
from tests.doubles.dotnet_host import Host
from tidemill import App, Change
from tidemill.model import CollectionSpec
from tidemill.testing.clock import FakeClock
from tidemill.testing.harness import Harness

ORDERS = CollectionSpec("orders")


class Judge:
    """Looks at the leases after each step of time."""

    def __init__(self, leases: Container, prefix: str) -> None:
        self._leases = leases
        self._prefix = prefix
        self._places: dict[str, int] = {}
        self.owners: defaultdict[str, list[str | None]] = defaultdict(list)

    def items(self) -> dict[str, Item]:
        found = [item for one in self._leases.partitions for item in self._leases.all(one)]
        above = f"{self._prefix}.."
        return {item["id"].removeprefix(above): item for item in found if item["id"].startswith(above)}

    def look(self) -> None:
        for token, item in self.items().items():
            place = int((item["ContinuationToken"] or '"-1"').strip('"'))
            assert place >= self._places.get(token, -1), f"lease {token} went back to {place}"
            self._places[token] = place
            assert item["LeaseToken"] == token
            assert item["version"] == (1 if "-" in token else 0)
            assert item["Mode"] == "Incremental Feed"
            assert all(isinstance(note, str) for note in item["properties"].values())
            seen = self.owners[token]
            if not seen or seen[-1] != item["Owner"]:
                seen.append(item["Owner"])


class World:
    """One feed, its leases, and who works it. `seen`: by document, who handled which n, in order."""

    def __init__(self, partitions: int = 4, start: str = "now") -> None:
        self.clock = FakeClock()
        self.account = account_of(self.clock, partitions)
        self.start = start
        self.seen: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        self.hosts: dict[str, Host] = {}
        self.written: dict[str, int] = {}
        self.directs: list[Direct] = []
        self._n = 0

    async def open(self) -> None:
        """The containers, as a .NET fleet would have them."""
        database, _ = direct(self.account, self.clock)
        await database.open([ORDERS], [])
        self.feed = self.account.container("shop", "orders")
        self.leases = self.account.container("shop", "tidemill")
        self.prefix = f"bill{HOST}_{rid_of('shop')}_{self.feed.rid}"
        self.judge = Judge(self.leases, self.prefix)

    @asynccontextmanager
    async def ours(self, name: str = "ours", seed: int = 0) -> AsyncIterator[Harness]:
        app = App("shop")
        orders = app.collection("orders", dict, id="id")

        async def bill(change: Change[dict[str, Any]]) -> None:
            self.seen[change.value["id"]].append((name, change.value["n"]))

        app.on_change(orders, name="bill", start=self.start, concurrency=8)(bill)  # type: ignore[arg-type, call-overload]
        database, asked = direct(self.account, self.clock, "leases=dotnet&poll=1")
        self.directs.append(asked)
        async with Harness(app, database=database, clock=self.clock, replica=name, seed=seed) as harness:
            yield harness

    def host(self, name: str, **fields: Any) -> Host:
        async def handle(host: str, _token: str, page: Sequence[Item]) -> None:
            for item in page:
                self.seen[item["id"]].append((host, item["n"]))

        made = Host(name, self.prefix, self.feed, self.leases, self.clock, handle, self.start, **fields)
        self.hosts[name] = made
        made.begin()
        return made

    def write(self, count: int = 8) -> None:
        """The next version of some documents, in all partitions."""
        self._n += 1
        for i in range(count):
            id = f"d{i}"
            self.feed.write([id], {"id": id, "_key": id, "n": self._n}, how="upsert")
            self.written[id] = self._n

    async def pass_time(self, seconds: float, *, write: bool = True) -> None:
        """A second at a time; something is written in each."""
        for _ in range(int(seconds)):
            if write:
                self.write()
            await self.clock.advance(1.0)
            self.judge.look()
            for host in self.hosts.values():
                if host.main is not None and host.main.done() and not host.main.cancelled():
                    host.main.result()

    async def until(self, ready: Callable[[], bool], limit: float, *, write: bool = True) -> float:
        began = self.clock.monotonic()
        while not ready():
            assert self.clock.monotonic() - began < limit, f"not within {limit} s: {self.owners()}"
            await self.pass_time(1, write=write)
        return self.clock.monotonic() - began

    def owners(self) -> dict[str, str | None]:
        return {token: item["Owner"] for token, item in self.judge.items().items()}

    def shares(self) -> dict[str, int]:
        """How many leases each kind has; ours by the property that says so."""
        counts: defaultdict[str, int] = defaultdict(int)
        for item in self.judge.items().values():
            owner = item["Owner"]
            ours = owner and item["properties"].get("tidemill.owner") == owner
            counts["ours" if ours else str(owner)] += 1
        return dict(counts)

    def caught_up(self) -> bool:
        """The newest version of each document was handled, whoever did it."""
        return all(self.seen[id] and max(n for _, n in self.seen[id]) == n_ for id, n_ in self.written.items())

    def repeated(self) -> int:
        """How often a document was handled at a version that had been passed."""
        again = 0
        for entries in self.seen.values():
            highest = 0
            for _, n in entries:
                again += n <= highest
                highest = max(highest, n)
        return again

    async def end(self) -> None:
        for host in self.hosts.values():
            await host.kill()
