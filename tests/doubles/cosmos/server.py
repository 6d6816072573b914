"""The double on the wire: HTTP as azure-cosmos speaks it, and `/_double/…` for tests in other processes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from tests.doubles.cosmos import operations
from tests.doubles.cosmos.regions import Region, Regions
from tests.doubles.cosmos.state import Account, Container, Fault, Item, rid_of

KEY = base64.b64encode(b"the key of a double of Cosmos DB, which is no secret at all.....").decode()
TYPES = ("dbs", "colls", "docs", "pkranges")
LARGEST = 2 * 1024 * 1024 + 4096
"""Bytes of a request: 2 MB of items, and what stands around them."""


@dataclass(slots=True)
class Rule:
    """What goes wrong with the next `count` requests whose `<METHOD> <path>` contains `match`, or which count as it.

    `applied`: after it took effect (it commits and raises). `status` 0 ends the connection.
    """

    match: str
    status: int
    sub: int = 0
    count: int = 1
    after_ms: int = 0
    applied: bool = False
    delay: float = 0.0
    message: str = "as the test wants it"


class Server:
    """One account on one port of the loopback, and one for each region if there are several. In the loop of whoever
    starts it."""

    def __init__(self, account: Account, key: str = KEY, regions: tuple[str, ...] = ("Here",)) -> None:
        self.account = account
        self.key = key
        self.regions = Regions(account, regions)
        self.rules: list[Rule] = []
        self.counts: Counter[str] = Counter()
        self.several_writers = False
        self.feeds: deque[Mapping[str, str]] = deque(maxlen=100)
        """The headers of the last questions to feeds."""
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.port = int(self._runner.addresses[0][1])
        several = len(self.regions.all) > 1
        for region in self.regions.all:
            if several:
                await web.TCPSite(self._runner, "127.0.0.1", 0).start()
            region.port = int(self._runner.addresses[-1][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- one request ----------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0]).strip("/")
        if path.startswith("_double/"):
            return web.json_response(self.control(path.removeprefix("_double/"), await request.json()))
        kind = self._kind(request, path)
        self.counts[kind] += 1
        region = self._region(request)
        region.counts[kind] += 1
        if kind == "GET feed":
            self.feeds.append(request.headers)
        if region.down:
            return _ended(request)
        name = f"{request.method} {path}"
        rule = next((r for r in self.rules if r.count and (r.match in name or r.match == kind)), None)
        if rule is not None:
            rule.count -= 1
            await asyncio.sleep(rule.delay)
        try:
            self._check(request, path)
            if rule is not None and rule.status and not rule.applied:
                raise Fault(rule.status, rule.message, rule.sub, {"x-ms-retry-after-ms": str(rule.after_ms)})
            if rule is not None and not rule.status and not rule.applied:
                return _ended(request)
            answer = await self._answer(request, path, region)
        except Fault as fault:
            body = {"code": str(fault.status), "message": str(fault)}
            headers = {"x-ms-substatus": str(fault.sub), "x-ms-request-charge": "1"} | fault.headers
            answer = web.json_response(body, status=fault.status, headers=headers)
        if rule is not None and rule.applied:
            if not rule.status:
                return _ended(request)
            answer = web.json_response({"code": str(rule.status), "message": "applied"}, status=rule.status)
        answer.headers.update({"x-ms-activity-id": "0", "date": formatdate(self.account.clock(), usegmt=True)})
        return answer

    def _region(self, request: web.Request) -> Region:
        assert request.transport is not None
        return self.regions.at(request.transport.get_extra_info("sockname")[1])

    def _kind(self, request: web.Request, path: str) -> str:
        words = path.split("/")
        last = words[-1] if words[-1] in TYPES else words[-2] if len(words) > 1 else "account"
        what = "feed" if "A-IM" in request.headers and last == "docs" else last
        if request.headers.get("x-ms-documentdb-isquery"):
            what = "query"
        if request.headers.get("x-ms-cosmos-is-batch-request"):
            what = "batch"
        return f"{request.method} {what}"

    def _check(self, request: web.Request, path: str) -> None:
        """The signature of the account's key over verb, type, link and date."""
        words = path.split("/")
        kind = words[-1] if words[-1] in TYPES else words[-2] if len(words) > 1 else ""
        link = "/".join(words[:-1]) if words[-1] in TYPES else path
        date = request.headers.get("x-ms-date", "").lower()
        text = f"{request.method.lower()}\n{kind}\n{link}\n{date}\n\n"
        digest = hmac.new(base64.b64decode(self.key), text.encode(), hashlib.sha256).digest()
        signed = f"type=master&ver=1.0&sig={base64.b64encode(digest).decode()}"
        if unquote(request.headers.get("authorization", "")) != signed:
            raise Fault(401, "The input authorization token can't serve the request. Please check the key.")

    async def _answer(self, request: web.Request, path: str, region: Region) -> web.Response:
        words = path.split("/")
        if (request.content_length or 0) > LARGEST:
            await request.read()  # else the connection ends before the client has the answer
            raise Fault(413, "Request size is too large")
        body = await request.json() if request.can_read_body and request.method in ("POST", "PUT") else {}
        match [request.method, *words]:
            case ["GET", ""]:
                return web.json_response(self._account())
            case ["GET", "dbs", database]:
                self.account.containers(database)
                return web.json_response({"id": database, "_rid": rid_of(database), "_self": f"dbs/{database}/"})
            case ["POST", "dbs", database, "colls"]:
                self.regions.check(region, write=True)
                return web.json_response(_shown(database, self.account.create(database, body)), status=201)
            case ["GET", "dbs", database, "colls", name]:
                return web.json_response(_shown(database, self.account.container(database, name)))
            case ["GET", "dbs", database, "colls", name, "pkranges"]:
                return _ranges(self.account.container(database, name), request.headers)
            case [method, "dbs", database, "colls", name, "docs", *rest]:
                self.regions.check(region, operations.is_write(method, request.headers))
                container = self.regions.container(region, database, name)
                return _documents(container, f"dbs/{database}/colls/{name}", method, "/".join(rest), request, body)
        raise Fault(404, f"the double has nothing at {request.method} {path}")

    def _account(self) -> Item:
        told = {name: list(found) for name, found in self.regions.shown().items()}
        if self.several_writers:
            more = {"name": "There", "databaseAccountEndpoint": self.endpoint}
            told = {name: [*found, more] for name, found in told.items()}
        return {
            "_self": "",
            "id": "double",
            "_rid": "double.documents.azure.com",
            "media": "//media/",
            "addresses": "//addresses/",
            "_dbs": "//dbs/",
            **told,
            "enableMultipleWriteLocations": self.several_writers,
            "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
            "systemReplicationPolicy": {"minReplicaSetSize": 3, "maxReplicasetSize": 4},
            "userReplicationPolicy": {"minReplicaSetSize": 3, "maxReplicasetSize": 4},
            "readPolicy": {"primaryReadCoefficient": 1, "secondaryReadCoefficient": 1},
            "queryEngineConfiguration": "{}",
        }

    def _region_is(self, name: str, how: str) -> None:
        match how:
            case "down" | "up":
                self.regions.named(name).down = how == "down"
            case "lagging":
                self.regions.lag(name)
            case "caught up":
                self.regions.catch_up(name)
            case "writing":
                self.regions.failover(name)
            case _:
                raise web.HTTPNotFound

    # --- controls -------------------------------------------------------------------------------------------

    def control(self, name: str, said: Mapping[str, Any]) -> Item:
        """What tests in other processes may ask for."""
        match name:
            case "split":
                container = self.account.container(said["database"], said["container"])
                return {"children": container.split(said["id"])}
            case "merge":
                container = self.account.container(said["database"], said["container"])
                return {"child": container.merge(said["a"], said["b"])}
            case "fail":
                self.rules.append(Rule(**said))
            case "several_writers":
                self.several_writers = True
            case "create":
                self.account.create(said["database"], said["body"])
            case "region":
                self._region_is(said["name"], said["is"])
            case "advance":
                self.account.ahead += said["seconds"]
            case "counts":
                return dict(self.counts)
            case "database":
                self.account.databases.setdefault(said["name"], {})
            case "dump":
                container = self.account.container(said["database"], said["container"])
                return {"items": [item for one in container.partitions for item in container.all(one)]}
            case _:
                raise web.HTTPNotFound
        return {}


