"""Receivers of webhooks: real HTTP servers that answer as they are told."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


@dataclass
class Got:
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """What came, and what is answered: a number, or a function of the request's count."""

    answer: Callable[[int], Response]
    url: str = ""
    got: list[Got] = field(default_factory=list)
    delay: float = 0.0


@asynccontextmanager
async def receiving(answer: Callable[[int], Response] | int = 204) -> AsyncIterator[Receiver]:
    chosen = answer if callable(answer) else lambda _: Response(status_code=answer)
    receiver = Receiver(chosen)

    async def hook(request: Request) -> Response:
        receiver.got.append(Got(dict(request.headers), await request.body()))
        await asyncio.sleep(receiver.delay)
        return receiver.answer(len(receiver.got))

    app = Starlette(routes=[Route("/hook", hook, methods=["POST"])])
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0)
    receiver.url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
    try:
        yield receiver
    finally:
        server.should_exit = server.force_exit = True
        await serving
