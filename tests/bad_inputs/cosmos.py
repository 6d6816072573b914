"""What may be wrong with an account of Cosmos DB, a URL of one and what is in it; on the double, which runs beside.

`{account}` is a URL of its database `shop`, `{other}` the same with another key, `{port}` where it listens.
"""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from tests.bad_inputs.table import Before, Row, app
from tests.doubles.cosmos.server import Rule, Server
from tests.doubles.cosmos.state import Account, Item
from tests.servers.cosmos import url_of

OTHER_KEY = quote(base64.b64encode(b"a key of another account").decode(), safe="")
SHOP = app(
    "orders = app.collection('orders', dict, id='number', key='customer')",
    "@app.on_change(orders)",
    "async def bill(c: Change[dict]): ...",
)
BILLS = app(
    "bills = app.table('bills', dict, id='id', key='user')",
    "@app.on_change(bills)",
    "async def print_(c: Change[dict]): ...",
)
EXPIRED = "AADSTS: Lifetime validation failed, the token is expired."

Prepare = Callable[[Server], object]


def writing(document: str) -> Mapping[str, str]:
    """An app that writes this document when it starts."""
    return {
        "app.py": "\n".join(
            [
                "from contextlib import asynccontextmanager",
                "from tidemill import *",
                "@asynccontextmanager",
                "async def life():",
                f"    await orders.put({document})",
                "    yield",
                "app = App('shop', lifespan=life)",
                "orders = app.collection('orders', dict, id='number')",
                "@app.on_change(orders)",
                "async def bill(c: Change[dict]): ...",
                "",
            ]
        )
    }


def account(prepare: Prepare = lambda server: None, *, database: str = "shop") -> Before:
    """The double in a thread, as `prepare` leaves it."""

    @contextmanager
    def before(folder: Path) -> Iterator[Mapping[str, object]]:
        made = Account()
        made.databases[database] = {}
        server = Server(made)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
        try:
            prepare(server)
            here = f"127.0.0.1:{server.port}/shop?tls=no"
            yield {"account": url_of(server), "other": f"cosmos://:{OTHER_KEY}@{here}", "port": server.port}
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()

    return before


def container(name: str, *paths: str) -> Prepare:
    """With a container of this partition key."""
    kind = "Hash" if len(paths) == 1 else "MultiHash"
    body: Item = {"id": name, "partitionKey": {"paths": list(paths), "kind": kind, "version": 2}}
    return lambda server: server.account.create("shop", body)


def answering(match: str, status: int, sub: int = 0, *, message: str = "", after_ms: int = 0) -> Prepare:
    """Which answers some requests like this, for ever."""
    return lambda server: server.rules.append(Rule(match, status, sub, 1_000_000, after_ms, message=message))


def several_writers(server: Server) -> None:
    server.several_writers = True


RUN = "run --database {account}"

COSMOS = (
    Row("a key of another account", "run --database {other}",
        "cosmos 127.0.0.1/shop: the account refuses this key; copy it again, or look at the clock of this machine",
        files=SHOP, before=account()),
    Row("a token that has expired", RUN,
        "cosmos 127.0.0.1/shop: the account says that the token has expired; look at the clock of this machine, and",
        files=SHOP, before=account(answering("GET ", 401, message=EXPIRED))),
    Row("an identity without the role", RUN,
        "cosmos 127.0.0.1/shop: the account forbids this (403: ",
        files=SHOP, before=account(answering("GET dbs/", 403, 5300, message="Request blocked by Auth"))),
    Row("a database that is not there", RUN,
        "cosmos 127.0.0.1/shop: there is no database 'shop', or no container for it; create it: az cosmosdb sql",
        files=SHOP, before=account(database="shops")),
    Row("a container that is not there and may not be made", f"{RUN}&create=no",
        "cosmos 127.0.0.1/shop: there is no container 'tidemill'; create it with the partition key /id, or leave",
        files=SHOP, before=account()),
    Row("a store's container with another partition key", f"{RUN}&store=bills",
        "cosmos 127.0.0.1/shop: store=bills: its partition key is /user, and must be /id; name another container",
        files=SHOP, before=account(container("bills", "/user"))),
    Row("a table whose key is not the partition key", RUN,
        "table 'bills': key='user': the partition key of container 'bills' is tenant, user, and order is kept by that;",
        files=BILLS, before=account(container("bills", "/tenant", "/user"))),
    Row("an account that takes writes in several regions", RUN,
        "cosmos 127.0.0.1/shop: the account takes writes in several regions, where two replicas could both win a lease",
        files=SHOP, before=account(several_writers)),
    Row("throughput that is used up at the start", RUN,
        "cosmos 127.0.0.1/shop: the throughput is used up (429); raise the RU/s of the container, or lower the load",
        code=1, files=SHOP, before=account(answering("dbs/", 429, 3200, after_ms=10))),
    Row("throughput that is used up for long", RUN,
        "cosmos 127.0.0.1/shop: the throughput is used up (429); raise the RU/s of the container, or lower the load",
        code=1, files=SHOP, before=account(answering("dbs/", 429, 3200, after_ms=60_000))),
    Row("nobody at the account's address", "run --database cosmos://:a2V5a2V5@127.0.0.1:1/shop?tls=no",
        "cosmos 127.0.0.1/shop: Cannot connect to host 127.0.0.1:1", code=1, files=SHOP),
    Row("a queue in Cosmos DB", RUN, "cosmos 127.0.0.1/shop: Cosmos DB has no queues: set another URL for invoices",
        before=account()),
    Row("all versions from the beginning", f"{RUN}&mode=all", "worker 'bill': start='beginning': with this URL",
        files=app("orders = app.collection('orders', dict, id='number')",
                  "@app.on_change(orders, start='beginning')", "async def bill(c: Change[dict]): ..."),
        before=account()),
    Row("a document that is too large", RUN, "the lifespan failed: TooLarge: document 'a': 2,100,0",
        code=1, files=writing("{'number': 'a', 'x': 'x' * 2_100_000}"), before=account()),
    Row("an id that Cosmos DB cannot take", RUN,
        "the lifespan failed: Unfit: document '2026/1': Cosmos DB takes no id that contains '/'; choose another id",
        code=1, files=writing("{'number': '2026/1'}"), before=account()),
)  # fmt: skip
