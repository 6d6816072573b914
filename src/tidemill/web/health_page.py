"""The health page on the web API's own port, for platforms that give a process one port.

It is answered on the handlers' loop, from what the engine published last: where that loop is stuck, there is no answer,
which such a platform takes for ill, too. The page is found through a ContextVar that is set around the server, as the
running client is for handles.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TypeAlias

from tidemill.engine.health_pages import Page

Pages: TypeAlias = Callable[[str], Page]
"""The page of `/health`, `/livez`, `/readyz`, `/startupz`."""

Probe: TypeAlias = Literal["health", "livez", "readyz", "startupz"]

_Scope: TypeAlias = MutableMapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[_Scope]]
_Send: TypeAlias = Callable[[_Scope], Awaitable[None]]

_pages: ContextVar[Pages | None] = ContextVar("tidemill_health_pages", default=None)

_ALONE = "no worker runs in this process; start it with `tidemill run` or `tidemill dev`"


@contextmanager
def publishing(pages: Pages | None) -> Iterator[None]:
    """Health pages answer with these, in this context and in what is started from it."""
    token = _pages.set(pages)
    try:
        yield
    finally:
        _pages.reset(token)


def health(probe: Probe = "health") -> HealthPage:
    """An ASGI app that answers GET and HEAD with a probe, in the shape of .NET's `HealthReport`.

    `api.routes.append(Route("/health", health()))`, with Starlette's `Route`; `api.mount("/health", health())` would
    answer at `/health/` only, and redirect there.
    """
    return HealthPage(probe)


class HealthPage:
    """One probe over ASGI."""

    def __init__(self, probe: Probe) -> None:
        self._path = f"/{probe}"

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return
        page = self._page() if scope["method"] in ("GET", "HEAD") else _refused()
        body = page.text.encode()
        headers = [
            (b"content-type", page.kind.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if page.status.startswith("405"):
            headers.append((b"allow", b"GET, HEAD"))
        await send({"type": "http.response.start", "status": int(page.status[:3]), "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    def _page(self) -> Page:
        pages = _pages.get()
        return _alone() if pages is None else pages(self._path)


def _alone() -> Page:
    """Nobody publishes: the API runs without its worker."""
    check = {"status": "Unhealthy", "description": _ALONE, "duration": "00:00:00.0000000", "tags": []}
    report = {"status": "Unhealthy", "totalDuration": "00:00:00.0000000", "entries": {"worker": check}}
    return Page("503 Service Unavailable", "application/json", json.dumps(report) + "\n")


def _refused() -> Page:
    return Page("405 Method Not Allowed", "text/plain; charset=utf-8", "method not allowed\n")
