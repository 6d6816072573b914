"""A simulation of one host of .NET's change feed processor, by the rules that its source has. It is not .NET.

What it does as that source does: bootstrap with `.lock` and `.info`, one lease for each physical partition; the
EqualPartitionsBalancingStrategy, stealing of one lease included; acquire, renew, checkpoint and release by If-Match,
with the re-read after a 412 and the loss of a lease whose owner changed; expiry by the timestamp of the lease;
`properties` copied, fields that it does not know dropped; splits and merges by 410; a handler's error gives the lease
back. What it does not: the estimator, the notifications, time-outs of reads. Containers are those of the double,
without a wire.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from tests.doubles.cosmos import feed
from tests.doubles.cosmos.state import Container, Fault, Item
from tidemill.ports import Clock

KNOWN = (
    "id", "version", "LeaseToken", "PartitionId", "FeedRange", "Owner", "ContinuationToken", "properties",
    "timestamp", "Mode",
)  # fmt: skip

Handler = Callable[[str, str, Sequence[Item]], Awaitable[None]]
"""Called with the host's name, the lease's token and the page."""


class LeaseLost(Exception):
    """Somebody else has it, or it is gone."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The builder's defaults, in seconds."""

    acquire: float = 13.0
    renew: float = 17.0
    expiration: float = 60.0
    poll: float = 5.0
    lock: float = 30.0
    lock_retry: float = 15.0
    page: int = 100


