"""The user's ASGI app under uvicorn, on the handlers' loop.

The socket is bound by us before anything starts, so that a taken port is one clear line and exit code 2. uvicorn is
stopped by its own flag: it stops accepting, lets requests in flight end, then returns. Only this module imports it.
"""

from __future__ import annotations

import importlib
import logging
import socket
from typing import Any

from tidemill.errors import ConfigurationError
from tidemill.web.health_page import Pages, publishing

KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than load balancers and ingresses keep theirs (60 s mostly),
because whoever closes first must be the one who sends; else a request now and then meets a connection that just ended.
"""


class Web:
    """One server. `serve()` runs until `stop()`; `hurry()` cuts off what is still in flight. `pages` is what
    `tidemill.web.health()` answers with."""

    def __init__(self, api: Any, listener: socket.socket, pages: Pages | None = None) -> None:
        try:
            import uvicorn
        except ImportError:
            raise ConfigurationError("App(api=…) needs uvicorn: install tidemill[api]") from None
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._leaving = Leaving(load(api))
        config = uvicorn.Config(
            self._leaving, log_config=None, access_log=False, lifespan="auto", ws="none", interface="asgi3",
            timeout_keep_alive=KEEP_ALIVE,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._listener = listener
        self._pages = pages
        self.ended: bool = False

    @property
    def ready(self) -> bool:
        """It accepts requests."""
        return bool(self._server.started)

    async def serve(self) -> None:
        """Accept and answer until `stop()`."""
        try:
            with publishing(self._pages):
                await self._server.serve(sockets=[self._listener])
            if not self._server.should_exit:
                raise ConfigurationError("the web API did not start (its lifespan failed, see above)")
        finally:
            self.ended = True

    def leave(self) -> None:
        """Answer all as before, and have clients go elsewhere with their next request. From any thread."""
        self._leaving.now = True

    def stop(self) -> None:
        """Accept nothing more. From any thread."""
        self._server.should_exit = True

    def hurry(self) -> None:
        """Wait for nobody any more. From any thread."""
        self._server.force_exit = True


class Leaving:
    """An ASGI app around another. Once it is time to go, each answer ends its connection: who has a connection open
    stays with this process otherwise, until it closes it under the next request."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.now: bool = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.now or scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def last(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [pair for pair in message.get("headers", ()) if pair[0].lower() != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            await send(message)

        await self._app(scope, receive, last)


def load(api: Any) -> Any:
    """The ASGI app of `App(api=…)`: itself, or what "module:attribute" names."""
    if not isinstance(api, str):
        return api
    module, _, attribute = api.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
            raise ConfigurationError(f"api={api!r}: there is no module {module!r} (from here)") from None
        raise
    for name in (attribute or "api").split("."):
        if not hasattr(found, name):
            raise ConfigurationError(f"api={api!r}: module {module!r} has no {attribute or 'api'!r}")
        found = getattr(found, name)
    return found
