"""How the web API treats connections: kept for longer than proxies keep theirs, and given up before a stop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI

from tidemill.web.serve import KEEP_ALIVE, Web


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Web, str]]:
    api = FastAPI()

    @api.get("/")
    async def hello() -> str:
        return "hello"

    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    web = Web(api, listener)
    serving = asyncio.create_task(web.serve())
    while not web.ready:
        await asyncio.sleep(0)
    try:
        yield web, f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        web.stop()
        await serving


async def test_a_connection_is_kept_until_it_is_time_to_go() -> None:
    async with served() as (web, url), httpx.AsyncClient() as client:
        first, second = await client.get(url), await client.get(url)
        assert "connection" not in first.headers
        assert first.extensions["network_stream"].get_extra_info("client_addr") == second.extensions[
            "network_stream"
        ].get_extra_info("client_addr")
        web.leave()
        last = await client.get(url)
        assert (last.json(), last.headers["connection"]) == ("hello", "close")
        assert (await client.get(url)).status_code == 200, "who has not gone is answered all the same"


def test_idle_connections_outlive_those_of_proxies() -> None:
    assert KEEP_ALIVE > 60