def _ended(request: web.Request) -> web.Response:
    """The connection ends without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


def _documents(container: Container, path: str, method: str, id: str, request: web.Request, body: Any) -> web.Response:
    found = operations.answer(container, method, id, request.headers, body)
    headers = found.headers | {"x-ms-request-charge": f"{found.charge:g}", "x-ms-alt-content-path": path}
    if found.body is None:
        return web.Response(status=found.status, headers=headers)
    return web.json_response(found.body, status=found.status, headers=headers)


def _shown(database: str, container: Container) -> Item:
    return {
        **container.definition,
        "_rid": container.rid,
        "_self": f"dbs/{rid_of(database)}/colls/{container.rid}/",
        "_etag": '"1"',
        "_ts": 1,
    }


def _ranges(container: Container, headers: Mapping[str, str]) -> web.Response:
    newest = max(int(one.id) for one in container.partitions)
    etag = f'"{newest}"'
    if headers.get("If-None-Match") == etag:
        return web.Response(status=304, headers={"etag": etag})
    found = [
        {
            "id": one.id,
            "minInclusive": one.low,
            "maxExclusive": one.high,
            "parents": one.parents,
            "status": "online",
            "_rid": f"{container.rid}{one.id}",
            "_self": "",
            "_etag": '"0"',
            "_ts": 1,
        }
        for one in container.partitions
    ]
    body = {"_rid": container.rid, "PartitionKeyRanges": found, "_count": len(found)}
    return web.json_response(body, headers={"etag": etag})
