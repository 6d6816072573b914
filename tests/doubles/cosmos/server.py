"""The double on the wire: HTTP as azure-cosmos speaks it, and `/_double/…` for tests in other processes."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from tests.doubles.cosmos import feed, sql
from tests.doubles.cosmos.state import Account, Container, Fault, Item, public, rid_of

KEY = base64.b64encode(b"the key of a double of Cosmos DB, which is no secret at all.....").decode()
TYPES = ("dbs", "colls", "docs", "pkranges")


@dataclass(slots=True)
class Rule:
    """What goes wrong with the next `count` requests whose `<METHOD> <path>` contains `match`.

    `applied`: after it took effect (it commits and raises). `status` 0 ends the connection.
    """

    match: str
    status: int
    sub: int = 0
    count: int = 1
    after_ms: int = 0
    applied: bool = False
    delay: float = 0.0


class Server:
    """One account on one port of the loopback. In the loop of whoever starts it."""

    def __init__(self, account: Account, key: str = KEY) -> None:
        self.account = account
        self.key = key
        self.rules: list[Rule] = []
        self.counts: Counter[str] = Counter()
        self.several_writers = False
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
        site = web.TCPSite(self._runner, "127.0.0.1", port)
        await site.start()
        self.port = int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    # --- one request ----------------------------------------------------------------------------------------

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = unquote(request.raw_path.partition("?")[0]).strip("/")
        if path.startswith("_double/"):
            return web.json_response(self.control(path.removeprefix("_double/"), await request.json()))
        name = f"{request.method} {path}"
        self.counts[self._kind(request, path)] += 1
        rule = next((rule for rule in self.rules if rule.count and rule.match in name), None)
        if rule is not None:
            rule.count -= 1
            await asyncio.sleep(rule.delay)
        try:
            self._check(request, path)
            if rule is not None and rule.status and not rule.applied:
                raise Fault(rule.status, "as the test wants it", rule.sub, {"x-ms-retry-after-ms": str(rule.after_ms)})
            answer = await self._answer(request, path)
        except Fault as fault:
            body = {"code": str(fault.status), "message": str(fault)}
            headers = {"x-ms-substatus": str(fault.sub)} | fault.headers
            answer = web.json_response(body, status=fault.status, headers=headers)
        if rule is not None and (rule.applied or not rule.status):
            if rule.status:
                return web.json_response({"code": str(rule.status), "message": "applied"}, status=rule.status)
            assert request.transport is not None
            request.transport.close()
        answer.headers.update({"x-ms-request-charge": "1", "x-ms-activity-id": "0", "date": self._date()})
        return answer

    def _date(self) -> str:
        return formatdate(self.account.clock(), usegmt=True)

    def _kind(self, request: web.Request, path: str) -> str:
        words = path.split("/")
        last = words[-1] if words[-1] in TYPES else words[-2] if len(words) > 1 else "account"
        what = "feed" if "A-IM" in request.headers and last == "docs" else last
        if request.headers.get("x-ms-documentdb-isquery"):
            what = "query"
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

    async def _answer(self, request: web.Request, path: str) -> web.Response:
        words = path.split("/")
        body = await request.json() if request.can_read_body and request.method in ("POST", "PUT") else {}
        match [request.method, *words]:
            case ["GET", ""]:
                return web.json_response(self._account())
            case ["GET", "dbs", database]:
                self.account.containers(database)
                return web.json_response({"id": database, "_rid": rid_of(database), "_self": f"dbs/{database}/"})
            case ["POST", "dbs", database, "colls"]:
                return web.json_response(self._shown(database, self.account.create(database, body)), status=201)
            case ["GET", "dbs", database, "colls", name]:
                return web.json_response(self._shown(database, self.account.container(database, name)))
            case ["GET", "dbs", database, "colls", name, "pkranges"]:
                return self._ranges(self.account.container(database, name), request.headers)
            case [method, "dbs", database, "colls", name, "docs", *rest]:
                return self._documents(self.account.container(database, name), method, "/".join(rest), request, body)
        raise Fault(404, f"the double has nothing at {request.method} {path}")

    def _account(self) -> Item:
        here = [{"name": "Here", "databaseAccountEndpoint": self.endpoint}]
        more = [{"name": "There", "databaseAccountEndpoint": self.endpoint}] if self.several_writers else []
        return {
            "_self": "",
            "id": "double",
            "_rid": "double.documents.azure.com",
            "media": "//media/",
            "addresses": "//addresses/",
            "_dbs": "//dbs/",
            "writableLocations": here + more,
            "readableLocations": here + more,
            "enableMultipleWriteLocations": self.several_writers,
            "userConsistencyPolicy": {"defaultConsistencyLevel": "Session"},
            "systemReplicationPolicy": {"minReplicaSetSize": 3, "maxReplicasetSize": 4},
            "userReplicationPolicy": {"minReplicaSetSize": 3, "maxReplicasetSize": 4},
            "readPolicy": {"primaryReadCoefficient": 1, "secondaryReadCoefficient": 1},
            "queryEngineConfiguration": "{}",
        }

    def _shown(self, database: str, container: Container) -> Item:
        return {
            **container.definition,
            "_rid": container.rid,
            "_self": f"dbs/{rid_of(database)}/colls/{container.rid}/",
            "_etag": '"1"',
            "_ts": 1,
        }

    def _ranges(self, container: Container, headers: Mapping[str, str]) -> web.Response:
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

    def _documents(self, container: Container, method: str, id: str, request: web.Request, body: Item) -> web.Response:
        headers = request.headers
        if method == "GET" and not id:
            return self._feed(container, headers)
        if method == "POST" and headers.get("x-ms-documentdb-isquery"):
            return self._query(container, headers, body)
        if method == "POST" and headers.get("x-ms-cosmos-is-query-plan-request"):
            select = sql.parse(body["query"], _parameters(body))
            return web.json_response(sql.plan(body["query"], select))
        key = json.loads(headers["x-ms-documentdb-partitionkey"])
        match = headers.get("If-Match")
        if method == "DELETE":
            container.delete(key, id, match)
            return web.Response(status=204, headers=self._session(container, key))
        if method == "GET":
            found, status = container.read(key, id), 200
        else:
            upsert = headers.get("x-ms-documentdb-is-upsert", "").lower() == "true"
            how = "replace" if method == "PUT" else "upsert" if upsert else "create"
            found, new = container.write(key, body, how=how, match=match)
            status = 201 if new else 200
        answer = web.json_response(public(found), status=status, headers=self._session(container, key))
        answer.headers["etag"] = found["_etag"]
        return answer

    def _session(self, container: Container, key: list[Any]) -> dict[str, str]:
        return dict(feed.session(container.of(container.epk(key))))

    def _feed(self, container: Container, headers: Mapping[str, str]) -> web.Response:
        page = feed.page(container, headers)
        told = {**feed.session(page.partition), "etag": page.etag}
        if not page.items:
            return web.Response(status=304, headers=told)
        body = {"_rid": container.rid, "Documents": page.items, "_count": len(page.items)}
        return web.json_response(body, headers=told)

    def _query(self, container: Container, headers: Mapping[str, str], body: Item) -> web.Response:
        select = sql.parse(body["query"], _parameters(body))
        key, id = headers.get("x-ms-documentdb-partitionkey"), headers.get("x-ms-documentdb-partitionkeyrangeid")
        if key is not None:
            epk = container.epk(json.loads(key))
            partition = container.of(epk)
            container.expire(partition)
            items = [item for at, item in partition.items.items() if at[0] == epk]
        elif id is not None:
            items = list(container.all(container.partition(id)))
        else:
            if (select.orders or select.top is not None) and len(container.partitions) > 1:
                raise Fault(400, "Cross partition query only supports … see the query plan", 1004)
            items = [item for one in container.partitions for item in container.all(one)]
        found = select.run(items)
        begin = int(headers.get("x-ms-continuation") or 0)
        size = int(headers.get("x-ms-max-item-count") or 100)
        size = 100 if size < 1 else size
        page = found[begin : begin + size]
        more = {"x-ms-continuation": str(begin + size)} if begin + size < len(found) else {}
        return web.json_response({"_rid": container.rid, "Documents": page, "_count": len(page)}, headers=more)

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


def _parameters(body: Item) -> dict[str, Any]:
    return {one["name"]: one["value"] for one in body.get("parameters") or ()}
