"""The health page on the web API's own port, and the port itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
from fastapi import FastAPI
from starlette.routing import Route

from tidemill.engine.health_pages import Page
from tidemill.web import health
from tidemill.web.health_page import Probe, publishing

APP = """
from fastapi import FastAPI
from starlette.routing import Route
from tidemill import App
from tidemill.web import documents, health

api = FastAPI()
app = App("one-port", api=api)
notes = app.collection("notes", dict, id="id")
api.include_router(documents(notes, allow={"create"}))
api.routes.append(Route("/health", health()))
"""


def asked(probe: Probe = "health") -> httpx.AsyncClient:
    api = FastAPI()
    api.routes.append(Route("/health", health(probe)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://shop")


async def test_it_answers_with_what_was_published() -> None:
    with publishing(lambda path: Page("200 OK", "application/json", f'{{"path": "{path}"}}')):
        async with asked("readyz") as web:
            found = await web.get("/health")
            assert (found.status_code, found.json()) == (200, {"path": "/readyz"})
            assert found.headers["cache-control"] == "no-store"
            head = await web.head("/health")
            assert (head.status_code, head.content) == (200, b"")
            refused = await web.post("/health")
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


async def test_without_a_worker_it_is_unhealthy_and_says_why() -> None:
    async with asked() as web:
        found = await web.get("/health")
    assert found.status_code == 503
    assert found.json()["status"] == "Unhealthy"
    assert "no worker runs" in found.json()["entries"]["worker"]["description"]


def test_a_replica_serves_documents_and_health_on_the_port_of_the_platform(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    port = free_port()
    environ = os.environ | {"PORT": str(port), "TIDEMILL_HEALTH_PORT": "0", "TIDEMILL_API_HOST": "127.0.0.1"}
    command = [sys.executable, "-m", "tidemill", "run", "app:app", "--database", f"sqlite:///{tmp_path / 'one.db'}"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=tmp_path, env=environ, stdout=log, stderr=log)
    try:
        until = time.monotonic() + 60
        while (answer := status(f"http://127.0.0.1:{port}/health")) != 200:
            assert time.monotonic() < until, f"{answer} {(tmp_path / 'log').read_text()}"
            time.sleep(0.05)
        assert httpx.get(f"http://127.0.0.1:{port}/health").json()["status"] == "Healthy"
        assert httpx.post(f"http://127.0.0.1:{port}/notes", json={"id": "1"}).status_code == 201
        assert httpx.get(f"http://127.0.0.1:{port}/notes/1").json() == {"id": "1"}
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def status(address: str) -> int:
    """The status, 0 while nobody listens."""
    try:
        return httpx.get(address, timeout=5).status_code
    except httpx.TransportError:
        return 0