@dataclass
class Host:
    """`run()` until `stop()` (leases are given back) or `kill()`."""

    name: str
    prefix: str
    feed: Container
    leases: Container
    clock: Clock
    handler: Handler
    start: str = "now"
    numbers: Numbers = Numbers()
    lost: list[str] = field(default_factory=list)
    stolen: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.running: dict[str, asyncio.Task[None]] = {}
        self.main: asyncio.Task[None] | None = None
        self.began: float = 0.0
        self.waited = 0

    def begin(self) -> None:
        self.main = asyncio.create_task(self.run())

    async def run(self) -> None:
        self.began = self.clock.now() - 1
        await self.bootstrap()
        while True:
            for lease in self.to_take(self.all()):
                self.take(lease)
            await self.clock.sleep(self.numbers.acquire)

    async def stop(self) -> None:
        """As StopAsync: processors end, then each lease is given back."""
        tokens = list(self.running)
        await self.kill()
        for token in tokens:
            try:
                self.change(self.read(token), self.mine, {"Owner": None})
            except LeaseLost:
                self.lost.append(token)

    async def kill(self) -> None:
        tasks = [task for task in (self.main, *self.running.values()) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.running.clear()

    # --- bootstrap ------------------------------------------------------------------------------------------

    async def bootstrap(self) -> None:
        while self._find(f"{self.prefix}.info") is None:
            lock = f"{self.prefix}.lock"
            try:
                self._create({"id": lock, "ttl": int(self.numbers.lock)})
            except Fault:
                self.waited += 1
                await self.clock.sleep(self.numbers.lock_retry)
                continue
            self.create_missing()
            self._create({"id": f"{self.prefix}.info"})
            self.leases.delete([lock], lock)

    def create_missing(self) -> None:
        tokens = {lease["LeaseToken"]: lease for lease in self.all()}
        bounds = [tuple(token.split("-")) for token in tokens if "-" in token]
        for one in self.feed.partitions:
            if one.id not in tokens and not any(low < one.high and one.low < high for low, high in bounds):
                self._create(self.fresh(one.id, 0, one.low, one.high, None, {}))

    def fresh(self, token: str, version: int, low: str, high: str, continuation: str | None, notes: Item) -> Item:
        return {
            "id": f"{self.prefix}..{token}", "version": version, "LeaseToken": token, "timestamp": None,
            "FeedRange": {"Range": {"min": low, "max": high}}, "Owner": None, "ContinuationToken": continuation,
            "properties": dict(notes), "Mode": "Incremental Feed",
        }  # fmt: skip

    # --- balancing ------------------------------------------------------------------------------------------

    def to_take(self, leases: Sequence[Item]) -> list[Item]:
        expired = [lease for lease in leases if self.is_expired(lease)]
        counts = Counter({self.name: 0})
        counts.update(lease["Owner"] for lease in leases if not self.is_expired(lease))
        target = 1 if len(leases) <= len(counts) else -(-len(leases) // len(counts))
        need = target - counts[self.name]
        if need <= 0:
            return []
        if expired:
            return expired[:need]
        owner, most = counts.most_common(1)[0]
        if most <= target - (1 if need > 1 else 0):
            return []
        theft = next(lease for lease in leases if lease["Owner"] == owner)
        self.stolen.append((str(theft["LeaseToken"]), owner))
        return [theft]

    def is_expired(self, lease: Item) -> bool:
        if not lease.get("Owner"):
            return True
        said = lease.get("timestamp")
        at = datetime.fromisoformat(said).timestamp() if said else lease["_ts"]
        return bool(at + self.numbers.expiration < self.clock.now())

    def take(self, lease: Item) -> None:
        token, owner = str(lease["LeaseToken"]), lease.get("Owner")
        before = self.running.pop(token, None)
        if before is not None:
            before.cancel()
        try:
            mine = self.change(lease, lambda found: found.get("Owner") == owner, {"Owner": self.name})
        except LeaseLost:
            return
        self.running[token] = asyncio.create_task(self.work(mine))

    # --- one lease ------------------------------------------------------------------------------------------

    async def work(self, lease: Item) -> None:
        """Processor and renewer; whichever ends first ends the other, then the lease is given back."""
        token = str(lease["LeaseToken"])
        tasks = [asyncio.create_task(self.process(lease)), asyncio.create_task(self.renew(token))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        if any(isinstance(result, LeaseLost) for result in results):
            self.lost.append(token)
        elif not any(isinstance(result, Fault) and result.status == 404 for result in results):
            try:
                self.change(self.read(token), self.mine, {"Owner": None})
            except LeaseLost:
                self.lost.append(token)
        if self.running.get(token) is asyncio.current_task():  # it may have been taken again meanwhile
            del self.running[token]

    async def renew(self, token: str) -> None:
        await self.clock.sleep(self.numbers.renew / 2)
        while True:
            self.change(self.read(token), self.mine, {})
            await self.clock.sleep(self.numbers.renew)

    async def process(self, lease: Item) -> None:
        token = str(lease["LeaseToken"])
        place: str | None = lease["ContinuationToken"]
        while True:
            try:
                page = self.page(lease, place)
            except Fault as fault:
                if fault.status != 410:
                    raise
                self.split(lease)
                return
            if not page.items:
                place = place if place is not None or self.start == "beginning" else page.etag
                await self.clock.sleep(self.numbers.poll)
                continue
            await self.handler(self.name, token, page.items)
            lease = self.change(lease, self.mine, {"ContinuationToken": page.etag})
            place = page.etag
            await self.clock.sleep(0)

    def page(self, lease: Item, place: str | None) -> feed.Page:
        headers = {"A-IM": "Incremental Feed", "x-ms-max-item-count": str(self.numbers.page)}
        token = str(lease["LeaseToken"])
        if place is not None:
            headers["If-None-Match"] = place
        elif self.start == "now":
            headers["If-Modified-Since"] = datetime.fromtimestamp(self.began, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
        if "-" not in token:
            return feed.page(self.feed, headers | {"x-ms-documentdb-partitionkeyrangeid": token})
        low, _, high = token.partition("-")
        within = [one for one in self.feed.partitions if one.low < high and low < one.high]
        if len(within) != 1:
            raise Fault(410, "several ranges", 1002)
        bounds = {"x-ms-start-epk": low, "x-ms-end-epk": high, "x-ms-read-key-type": "EffectivePartitionKeyRange"}
        return feed.page(self.feed, headers | bounds | {"x-ms-documentdb-partitionkeyrangeid": within[0].id})

    def split(self, lease: Item) -> None:
        """The range is gone: children with continuation and properties, then the parent goes."""
        found = self.read(str(lease["LeaseToken"]))
        bounds = found["FeedRange"]["Range"]
        low, high = bounds["min"], bounds["max"]
        within = [one for one in self.feed.partitions if one.low < high and low < one.high]
        for one in within:
            first, last = max(low, one.low), min(high, one.high)
            whole = (first, last) == (one.low, one.high) and found.get("version", 0) == 0
            token, version = (one.id, 0) if whole else (f"{first}-{last}", 1)
            child = self.fresh(token, version, first, last, found["ContinuationToken"], found.get("properties") or {})
            try:
                self._create(child)
            except Fault:
                pass  # 409: somebody else has created it
        self.leases.delete([found["id"]], found["id"])

    # --- items ----------------------------------------------------------------------------------------------

    def mine(self, found: Item) -> bool:
        return bool(found.get("Owner") == self.name)

    def change(self, lease: Item, check: Callable[[Item], bool], fields: Item) -> Item:
        """Replace with If-Match; after a 412 read again, and go on if the check still holds."""
        for _ in range(6):
            if not check(lease):
                raise LeaseLost
            stamp = datetime.fromtimestamp(self.clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f0Z")
            body = {name: lease[name] for name in KNOWN if name in lease} | fields | {"timestamp": stamp}
            try:
                return self.leases.write(
                    [lease["id"]], json.loads(json.dumps(body)), how="replace", match=lease["_etag"]
                )[0]
            except Fault as fault:
                if fault.status == 404:
                    raise LeaseLost from None
            lease = self._again(lease)
        raise LeaseLost

    def _again(self, lease: Item) -> Item:
        try:
            return self.leases.read([lease["id"]], lease["id"])
        except Fault:
            raise LeaseLost from None

    def read(self, token: str) -> Item:
        id = f"{self.prefix}..{token}"
        return self._again({"id": id})

    def all(self) -> list[Item]:
        items = [item for one in self.leases.partitions for item in self.leases.all(one)]
        return sorted((i for i in items if i["id"].startswith(f"{self.prefix}..")), key=lambda item: str(item["id"]))

    def _find(self, id: str) -> Item | None:
        try:
            return self.leases.read([id], id)
        except Fault:
            return None

    def _create(self, item: dict[str, Any]) -> None:
        self.leases.write([item["id"]], item, how="create")
