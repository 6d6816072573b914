"""The app that the tests of the web API serve, and ways to call it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.routing import Route

from tidemill import App
from tidemill.app.handles import Collection
from tidemill.engine.bind import bind
from tidemill.web import documents, health
from tidemill.web.serve import Web

ALL = ("create", "replace", "patch", "delete")


class Line(BaseModel):
    model_config = ConfigDict(strict=True)

    article: str
    count: int = Field(ge=1, le=1_000_000)


class Order(BaseModel):
    """Strict, as its JSON schema is: pydantic reads `true` as a number otherwise."""

    model_config = ConfigDict(strict=True)

    number: str = Field(min_length=1)
    customer: str
    total: int = Field(ge=0, le=2**53)
    paid: bool = False
    weight: float | None = None
    day: date = date(2011, 12, 9)
    lines: list[Line] = []

    @field_validator("customer")
    @classmethod
    def known(cls, customer: str) -> str:
        """A check with a fault of its own, as users write them."""
        if customer == "fault":
            raise KeyError(customer)
        return customer


@dataclass
class Shop:
    app: App
    orders: Collection[Order]


def shop() -> Shop:
    app = App("shop")
    fields = ("total", "paid", "weight", "day")
    return Shop(app, app.collection("orders", Order, id="number", key="customer", fields=fields))


def api_of(made: Shop, **options: Any) -> FastAPI:
    api = FastAPI(title="shop")
    api.include_router(documents(made.orders, **{"allow": set(ALL), **options}))
    api.routes.append(Route("/health", health()))
    return api


@asynccontextmanager
async def calling(made: Shop, api: FastAPI, database: str = "memory:") -> AsyncIterator[httpx.AsyncClient]:
    """A client that calls the API on this loop."""
    transport = httpx.ASGITransport(api)
    async with (
        made.app.client(database=database),
        httpx.AsyncClient(transport=transport, base_url="http://shop") as web,
    ):
        yield web


@contextmanager
def serving(made: Shop, api: FastAPI, database: str) -> Iterator[str]:
    """The API under uvicorn on a loop of its own; its address."""
    listener = bind("127.0.0.1", 0)
    web = Web(api, listener)
    port = listener.getsockname()[1]

    async def serve() -> None:
        async with made.app.client(database=database):
            await web.serve()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        web.stop()
        thread.join(20)
        assert not thread.is_alive()


def order(number: str = "1", **fields: Any) -> dict[str, Any]:
    return {"number": number, "customer": "17850", "total": 5} | fields
