"""The double without a wire: what `tidemill.adapters.cosmos` asks of azure-cosmos, answered in the same loop at once.

For tests under a clock that stands still, where a socket would never be waited for. `Direct` takes the place of the
adapter's `Containers`; everything above it is what runs in production.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from email.utils import formatdate
from typing import Any

from azure.cosmos.exceptions import (
    CosmosHttpResponseError,
    CosmosResourceExistsError,
    CosmosResourceNotFoundError,
)

from tests.doubles.cosmos import feed, sql
from tests.doubles.cosmos.state import Account, Fault, Item, public, rid_of
from tests.doubles.cosmos.state import Container as State
from tidemill.adapters.cosmos import Cosmos
from tidemill.adapters.cosmos.address import Address, address
from tidemill.adapters.cosmos.containers import Container, Regions
from tidemill.adapters.cosmos.faults import translate
from tidemill.ports import Clock

HOST = "shop-account.documents.azure.com"


class Direct:
    """Implements what `Cosmos` uses of `Containers`. `refuse`: the status with which a request fails, by its method and
    id, before it has taken effect; `lose`: whether its answer is lost after it has."""

    def __init__(self, account: Account, where: Address) -> None:
        self.account = account
        self.where = where
        self.counts: Counter[str] = Counter()
        self.refuse: Callable[[str, str], int] = lambda _method, _id: 0
        self.lose: Callable[[str, str], bool] = lambda _method, _id: False

    async def open(self) -> None:
        self.account.databases.setdefault("shop", {})

    async def close(self) -> None: ...

    async def regions(self) -> Regions:
        return Regions(("Here",), ("Here",))

    async def make(self, name: str, key: str, fields: Sequence[str] = (), *, ttl: bool = False) -> Container:
        if name not in self.account.containers("shop"):
            body = {"id": name, "partitionKey": {"paths": [key], "kind": "Hash", "version": 2}}
            self.account.create("shop", body | ({"defaultTtl": -1} if ttl else {}))
        state = self.account.container("shop", name)
        paths = tuple(path.strip("/") for path in state.key["paths"])
        found = Container(name, state.rid, rid_of("shop"), paths, Proxy(self, state))  # type: ignore[arg-type]
        await found.look()
        return found

    @asynccontextmanager
    async def told(self, *, opening: bool = False) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            raise translate(error, self.where, opening=opening) from None


class Proxy:
    """One container, with the methods of `azure.cosmos.aio.ContainerProxy`."""

    def __init__(self, direct: Direct, state: State) -> None:
        self._direct = direct
        self.state = state
        self.client_connection = self
        self.container_link = state.name

    def _ReadPartitionKeyRanges(self, _link: str) -> AsyncIterator[Item]:
        async def found() -> AsyncIterator[Item]:
            for one in self.state.partitions:
                yield {"id": one.id, "minInclusive": one.low, "maxExclusive": one.high, "parents": one.parents}

        return found()

    async def read_item(self, id: str, _key: str) -> Item:
        return await self._ask("GET", id, lambda: public(self.state.read([id], id)))

    async def create_item(self, item: Item) -> Item:
        return await self._ask("POST", item["id"], lambda: self._write(item, "create", None))

    async def replace_item(self, id: str, item: Item, *, etag: str, match_condition: object) -> Item:
        return await self._ask("PUT", id, lambda: self._write(item, "replace", etag))

    async def delete_item(self, id: str, _key: str, *, etag: str | None = None, match_condition: object = None) -> None:
        await self._ask("DELETE", id, lambda: self.state.delete([id], id, etag))

    async def query_items(
        self, query: str, *, parameters: Sequence[Mapping[str, Any]], response_hook: Any = None
    ) -> AsyncIterator[Item]:
        select = sql.parse(query, {one["name"]: one["value"] for one in parameters})
        items = [item for one in self.state.partitions for item in self.state.all(one)]
        found = await self._ask("QUERY", query, lambda: select.run(items))
        if response_hook is not None:
            response_hook({"date": formatdate(self.state.clock(), usegmt=True)}, None)
        for item in found:
            yield item

    def query_items_change_feed(self, *, max_item_count: int, response_hook: Any, **scope: Any) -> Pages:
        return Pages(self, max_item_count, response_hook, scope)

    async def page(self, headers: Mapping[str, str]) -> feed.Page:
        """One page of the change feed."""
        return await self._ask("FEED", self.state.name, lambda: feed.page(self.state, headers))

    def _write(self, item: Item, how: str, etag: str | None) -> Item:
        return public(self.state.write([item["id"]], json.loads(json.dumps(item)), how=how, match=etag)[0])

    async def _ask(self, method: str, id: str, do: Callable[[], Any]) -> Any:
        await asyncio.sleep(0)
        self._direct.counts[method] += 1
        if status := self._direct.refuse(method, id):
            raise CosmosHttpResponseError(status_code=status, message="as the test wants it")
        try:
            answer = do()
        except Fault as fault:
            kinds = {404: CosmosResourceNotFoundError, 409: CosmosResourceExistsError}
            error = kinds.get(fault.status, CosmosHttpResponseError)(status_code=fault.status, message=str(fault))
            error.sub_status = fault.sub
            raise error from None
        if self._direct.lose(method, id):
            raise CosmosHttpResponseError(status_code=503, message="done, and the answer was lost")
        return answer


class Pages:
    """What `query_items_change_feed` returns."""

    def __init__(self, proxy: Proxy, size: int, hook: Any, scope: Mapping[str, Any]) -> None:
        self._proxy = proxy
        self._size = size
        self._hook = hook
        self._scope = scope

    async def by_page(self) -> AsyncIterator[AsyncIterator[Item]]:
        low, high, headers = self._read()
        one = next(one for one in self._proxy.state.partitions if one.low <= low < one.high)
        headers |= {"x-ms-documentdb-partitionkeyrangeid": one.id, "x-ms-max-item-count": str(self._size)}
        if (low, high) != (one.low, one.high):
            headers |= {
                "x-ms-read-key-type": "EffectivePartitionKeyRange", "x-ms-start-epk": low, "x-ms-end-epk": high,
            }  # fmt: skip
        page = await self._proxy.page(headers)
        date = formatdate(self._proxy.state.clock(), usegmt=True)
        self._hook({**feed.session(page.partition), "etag": page.etag, "date": date}, None)

        async def items() -> AsyncIterator[Item]:
            for item in page.items:
                yield item

        if page.items:
            yield items()

    def _read(self) -> tuple[str, str, dict[str, str]]:
        """The range and the headers that the client makes of a scope."""
        scope = self._scope
        if "continuation" in scope:
            token = json.loads(base64.b64decode(scope["continuation"]))
            [inner] = token["continuation"]["continuation"]
            bounds, mode, headers = inner["range"], token["mode"], {"If-None-Match": inner["token"]}
        else:
            bounds, mode, headers = scope["feed_range"]["Range"], scope["mode"], {}
            match scope["start_time"]:
                case "Now":
                    headers = {"If-None-Match": "*"}
                case datetime() as at:
                    headers = {"If-Modified-Since": formatdate(at.timestamp(), usegmt=True)}
        headers["A-IM"] = "Incremental Feed" if mode == "LatestVersion" else "Full-Fidelity Feed"
        return bounds["min"], bounds["max"], headers


def direct(account: Account, clock: Clock, options: str = "") -> tuple[Cosmos, Direct]:
    """A database over this account without a wire, and what it asks."""
    where = address(f"cosmos://:a2V5@{HOST}/shop?{options}")
    database, asked = Cosmos(where, clock), Direct(account, where)
    database._containers = asked  # type: ignore[assignment]
    return database, asked


def account_of(clock: Clock, partitions: int = 4) -> Account:
    """An account whose time is that of the test."""
    made = Account(partitions)
    made.clock = clock.now  # type: ignore[method-assign]
    made.databases["shop"] = {}
    return made
