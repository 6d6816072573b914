"""Each wrong request gets its problem, and no 500."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from tests.bad_inputs.requests import REQUESTS, Request
from tidemill import App
from tidemill.testing.harness import Harness
from tidemill.web import documents


class Order(BaseModel):
    number: str
    total: int


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = App("shop")
    orders = app.collection("orders", Order, id="number", fields=("total",))
    api = FastAPI()
    api.include_router(documents(orders, allow={"create", "replace", "patch"}))
    async with Harness(app), httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://shop") as client:
        await orders.put(Order(number="1", total=1))
        yield client


@pytest.mark.parametrize("row", REQUESTS, ids=[row.what.replace(" ", "-") for row in REQUESTS])
async def test_a_wrong_request_gets_a_problem(row: Request, client: httpx.AsyncClient) -> None:
    answer = await client.request(row.method, row.path, content=row.body, headers=dict(row.headers))
    assert (answer.status_code, answer.headers["content-type"]) == (row.status, "application/problem+json")
    told = answer.json()
    assert told["status"] == row.status
    assert told["detail"].startswith(row.detail), told
