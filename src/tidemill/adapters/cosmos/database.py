"""The Cosmos DB backend as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from tidemill.adapters.cosmos.address import Address, address
from tidemill.adapters.cosmos.commit import commit
from tidemill.adapters.cosmos.containers import OWN_KEY, Container, Containers
from tidemill.adapters.cosmos.documents import CosmosDocuments
from tidemill.adapters.cosmos.dotnet import FULL_FIDELITY, INCREMENTAL, Place
from tidemill.adapters.cosmos.feed import CosmosFeed
from tidemill.adapters.cosmos.items import BODY
from tidemill.adapters.cosmos.leases import DotnetStore, Kept
from tidemill.adapters.cosmos.letters import CosmosDeadLetters
from tidemill.adapters.cosmos.store import CosmosStore
from tidemill.errors import ConfigurationError
from tidemill.model import CollectionSpec, Commit, CommitResult, Limits, QueueSpec, Source, StreamSpec, TableSpec
from tidemill.ports import Clock, DeadLetters, Documents, Feed, Presence, Queue, Store

PARTS = ("store", "feed", "documents", "dead_letters", "key_commit")


class Cosmos:
    """Implements `tidemill.ports.Database`."""

    def __init__(self, where: Address, clock: Clock) -> None:
        self._address = where
        self._clock = clock
        self._containers = Containers(where)
        self._sources: dict[str, Container] = {}
        self._bells: dict[str, asyncio.Event] = {}
        self._store: Container | None = None
        self.warnings: tuple[str, ...] = ()
        """What is strange in the settings and no mistake; told at start."""
        self._leases: DotnetStore | None = None

    @classmethod
    def from_url(cls, url: str, clock: Clock) -> Cosmos:
        """Raises `ConfigurationError` for a URL that does not fit."""
        return cls(address(url), clock)

    @property
    def features(self) -> frozenset[str]:
        every = ["versions", "deletes", "now_only"] if self._address.every else []
        return frozenset([*PARTS, *every, *(["foreign"] if self._address.dotnet else [])])

    @property
    def limits(self) -> Limits:
        return Limits(batch=100, body=BODY)

    async def open(self, sources: Sequence[Source], queues: Sequence[QueueSpec]) -> None:
        if queues:
            names = ", ".join(sorted(queue.name for queue in queues))
            raise ConfigurationError(
                f"{self._address.shown}: Cosmos DB has no queues: set another URL for {names}"
                " (queues.NAME.url, or TIDEMILL_QUEUES__NAME__URL)"
            )
        await self._containers.open()
        regions = await self._containers.regions()
        if len(regions.writable) > 1:
            raise ConfigurationError(
                f"{self._address.shown}: the account takes writes in several regions, where two replicas could both win"
                " a lease; let it write in one (az cosmosdb update --enable-multiple-write-locations false)"
            )
        if unknown := regions.unknown(self._address.regions):
            self.warnings = (
                f"{self._address.shown}: regions={','.join(self._address.regions)}: the account has no"
                f" {' and no '.join(unknown)} (it has {', '.join(regions.readable)}); passed over",
            )
        self._store = await self._containers.make(self._address.store, "/id", ttl=True)
        if self._store.paths != ("id",):
            raise ConfigurationError(
                f"{self._address.shown}: store={self._address.store}: its partition key is"
                f" /{'/'.join(self._store.paths)}, and must be /id; name another container (store=)"
            )
        for source in sources:
            await self._open(source)
        if self._address.dotnet:
            self._leases = await self._share(self._store, sources)

    async def close(self) -> None:
        await self._containers.close()

    def store(self) -> Store:
        container = self._opened()
        return self._leases or CosmosStore(self._containers, container)

    def dead_letters(self) -> DeadLetters:
        return CosmosDeadLetters(self._containers, self._opened())

    def feed(self, source: Source) -> Feed:
        container = self._source(source)
        return CosmosFeed(
            self._containers, container, source.name, self._clock, self._bells[source.name],
            longest=self._address.poll, every=self._address.every,
        )  # fmt: skip

    def documents(self, source: Source) -> Documents:
        container = self._source(source)
        spec = source if isinstance(source, CollectionSpec) else CollectionSpec(source.name)
        return CosmosDocuments(self._containers, container, spec, self._bells[source.name])

    def queue(self, queue: QueueSpec) -> Queue:
        raise ConfigurationError(f"{self._address.shown}: Cosmos DB has no queues ({queue.name!r})")

    def presence(self) -> Presence | None:
        return None

    async def commit(self, commits: Sequence[Commit]) -> Sequence[CommitResult]:
        return await commit(self._containers, self._address.shown, self._of_name, commits)

    def charged(self) -> Mapping[str, float]:
        """Implements `tidemill.ports.Metered`, in request units."""
        return self._containers.charged

    async def _open(self, source: Source) -> None:
        match source:
            case CollectionSpec():
                container = await self._containers.make(source.name, OWN_KEY, source.fields)
            case TableSpec():
                container = await self._existing(source.name, source.table, source.id, source.key)
            case StreamSpec():
                raise ConfigurationError(f"{self._address.shown}: Cosmos DB has no queues ({source.queue!r})")
        self._sources[source.name] = container
        self._bells.setdefault(source.name, asyncio.Event())

    async def _existing(self, name: str, table: str, id: str, key: str) -> Container:
        container = await self._containers.make(table, f"/{key}")
        if id != "id":
            raise ConfigurationError(f"table {name!r}: id={id!r}: in Cosmos DB the id of a document is its field id")
        if key not in ("/".join(container.paths), ",".join(container.paths)):
            raise ConfigurationError(
                f"table {name!r}: key={key!r}: the partition key of container {table!r} is"
                f" {', '.join(container.paths)}, and order is kept by that; write key={','.join(container.paths)!r}"
            )
        return container

    def _of_name(self, name: str) -> CosmosDocuments:
        container = self._source(CollectionSpec(name))
        return CosmosDocuments(self._containers, container, CollectionSpec(name), self._bells[name])

    async def _share(self, store: Container, sources: Sequence[Source]) -> DotnetStore:
        """The store in which the leases of these sources' workers are those of .NET's processor."""
        kept: list[Kept] = []
        mode = FULL_FIDELITY if self._address.every else INCREMENTAL
        for source in sources:
            feed = self._sources[source.name]
            under = f"{self._address.host}_{feed.database_rid}_{feed.rid}"
            for worker in () if isinstance(source, StreamSpec) else source.workers:
                name = self._address.processors.get(worker, worker)
                kept.append(Kept(Place(worker, source.name, f"{name}{under}", mode), feed))
        for n, one in enumerate(kept):
            twin = next((other for other in kept[:n] if other.place.prefix == one.place.prefix), None)
            if twin is not None:
                raise ConfigurationError(
                    f"{self._address.shown}: workers {twin.place.worker!r} and {one.place.worker!r} have one processor"
                    f" for {one.place.source!r}; give each its own (processors=)"
                )
        made = DotnetStore(CosmosStore(self._containers, store), self._containers, store, kept, self._clock)
        await made.check()
        return made

    def _source(self, source: Source) -> Container:
        if source.name not in self._sources:
            raise ConfigurationError(f"{self._address.shown}: {source.name!r} was not opened")
        return self._sources[source.name]

    def _opened(self) -> Container:
        if self._store is None:
            raise ConfigurationError(f"{self._address.shown}: not open")
        return self._store
