"""The connection to one database, and its containers by name.

The client's own retries would outlast the limits of the engine, so they are few and short; what is left of a 429 then
is an outage like others, and the engine waits.

Regions: the client reads in the first of the preferred ones that answers and writes where the account takes writes;
both follow from the account's own words. It knows no region but the preferred ones, so the account's others are put
behind them; and it asks for the account anew every five minutes and after a refusal only, so it is told to whenever a
request got no answer, or a failover would be noticed minutes late. Session tokens make a read see the writes of this
process, wherever it goes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from azure.core.credentials_async import AsyncTokenCredential
from azure.core.exceptions import ServiceRequestError, ServiceResponseError
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.cosmos.exceptions import CosmosResourceExistsError, CosmosResourceNotFoundError

from tidemill.adapters.azure.account import credential
from tidemill.adapters.cosmos.address import Address
from tidemill.adapters.cosmos.faults import translate
from tidemill.adapters.cosmos.ranges import Range, ranges
from tidemill.adapters.cosmos.wire import Wire
from tidemill.errors import ConfigurationError, Unavailable

OWN_KEY = "/_key"
"""The partition key of containers that we create."""

RETRIES = 2
BACKOFF = 2
TIMEOUT = 10


@dataclass(slots=True)
class Container:
    """A container that is there. `paths` are those of its partition key, without the slash; `ranges` its physical
    partitions as they were seen last, `bounds` those of leases, of partitions that are there no more as well."""

    name: str
    rid: str
    database_rid: str
    paths: tuple[str, ...]
    proxy: ContainerProxy
    ranges: tuple[Range, ...] = ()
    bounds: dict[str, tuple[str, str]] = field(default_factory=dict)

    async def look(self) -> tuple[Range, ...]:
        """The physical partitions as they are now."""
        # Public is only `read_feed_ranges`, which tells no ids; leases of whole partitions are named by them.
        connection = self.proxy.client_connection
        found = connection._ReadPartitionKeyRanges(self.proxy.container_link)
        self.ranges = ranges([one async for one in found])
        return self.ranges

    def wrote(self, item: Mapping[str, Any], headers: Mapping[str, Any]) -> None:
        """A batch was written, one of its items is this. The client keeps the session tokens of all writes but those
        of batches, which it would not read again in a region that lags."""
        connection = self.proxy.client_connection
        session: Any = connection.session
        if session is not None:
            session.update_session(connection, item, headers)


class Regions(NamedTuple):
    """Of an account, by name."""

    writable: tuple[str, ...]
    readable: tuple[str, ...]

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of the names that the account does not have."""
        known = {_plain(name) for name in self.readable}
        return [name for name in names if _plain(name) not in known]


class Containers:
    """The client of one database. `open` before anything else; `close` may come at any time."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._stack: AsyncExitStack | None = None
        self._client: CosmosClient | None = None
        self._known: dict[str, Container] = {}
        self._wire = Wire()
        self._regions = list(address.regions)

    @property
    def charged(self) -> Mapping[str, float]:
        """Request units by container, since this object was made."""
        return dict(self._wire.charged)

    async def open(self) -> None:
        """Connect. Idempotent. Raises `ConfigurationError` for what a person must mend."""
        if self._client is not None:
            return
        async with AsyncExitStack() as stack, self.told(opening=True):
            who: str | AsyncTokenCredential = self._address.key or await stack.enter_async_context(credential())
            transport = self._wire.transport()
            stack.push_async_callback(transport.close)  # also when the client cannot be made, or not be entered
            client = CosmosClient(
                self._address.endpoint,
                who,
                transport=transport,
                raw_response_hook=self._wire.answered,
                preferred_locations=self._regions,  # this very list, which grows below
                retry_total=RETRIES,
                retry_backoff_max=BACKOFF,
                connection_timeout=TIMEOUT,
                read_timeout=TIMEOUT,
            )
            stack.push_async_callback(client.close)
            self._client = await client.__aenter__()
            self._stack = stack.pop_all()

    async def close(self) -> None:
        """Disconnect. Idempotent, and legal before `open`."""
        stack, self._stack, self._client = self._stack, None, None
        self._known.clear()
        if stack is not None:
            await stack.aclose()

    async def regions(self) -> Regions:
        """What the account says of its regions now. Those that are not preferred are read in when the others fail."""
        async with self.told(opening=True):
            account = await self._connected().client_connection.GetDatabaseAccount()
        writable, readable = (
            tuple(one["name"] for one in told) for told in (account.WritableLocations, account.ReadableLocations)
        )
        if self._regions:
            self._regions += [name for name in readable if _plain(name) not in map(_plain, self._regions)]
        return Regions(writable, readable)

    async def make(self, name: str, key: str, fields: Sequence[str] = (), *, ttl: bool = False) -> Container:
        """The container, created with the partition key `key` if it is not there (and the URL lets us)."""
        async with self.told(opening=True):
            try:
                return await self._find(name)
            except CosmosResourceNotFoundError:
                if not self._address.create:
                    raise ConfigurationError(
                        f"{self._address.shown}: there is no container {name!r}; create it with the partition key"
                        f" {key}, or leave create=no out"
                    ) from None
            await self._create(name, key, fields, ttl)
            return await self._find(name)

    @asynccontextmanager
    async def told(self, *, opening: bool = False) -> AsyncIterator[None]:
        """What the client raises, as ours."""
        try:
            yield
        except Exception as error:
            if self._client is not None and isinstance(error, ServiceRequestError | ServiceResponseError):
                self._client.client_connection._global_endpoint_manager.refresh_needed = True
            ours = translate(error, self._address, opening=opening)
            if ours is error:
                raise
            raise ours from None

    def _connected(self) -> CosmosClient:
        if self._client is None:
            raise Unavailable(f"{self._address.shown}: not connected")
        return self._client

    async def _find(self, name: str) -> Container:
        database = self._connected().get_database_client(self._address.database)
        proxy = database.get_container_client(name)
        properties: Mapping[str, Any] = await proxy.read()
        paths = tuple(path.strip("/") for path in properties["partitionKey"]["paths"])
        above: Mapping[str, Any] = await database.read()
        container = Container(name, properties["_rid"], above["_rid"], paths, proxy)
        await container.look()
        return self._known.setdefault(name, container)

    async def _create(self, name: str, key: str, fields: Sequence[str], ttl: bool) -> None:
        database = self._connected().get_database_client(self._address.database)
        orders = [[{"path": f"/{field}", "order": way}, {"path": "/id", "order": way}]
                  for field in fields for way in ("ascending", "descending")]  # fmt: skip
        policy = {
            "indexingMode": "consistent",
            "includedPaths": [{"path": "/*"}],
            "excludedPaths": [{"path": '/"_etag"/?'}],
            "compositeIndexes": orders,
        }
        more: dict[str, Any] = {"default_ttl": -1} if ttl else {}
        try:
            more |= {"indexing_policy": policy}
            await database.create_container(name, PartitionKey(path=key), **more)
        except CosmosResourceExistsError:
            pass  # another replica was faster


def _plain(name: str) -> str:
    """The client compares names of regions like this: West Europe is westeurope."""
    return "".join(letter for letter in name.lower() if letter not in " -_")
