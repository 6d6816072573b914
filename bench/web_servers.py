"""The servers that `bench/web.py` compares, each in a process of its own: `python -m bench.web_servers KIND FILE PORT`.

`commit`: a bare FastAPI `def` route that commits each insert. `group`: a bare async route on the writer with group
commit that the SQLite backend has. `idle`, `busy`: the document router in a whole replica, its workers without or with
work to do.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from tidemill import App, Change
from tidemill.adapters.sqlite import SQLite
from tidemill.engine.clock import SystemClock
from tidemill.run import run
from tidemill.web import documents

TABLE = "CREATE TABLE IF NOT EXISTS orders (number TEXT PRIMARY KEY, customer TEXT NOT NULL, body BLOB NOT NULL)"
INSERT = "INSERT INTO orders VALUES (?, ?, ?)"


class Order(BaseModel):
    number: str
    customer: str
    total: int
    note: str


def commit(file: Path) -> FastAPI:
    """Each insert is a commit of its own, on one connection: quicker than sixteen that wait for the file's lock."""
    connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(TABLE)
    lock = threading.Lock()
    api = FastAPI()

    @api.post("/orders", status_code=201)
    def post_order(order: Order) -> Order:
        with lock:
            connection.execute(INSERT, (order.number, order.customer, order.model_dump_json()))
        return order

    return api


def group(file: Path) -> FastAPI:
    """The backend's own writer: what comes in one turn of the loop is one commit."""
    database = SQLite.from_url(f"sqlite:///{file}", SystemClock())
    session = database._session

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await database.open([], [])
        await session.writer.submit(lambda connection: connection.execute(TABLE))
        yield
        await database.close()

    api = FastAPI(lifespan=lifespan)

    @api.post("/orders", status_code=201)
    async def post_order(order: Order) -> Order:
        row = (order.number, order.customer, order.model_dump_json())

        def insert(connection: sqlite3.Connection) -> None:
            connection.execute(INSERT, row)

        await session.writer.submit(insert)
        return order

    return api


def replica(*, busy: bool) -> App:
    """The documents of a collection. Its workers: a queue that is empty, or a feed and a queue of what is posted."""
    api = FastAPI()
    app = App("bench", api=api)
    orders = app.collection("orders", Order, id="number", key="customer")
    jobs: Any = app.queue("jobs", dict)
    api.include_router(documents(orders, allow={"create"}))

    @app.on_message(jobs, concurrency=10)
    async def work(job: dict[str, Any]) -> None:
        await asyncio.sleep(0)

    if busy:

        @app.on_change(orders, concurrency=16)
        async def follow(change: Change[Order]) -> None:
            await jobs.send({"number": change.document}, dedup=change.id)

    return app


def main() -> int:
    kind, file, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if kind in ("idle", "busy"):
        os.environ["TIDEMILL_HEALTH_PORT"] = "0"
        options: dict[str, Any] = {
            "database": f"sqlite:///{file}",
            "api_port": port,
            "api_host": "127.0.0.1",
            "health_host": "127.0.0.1",
        }
        return run(replica(busy=kind == "busy"), **options)
    api = commit(file) if kind == "commit" else group(file)
    uvicorn.run(api, host="127.0.0.1", port=port, log_config=None, access_log=False, lifespan="auto", ws="none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
