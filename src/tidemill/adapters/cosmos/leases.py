"""The store with `leases=dotnet`: the leases of our feed workers are those of .NET's processor, the rest is ours.

`.info` says that all leases of a processor were created: a .NET host that starts without it creates what is missing,
under `.lock`. We create leases one by one, which needs no lock: each is created if it is absent. Once they cover all
physical partitions `.info` is written, so that a .NET host that starts later waits for nothing. A `.lock` whose holder
died stays for ever where the container has no TTL: one that is old by the clock of the service is removed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from azure.core import MatchConditions

from tidemill.adapters.azure.several import each
from tidemill.adapters.cosmos.containers import Container, Containers
from tidemill.adapters.cosmos.dotnet import Around, Bounds, Item, Place, bounds_of, covered, from_item, to_item
from tidemill.adapters.cosmos.faults import status
from tidemill.adapters.cosmos.store import CosmosStore, attempt, read
from tidemill.errors import ConfigurationError
from tidemill.model import Gone, Record, Stale, Swap, Swapped
from tidemill.ports import Clock

LEASE = "lease/"
LOCK_LASTS = 45.0
"""Seconds after which a `.lock` has no holder: .NET gives it 30."""


@dataclass(slots=True)
class Kept:
    """The leases of one feed worker: where they stand, whose changes they are about, and what was seen of them."""

    place: Place
    feed: Container
    bounds: dict[str, Bounds] = field(default_factory=dict)
    info_at: float = 0.0
    introducing: bool = False

    def record(self, item: Item) -> Record:
        """The item as a record. What it covers is kept in mind, for its children and for who begins there."""
        partition = item["id"].removeprefix(self.place.leases)
        bounds = bounds_of(item, partition, self.feed.ranges)
        if bounds is not None:
            self.bounds[partition] = self.feed.bounds[partition] = bounds
        around = Around(self.feed.ranges, self.bounds, self.info_at)
        return Record(f"{LEASE}{self.place.worker}/{partition}", item["_etag"], from_item(item, self.place, around))


class DotnetStore:
    """Implements `tidemill.ports.Store`."""

    def __init__(
        self, records: CosmosStore, containers: Containers, container: Container, kept: Sequence[Kept], clock: Clock
    ) -> None:
        self._records = records
        self._containers = containers
        self._container = container
        self._kept: Mapping[str, Kept] = {one.place.worker: one for one in kept}
        self._clock = clock

    async def check(self) -> None:
        """Raises `ConfigurationError` for leases that we may not touch, and for leases of our own schema."""
        for one in self._kept.values():
            await self._leases(one)
            prefix = f"{LEASE}{one.place.worker}/"
            if await self._records.scan(prefix, prefix, 1):
                raise ConfigurationError(
                    f"store={self._container.name}: worker {one.place.worker!r} has leases of Tidemill's own schema"
                    " there, which are not converted; leave leases=dotnet out, or name another container (store=)"
                )

    async def get(self, keys: Sequence[str]) -> Sequence[Record | None]:
        async with self._containers.told():
            return await each(self._get, keys)

    async def scan(self, prefix: str, after: str, limit: int) -> Sequence[Record]:
        found = list(await self._records.scan(prefix, after, limit))
        for worker, one in self._kept.items():
            above = f"{LEASE}{worker}/"
            if above.startswith(prefix) or prefix.startswith(above):
                found += [r for r in await self._leases(one) if r.key.startswith(prefix) and r.key > after]
        return sorted(found, key=lambda record: record.key)[:limit]

    async def swap(self, swaps: Sequence[Swap]) -> Sequence[Swapped]:
        async with self._containers.told():
            results = await each(self._swap, swaps)
        keys = [result.key for result in results if isinstance(result, Record)]
        for worker in {found[0].place.worker for key in keys if (found := self._find(key)) is not None}:
            await self._introduce(self._kept[worker])
        return results

    # --- inside ---------------------------------------------------------------------------------------------

    def _find(self, key: str) -> tuple[Kept, str] | None:
        """Whose lease it is, and the id of its item; None for other records."""
        _, worker, partition = key.split("/", 2) if _is_lease(key) else ("", "", "")
        one = self._kept.get(worker)
        return None if one is None else (one, one.place.leases + partition)

    async def _get(self, key: str) -> Record | None:
        found = self._find(key)
        if found is None:
            return (await self._records.get([key]))[0]
        one, id = found
        item = await read(self._container.proxy, id)
        return None if item is None else one.record(item)

    async def _swap(self, swap: Swap) -> Swapped:
        found = self._find(swap.key)
        if found is None:
            return (await self._records.swap([swap]))[0]
        one, id = found
        partition = id.removeprefix(one.place.leases)
        item = None if swap.value is None else to_item(swap.value, one.place, partition, self._clock.now())
        done, now = await attempt(self._container.proxy, id, item, swap.version)
        if not done:
            return Stale(swap.key, None if now is None else one.record(now))
        if now is None:
            one.bounds.pop(partition, None)
            return Gone(swap.key)
        return one.record(now)

    async def _leases(self, one: Kept) -> list[Record]:
        items, _ = await self._all(one)
        leases = [item for item in items.values() if item["id"].startswith(one.place.leases)]
        info = items.get(one.place.info)
        one.info_at = float(info["_ts"]) if info else 0.0
        one.bounds.clear()
        for item in leases:  # all of them are known before one asks for its parents
            partition = item["id"].removeprefix(one.place.leases)
            if (bounds := bounds_of(item, partition, one.feed.ranges)) is not None:
                one.bounds[partition] = bounds
        return [one.record(item) for item in leases]

    async def _all(self, one: Kept) -> tuple[dict[str, Item], float]:
        """The leases with `.info` and `.lock`, by id, and the service's time (0: not told)."""
        date: list[str] = []

        def hook(headers: Mapping[str, Any], _: object) -> None:
            date.append(str(headers.get("date") or headers.get("Date") or ""))

        async with self._containers.told():
            found = self._container.proxy.query_items(
                "SELECT * FROM c WHERE STARTSWITH(c.id, @p0)",
                parameters=[{"name": "@p0", "value": one.place.prefix + "."}],
                response_hook=hook,
            )
            items: dict[str, Item] = {item["id"]: item async for item in found}
        said = next((text for text in reversed(date) if text), "")
        return items, parsedate_to_datetime(said).timestamp() if said else 0.0

    async def _introduce(self, one: Kept) -> None:
        """After a lease was written: see that `.info` is there. One at a time; the next write asks again."""
        if one.info_at or one.introducing:
            return
        one.introducing = True
        try:
            await self._complete(one)
        finally:
            one.introducing = False

    async def _complete(self, one: Kept) -> None:
        """Write `.info` if every physical partition has a lease, and remove a lock that nobody holds."""
        items, now = await self._all(one)
        info, lock, proxy = items.get(one.place.info), items.get(one.place.lock), self._container.proxy
        async with self._containers.told():
            if lock is not None and now - lock["_ts"] >= LOCK_LASTS:
                await _passing(
                    proxy.delete_item(
                        lock["id"], lock["id"], etag=lock["_etag"], match_condition=MatchConditions.IfNotModified
                    )
                )
            if info is None and covered(await one.feed.look(), self._bounds(one, items)):
                await _passing(proxy.create_item({"id": one.place.info}))
                info = await read(proxy, one.place.info)
        one.info_at = float(info["_ts"]) if info else 0.0

    def _bounds(self, one: Kept, items: Mapping[str, Item]) -> list[Bounds]:
        names = {
            id.removeprefix(one.place.leases): item for id, item in items.items() if id.startswith(one.place.leases)
        }
        found = [bounds_of(item, name, one.feed.ranges) for name, item in names.items()]
        return [bounds for bounds in found if bounds is not None]


def _is_lease(key: str) -> bool:
    return key.startswith(LEASE) and key.count("/") >= 2


async def _passing(request: Any) -> None:
    """Do it, unless somebody else was faster."""
    try:
        await request
    except Exception as error:
        if status(error) not in (404, 409, 412):
            raise
