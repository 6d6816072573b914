"""What goes over the wire, request by request: what it cost, and which answers were lost.

azure-cosmos sends a request again when the connection ends without an answer, writes included (it calls that safe), and
aiohttp does the same below it for PUT and DELETE. A write that took effect the first time then meets itself: 409 or 412
for our own. So each request is counted when its headers go out and when its answer comes: what is left are the tries
that may have taken effect in silence. Who writes asks `watched` for that count before it believes a refusal.

A 429 that asks for a longer wait than this is worth (`LONGEST`) is raised at once: azure-cosmos would wait as long as
it is told, beyond every limit of the engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

from aiohttp import ClientSession, DummyCookieJar, TraceConfig
from aiohttp.tracing import TraceRequestHeadersSentParams
from azure.core.pipeline.transport import AioHttpTransport

LONGEST = 2.0
"""Seconds that a 429 may ask for."""

ACCOUNT = "account"
"""What requests are counted under that concern no container."""


class Throttled(Exception):
    """429 with a wait that is left to the engine. `seconds`: what was asked for."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"throttled for {seconds:g} s")
        self.seconds = seconds


@dataclass(slots=True)
class Sent:
    """`lost`: tries without an answer, or with one that leaves open whether they took effect (408, 5xx)."""

    lost: int = 0


_SENT: ContextVar[Sent | None] = ContextVar("tidemill_cosmos_sent", default=None)


@contextmanager
def watched() -> Iterator[Sent]:
    """Counts the writes that this task sends meanwhile."""
    sent = Sent()
    token = _SENT.set(sent)
    try:
        yield sent
    finally:
        _SENT.reset(token)


class Wire:
    """The transport of one client, and what its answers said. `charged` are request units by container."""

    def __init__(self) -> None:
        self.charged: dict[str, float] = {}

    def transport(self) -> AioHttpTransport:
        """As azure-core makes it, with our eyes on it. Needs a running loop; closed by its client."""
        trace = TraceConfig()
        trace.on_request_headers_sent.append(_headers_sent)
        session = ClientSession(
            trust_env=True, cookie_jar=DummyCookieJar(), auto_decompress=False, trace_configs=[trace]
        )
        return AioHttpTransport(session=session)

    def answered(self, response: Any) -> None:
        """The client's `raw_response_hook`: called for every answer, also those that it tries again after."""
        answer = response.http_response
        headers = answer.headers
        name = _container(response.http_request.url)
        self.charged[name] = self.charged.get(name, 0.0) + float(headers.get("x-ms-request-charge") or 0)
        sent = _SENT.get()
        if sent is not None and response.http_request.method != "GET" and _is_definite(answer.status_code):
            sent.lost -= 1
        if answer.status_code == 429 and name != ACCOUNT:  # the client asks for the account in tasks of its own, too
            seconds = float(headers.get("x-ms-retry-after-ms") or 0) / 1000
            if seconds > LONGEST:
                raise Throttled(seconds)


async def _headers_sent(_: ClientSession, __: SimpleNamespace, told: TraceRequestHeadersSentParams) -> None:
    sent = _SENT.get()
    if sent is not None and told.method != "GET":
        sent.lost += 1


def _is_definite(status: int) -> bool:
    return status < 500 and status != 408


def _container(url: str) -> str:
    """`…/dbs/<database>/colls/<container>/…`."""
    _, _, rest = url.partition("/colls/")
    return unquote(rest.partition("/")[0].partition("?")[0]) or ACCOUNT
