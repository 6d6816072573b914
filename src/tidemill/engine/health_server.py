"""The health server: a third thread that answers from what was published last and waits for nobody.

State: `_snapshot`, one attribute that `publish` swaps and a turn reads once; the connections, which belong to this
thread alone. It takes no lock, calls no user code, does no look-up and writes no log, so nothing that waits elsewhere
can silence a probe; only who holds the GIL can.

Bounds, so that nobody can silence it from outside either: at most 32 connections (the oldest makes room for a new
one), 2 s for each from accept to close, 8 kB of request line, 16 kB of request, one request per connection, GET and
HEAD only.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from tidemill.core.probes import USUAL, Snapshot, Thresholds
from tidemill.engine.health_pages import (
    NOT_A_REQUEST,
    SERVER_FAULT,
    TOO_LONG,
    Metrics,
    Page,
    answer,
    probe_page,
    refuse,
)

MOST_CONNECTIONS = 32
MOST_SECONDS = 2.0
MOST_LINE = 8 * 1024
MOST_REQUEST = 16 * 1024
TURN = 0.5
"""Seconds between two looks of the watchdog and at deadlines."""


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None


class HealthServer:
    """Serves the probes on a bound, listening, non-blocking socket, which it owns from here on.

    `monotonic` is the clock that snapshots are on; `watch` is called at each turn of the thread (the watchdog).
    """

    def __init__(
        self,
        listener: socket.socket,
        snapshot: Snapshot,
        *,
        monotonic: Callable[[], float],
        metrics: Metrics,
        watch: Callable[[Snapshot, float], None] = lambda snapshot, now: None,
        limits: Thresholds = USUAL,
    ) -> None:
        self._listener = listener
        self._snapshot = snapshot
        self._monotonic = monotonic
        self._metrics = metrics
        self._watch = watch
        self._limits = limits
        self._connections: dict[socket.socket, _Connection] = {}
        self._stopping = False
        self._wake, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="tidemill-health", daemon=True)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port it listens on."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def start(self) -> None:
        """Answer from here on."""
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread.start()

    def publish(self, snapshot: Snapshot) -> None:
        """Answer from this one from now on. Any thread; returns at once."""
        self._snapshot = snapshot

    def page(self, path: str) -> Page:
        """The page of a probe as JSON, from what was published last. Any thread; returns at once."""
        return probe_page(path, self._snapshot, self._monotonic(), self._limits, as_json=True)

    def stop(self) -> None:
        """Close everything and end the thread. Idempotent, and legal before `start`."""
        if self._stopping:
            return
        self._stopping = True
        if self._thread.ident is None:
            self._close_all()
            return
        with suppress(OSError):  # the thread may have seen it by itself, and be gone
            self._waker.send(b"x")
        self._thread.join(MOST_SECONDS)

    # --- the thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._selector.close()
            self._close_all()

    def _turn(self) -> None:
        for key, _ in self._selector.select(TURN):
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Connection):
                self._advance(key.data)
        now = self._monotonic()
        for connection in [c for c in self._connections.values() if c.deadline <= now]:
            self._close(connection)
        self._watch(self._snapshot, now)

    def _accept(self) -> None:
        """Take what has come, at most as many as there are places: one turn is bounded."""
        for _ in range(MOST_CONNECTIONS):
            try:
                accepted, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                time.sleep(0.05)  # out of descriptors: whoever knocks stays there, so do not spin
                return
            accepted.setblocking(False)
            if len(self._connections) >= MOST_CONNECTIONS:
                self._close(next(iter(self._connections.values())))
            connection = _Connection(accepted, self._monotonic() + MOST_SECONDS)
            self._connections[accepted] = connection
            self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _advance(self, connection: _Connection) -> None:
        try:
            if connection.answer is None:
                self._read(connection)
            elif connection.answer:
                self._write(connection)
            elif not connection.socket.recv(MOST_REQUEST):
                self._close(connection)  # the other side has read it all and closed
        except BlockingIOError:
            return
        except OSError:
            self._close(connection)

    def _read(self, connection: _Connection) -> None:
        piece = connection.socket.recv(MOST_REQUEST)
        connection.received += piece
        if not piece:
            self._close(connection)
            return
        reply = self._reply(bytes(connection.received))
        if reply is not None:
            connection.answer = memoryview(reply)
            self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
            self._write(connection)

    def _reply(self, received: bytes) -> bytes | None:
        """The whole answer; None while the request is not complete."""
        line = received.find(b"\n")
        if line > MOST_LINE or (line < 0 and len(received) > MOST_LINE):
            return refuse(TOO_LONG)
        if line >= 0 and not received[:line].rstrip(b"\r").endswith((b"HTTP/1.1", b"HTTP/1.0")):
            return refuse(NOT_A_REQUEST)
        if b"\r\n\r\n" not in received and b"\n\n" not in received:
            return refuse(TOO_LONG) if len(received) > MOST_REQUEST else None
        try:
            return answer(received, self._snapshot, self._monotonic(), self._limits, self._metrics)
        except Exception:  # whatever it is, the thread that answers for the process must not end by it
            return refuse(SERVER_FAULT)

    def _write(self, connection: _Connection) -> None:
        assert connection.answer is not None
        sent = connection.socket.send(connection.answer)
        connection.answer = connection.answer[sent:]
        if not connection.answer:
            # Closing with unread bytes of a refused request would reset the connection and lose the answer.
            connection.socket.shutdown(socket.SHUT_WR)
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _close(self, connection: _Connection) -> None:
        del self._connections[connection.socket]
        self._selector.unregister(connection.socket)
        connection.socket.close()

    def _close_all(self) -> None:
        for held in (self._listener, self._wake, self._waker, *self._connections):
            held.close()
