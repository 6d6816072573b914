"""The health server as clients see it: good ones, slow ones and rude ones; and who has a port."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.core.health import Check, Health
from tidemill.core.probes import USUAL, Snapshot
from tidemill.engine import health_server
from tidemill.engine.bind import bind, taken_by
from tidemill.engine.health_pages import answer
from tidemill.engine.health_server import HealthServer
from tidemill.errors import ConfigurationError

UP = Snapshot(at=100.0, started=True, handlers=100.0)


class Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def server(time: Time) -> Iterator[HealthServer]:
    server = HealthServer(bind("127.0.0.1", 0), UP, monotonic=time.monotonic, metrics=lambda s, now: f"up {now}\n")
    server.start()
    yield server
    server.stop()


def connect(server: HealthServer) -> socket.socket:
    return socket.create_connection(server.address, timeout=10)


def ask(server: HealthServer, request: bytes) -> tuple[int, str, str]:
    """Status, head and body of the answer."""
    with connect(server) as client:
        client.sendall(request)
        return read(client)


def read(client: socket.socket) -> tuple[int, str, str]:
    received = b""
    while piece := client.recv(65536):
        received += piece
    head, _, body = received.decode().partition("\r\n\r\n")
    return int(head.split()[1]), head, body


def get(server: HealthServer, path: str, *headers: str, method: str = "GET") -> tuple[int, str, str]:
    lines = [f"{method} {path} HTTP/1.1", "Host: here", *headers, "", ""]
    return ask(server, "\r\n".join(lines).encode())


# --- pages --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/startupz"])
def test_a_probe_says_ok(server: HealthServer, path: str) -> None:
    status, head, body = get(server, path)
    assert (status, body) == (200, "ok\n")
    assert "Connection: close" in head
    assert "Cache-Control: no-store" in head


def test_failing_checks_are_named_one_a_line(server: HealthServer) -> None:
    server.publish(replace(UP, draining=True, rules=(Check("rates", Health.unhealthy("3 h old")),)))
    status, _, body = get(server, "/readyz")
    assert (status, body) == (503, "draining: draining\nrates: 3 h old\n")
    assert get(server, "/livez")[0] == 200


def test_verbose_lists_every_check(server: HealthServer) -> None:
    _, _, body = get(server, "/readyz?verbose")
    assert body.splitlines() == [
        "healthy started",
        "healthy draining",
        "healthy engine",
        "healthy handlers",
        "healthy",
    ]


def test_degraded_is_200(server: HealthServer) -> None:
    server.publish(replace(UP, rules=(Check("rates", Health.degraded("old")),)))
    assert get(server, "/readyz")[0] == 200
    assert json.loads(get(server, "/health")[2])["status"] == "Degraded"


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_health_has_the_shape_of_dotnet(server: HealthServer, path: str) -> None:
    server.publish(replace(UP, rules=(Check("rates", Health.unhealthy("3 h old"), seconds=1.2345678),)))
    status, head, body = get(server, path)
    report = json.loads(body)
    assert status == 503
    assert "Content-Type: application/json" in head
    assert set(report) == {"status", "totalDuration", "entries"}
    assert report["status"] == "Unhealthy"
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{7}", report["totalDuration"])
    assert report["entries"]["rates"] == {
        "status": "Unhealthy",
        "description": "3 h old",
        "duration": "00:00:01.2345678",
        "tags": ["ready"],
    }
    assert report["entries"]["engine"]["status"] == "Healthy"


def test_a_probe_answers_json_when_asked(server: HealthServer) -> None:
    body = get(server, "/livez", "Accept: text/html, application/json")[2]
    assert set(json.loads(body)["entries"]) == {"engine", "handlers"}


def test_metrics(server: HealthServer) -> None:
    status, head, body = get(server, "/metrics")
    assert (status, body) == (200, "up 100.0\n")
    assert "text/plain; version=0.0.4" in head


def test_the_answer_follows_the_clock_without_anybody_publishing(server: HealthServer, time: Time) -> None:
    time.now = 110.0
    assert get(server, "/livez")[2] == "engine: no tick for 10 s\n"


def test_head_has_no_body(server: HealthServer) -> None:
    status, head, body = get(server, "/livez", method="HEAD")
    assert (status, body) == (200, "")
    assert "Content-Length: 3" in head


# --- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_refused(server: HealthServer, method: str) -> None:
    status, head, _ = get(server, "/livez", "Content-Length: 4", method=method)
    assert status == 405
    assert "Allow: GET, HEAD" in head


def test_an_unknown_path(server: HealthServer) -> None:
    assert get(server, "/")[0] == 404


@pytest.mark.parametrize("request_", [b"hello\r\n\r\n", b"GET /livez\r\n\r\n", b"GET livez HTTP/1.1\r\n\r\n", b"\r\n"])
def test_what_is_no_request(server: HealthServer, request_: bytes) -> None:
    assert ask(server, request_)[0] == 400


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /" + b"a" * 9000,
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nX: " + b"a" * 20000,
    ],
)
def test_what_is_too_long(server: HealthServer, request_: bytes) -> None:
    assert ask(server, request_)[0] == 414


def test_a_refused_body_does_not_reset_the_answer(server: HealthServer) -> None:
    with connect(server) as client:
        client.sendall(b"POST /livez HTTP/1.1\r\nContent-Length: 9000\r\n\r\n")
        client.sendall(b"x" * 9000)
        assert read(client)[0] == 405


def test_a_fault_of_ours_is_a_500_and_the_thread_lives() -> None:
    def broken(snapshot: Snapshot, now: float) -> str:
        raise ValueError

    server = HealthServer(bind("127.0.0.1", 0), UP, monotonic=lambda: 100.0, metrics=broken)
    server.start()
    assert get(server, "/metrics")[0] == 500
    assert get(server, "/livez")[0] == 200
    server.stop()


@given(
    method=st.sampled_from([b"GET", b"HEAD", b"POST", b""]),
    target=st.one_of(st.binary(max_size=40), st.sampled_from([b"/livez", b"/health", b"//[", b"/readyz?verbose=1"])),
    headers=st.binary(max_size=60),
)
def test_no_request_is_a_fault_of_ours(method: bytes, target: bytes, headers: bytes) -> None:
    request = method + b" " + target + b" HTTP/1.1\r\n" + headers + b"\r\n\r\n"
    said = answer(request, UP, 100.0, USUAL, lambda snapshot, now: "")
    assert said.split()[1] in (b"200", b"400", b"404", b"405")


# --- bounds -------------------------------------------------------------------------------------------------


def test_a_request_in_pieces_is_answered(server: HealthServer) -> None:
    with connect(server) as client:
        for piece in (b"GET /li", b"vez HTTP/1.1\r\n", b"Host: x\r\n", b"\r\n"):
            client.sendall(piece)
        assert read(client)[0] == 200


def test_a_slow_client_is_cut_off(server: HealthServer, time: Time) -> None:
    with connect(server) as client:
        client.sendall(b"GET /livez HT")
        get(server, "/livez")  # who came later was answered, so this one was accepted
        time.now += health_server.MOST_SECONDS
        assert client.recv(100) == b""


def test_a_crowd_that_says_nothing_does_not_keep_a_probe_out(server: HealthServer) -> None:
    with ExitStack() as crowd:
        silent = [crowd.enter_context(connect(server)) for _ in range(health_server.MOST_CONNECTIONS + 8)]
        assert get(server, "/livez")[0] == 200
        assert silent[0].recv(100) == b""


def test_an_answer_larger_than_the_buffers_arrives_whole() -> None:
    text = "x" * 5_000_000
    server = HealthServer(bind("127.0.0.1", 0), UP, monotonic=lambda: 100.0, metrics=lambda s, now: text)
    server.start()
    assert get(server, "/metrics")[2] == text
    server.stop()


def test_the_watchdog_is_called_at_each_turn(time: Time) -> None:
    looks: list[tuple[Snapshot, float]] = []
    server = HealthServer(
        bind("127.0.0.1", 0), UP, monotonic=time.monotonic, metrics=lambda s, now: "",
        watch=lambda snapshot, now: looks.append((snapshot, now)),
    )  # fmt: skip
    server.start()
    get(server, "/livez")
    get(server, "/livez")
    server.stop()
    assert looks[0] == (UP, 100.0)


def test_stop_closes_and_may_be_called_at_any_time() -> None:
    server = HealthServer(bind("127.0.0.1", 0), UP, monotonic=lambda: 100.0, metrics=lambda s, now: "")
    address = server.address
    server.stop()
    server.stop()
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=10)


def test_stop_ends_a_running_server(server: HealthServer) -> None:
    address = server.address
    server.stop()
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=10)


# --- ports --------------------------------------------------------------------------------------------------


def test_a_taken_port_is_told_with_its_owner() -> None:
    with bind("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError) as raised:
            bind("127.0.0.1", port)
    owner = Path("/proc/self/comm").read_text().strip()
    assert str(raised.value).startswith(f"port {port} is taken by {owner} (pid {os.getpid()}): ")


def test_an_owner_that_cannot_be_seen_is_another_process(tmp_path: Path) -> None:
    assert taken_by(8081, tmp_path) == "another process"


def test_a_host_that_is_none() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot be resolved|cannot be bound"):
        bind("no such host", 0)
