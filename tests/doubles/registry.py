"""A double of a container registry: as much of its API (version 2) as `docker push` and `docker manifest inspect` use.

Not there: authentication, deletion, cross-mounts, ranges, uploads in several pieces that may be resumed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedReader
from threading import Thread
from uuid import uuid4

_PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<rest>[^?]*)(\?(?P<query>.*))?")


@dataclass
class Registry:
    """`manifests` by repository and tag or digest: media type and bytes."""

    port: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytearray] = field(default_factory=dict)
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def serving() -> Iterator[Registry]:
    """One that answers on a free port of this machine."""
    registry = Registry()

    class Handler(_Handler):
        held = registry

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: Registry
    rfile: BufferedReader

    def log_message(self, format: str, *args: object) -> None: ...

    def handle_one_request(self) -> None:
        if self.rfile.peek(1)[:1] == b"\x16":  # a handshake of TLS: clients look for such an answer, and try HTTP then
            self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server.\n")
            self.close_connection = True
            return
        super().handle_one_request()

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self._answer(200)
            return
        found = _PATH.fullmatch(self.path)
        if found and found["kind"] == "blobs" and found["rest"] in self.held.blobs:
            self._answer(200, self.held.blobs[found["rest"]], {"Docker-Content-Digest": found["rest"]})
        elif found and found["kind"] == "manifests" and (found["name"], found["rest"]) in self.held.manifests:
            kind, body = self.held.manifests[found["name"], found["rest"]]
            self._answer(200, body, {"Content-Type": kind, "Docker-Content-Digest": digest(body)})
        else:
            code = "MANIFEST_UNKNOWN" if found and found["kind"] == "manifests" else "BLOB_UNKNOWN"
            self._answer(404, b'{"errors":[{"code":"%s","message":"not known"}]}' % code.encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        found = _PATH.fullmatch(self.path)
        assert found is not None, self.path
        upload = uuid4().hex
        self.held.uploads[upload] = bytearray(self._body())
        self._uploading(found["name"], upload)

    def do_PATCH(self) -> None:
        found = _PATH.fullmatch(self.path)
        assert found is not None, self.path
        upload = found["rest"].rpartition("/")[2]
        self.held.uploads[upload] += self._body()
        self._uploading(found["name"], upload)

    def do_PUT(self) -> None:
        found = _PATH.fullmatch(self.path)
        assert found is not None, self.path
        body = self._body()
        if found["kind"] == "blobs":
            body = bytes(self.held.uploads.pop(found["rest"].rpartition("/")[2])) + body
            self.held.blobs[digest(body)] = body
        else:
            kept = (self.headers["Content-Type"], body)
            self.held.manifests[found["name"], found["rest"]] = kept
            self.held.manifests[found["name"], digest(body)] = kept
        self._answer(201, headers={"Docker-Content-Digest": digest(body), "Location": self.path})

    def _uploading(self, name: str, upload: str) -> None:
        last = max(len(self.held.uploads[upload]) - 1, 0)
        where = {"Location": f"/v2/{name}/blobs/uploads/{upload}", "Range": f"0-{last}", "Docker-Upload-UUID": upload}
        self._answer(202, headers=where)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        self.send_header("Docker-Distribution-Api-Version", "registry/2.0")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
