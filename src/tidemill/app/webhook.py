"""Events as HTTP requests to others: CloudEvents in JSON, signed if there is a secret. Only this module imports httpx.

What a receiver answers is a verdict: 2xx is done. 429 and 503 may say when to come again (`Retry-After`). 410 says that
it wants no more: the worker is paused until somebody resumes it. Everything else, a redirect too, is a failure that is
tried again as the worker's `Backoff` says.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from hashlib import sha256
from importlib import import_module
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from tidemill.core.cloudevents import BATCHED, STRUCTURED, Event, batched, structured
from tidemill.core.duration import Duration, seconds
from tidemill.core.scrub import scrub
from tidemill.core.signing import key_of, signature
from tidemill.errors import ConfigurationError, Retry

MOST = 64 * 1024
"""Bytes of an answer that are read; one that is longer costs its connection."""

TOLD = 200
"""Characters of an answer that are told of a failure."""

LONGEST_WAIT = 3600.0
"""Seconds that a receiver may have us wait at most."""

AGAIN = (429, 503)
GONE = 410

_NAMED = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


class Gone(Exception):
    """The receiver wants no more."""


@dataclass(frozen=True)
class Webhook:
    """Where events go. `url`, `secret` and `headers` may name variables, `${NAME}`, for what is secret; `limit` in
    seconds for a whole request."""

    url: str
    secret: tuple[str, ...] = field(default=(), repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    limit: float = 30.0

    def open(self, environment: Mapping[str, str] = os.environ) -> Sender:
        """A sender with what the variables say. Raises `ConfigurationError`, with a line for each mistake."""
        problems: list[str] = []

        def filled(what: str, text: str) -> str:
            problems.extend(
                f"webhook: {what} names ${{{name}}}, which is not set here; set it, or take it out"
                for name in _NAMED.findall(text)
                if not environment.get(name)
            )
            return _NAMED.sub(lambda found: environment.get(found[1], ""), text)

        url = filled("its URL", self.url)
        headers = {name: filled(f"header {name}", value) for name, value in self.headers.items()}
        secrets = [word for text in self.secret for word in filled("its secret", text).split()]
        if not problems and not _is_http(url):
            problems.append(f"webhook {shown(url)}: write https://host/path")
        keys: list[bytes] = []
        for secret in secrets:
            try:
                keys.append(key_of(secret))
            except ValueError as error:
                problems.append(f"webhook {shown(url)}: its secret {error}")
        if problems:
            raise ConfigurationError(*problems)
        return Sender(url, headers, keys, self.limit)


def webhook(
    url: str, *, secret: str | Sequence[str] = (), headers: Mapping[str, str] | None = None, time_limit: Duration = 30.0
) -> Webhook:
    """Where `app.forward(…, to=webhook("https://…"))` sends CloudEvents.

    `secret` signs each request by the Standard Webhooks rules (`whsec_…`; several while keys are changed, the newest
    first); `headers` go with each request, as `{"x-functions-key": "${FUNCTION_KEY}"}`. What is secret is named as a
    variable, `${NAME}`, and read when a worker starts. `time_limit` is for the whole request.
    """
    secrets = (secret,) if isinstance(secret, str) else tuple(secret)
    return Webhook(url, secrets, dict(headers or {}), seconds(time_limit))


class Sender:
    """An open webhook: one pool of connections. `async with`."""

    def __init__(self, url: str, headers: Mapping[str, str], keys: Sequence[bytes], limit: float) -> None:
        try:
            httpx = import_module("httpx")  # by name: who sees declarations only stands on the standard library
        except ImportError:
            raise ConfigurationError("a webhook needs httpx: install tidemill[http]") from None
        self._url, self._headers, self._keys, self._limit = url, headers, keys, limit
        self._failures: tuple[type[Exception], ...] = (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError)
        self._client = httpx.AsyncClient(timeout=limit, follow_redirects=False, trust_env=True)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def send(self, events: Sequence[Event], *, batch: bool) -> None:
        """One request. Raises `Retry` if it was not taken, `Gone` if nothing will be."""
        body = batched(events) if batch else structured(events[0])
        id = events[0].id if not batch else sha256("\n".join(event.id for event in events).encode()).hexdigest()[:32]
        headers = {**self._headers, "content-type": BATCHED if batch else STRUCTURED, **self._signed(id, body)}
        try:
            async with (
                asyncio.timeout(self._limit),
                self._client.stream("POST", self._url, content=body, headers=headers) as reply,
            ):
                text = await _beginning(reply)
        except TimeoutError:
            raise Retry(None, f"POST {shown(self._url)}: no answer within {self._limit:g} s") from None
        except self._failures as error:
            raise Retry(None, f"POST {shown(self._url)}: {type(error).__name__} {scrub(str(error))}".strip()) from None
        _judge(reply.status_code, reply.headers.get("retry-after"), text, shown(self._url))

    def _signed(self, id: str, body: bytes) -> Mapping[str, str]:
        if not self._keys:
            return {}
        now = int(time.time())
        return {
            "webhook-id": id,
            "webhook-timestamp": str(now),
            "webhook-signature": signature(self._keys, id, now, body),
        }


def _judge(code: int, again: str | None, text: str, where: str) -> None:
    if 200 <= code < 300:
        return
    said = scrub(" ".join(text.split())[:TOLD])
    why = f"POST {where}: answers {code}" + (f": {said}" if said else "")
    if code == GONE:
        raise Gone(why)
    if 300 <= code < 400:
        why += " (redirects are not followed: write where it leads)"
    raise Retry(wait_of(again) if code in AGAIN else None, why)


def wait_of(again: str | None, now: float | None = None) -> float | None:
    """`Retry-After` in seconds from now, an hour at most; None where there is none, or none that can be read."""
    if again is None:
        return None
    try:
        wait = float(again)
    except ValueError:
        try:
            wait = parsedate_to_datetime(again).timestamp() - (time.time() if now is None else now)
        except (TypeError, ValueError):
            return None
    return min(max(wait, 0.0), LONGEST_WAIT) if wait == wait else None


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, query and fragment (Logic Apps sign theirs in the query)."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


async def _beginning(reply: Any) -> str:
    """The first bytes of an answer, whatever they are."""
    found = b""
    async for piece in reply.aiter_bytes():
        found += piece
        if len(found) >= MOST:
            break
    return found[:MOST].decode("utf-8", "replace")
