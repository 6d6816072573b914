"""`tidemill health`: ask the probe of a running replica. For `HEALTHCHECK` lines, so it starts in a few milliseconds
and imports neither the app nor the command line's libraries.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

PATHS = {"live": "/livez", "ready": "/readyz", "startup": "/startupz", "health": "/health"}
PORT = 8081

USAGE = """\
Usage: tidemill health [--probe live|ready|startup|health] [--port PORT] [--url URL] [--timeout SECONDS]

Ask a running replica whether it is well; exit code 0 if it is, 1 if it is not or does not answer.
The port is TIDEMILL_HEALTH_PORT (or that of tidemill.toml, else 8081) on this host.

Examples:
  tidemill health
  tidemill health --probe ready --port 8081
  tidemill health --url http://10.0.0.7:8081/readyz
  HEALTHCHECK CMD ["tidemill", "health"]
"""


def main(words: Sequence[str]) -> int:
    """The exit code: 0 well, 1 not, 2 a mistake on the command line."""
    if "--help" in words or "-h" in words:
        sys.stdout.write(USAGE)
        return 0
    try:
        options = _options(words)
        host, port, path = _address(options)
        timeout = float(options.get("--timeout", 3))
    except ValueError as error:
        sys.stderr.write(f"tidemill health: {error} (see tidemill health --help)\n")
        return 2
    try:
        status, body = ask(host, port, path, timeout)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"tidemill health: no answer from {host}:{port}: {error}\n")
        return 1
    sys.stdout.write(body)
    return 0 if status == 200 else 1


def ask(host: str, port: int, path: str, timeout: float) -> tuple[int, str]:
    """Status and body. Raises OSError, or ValueError for what is no HTTP."""
    with socket.create_connection((host, port), timeout) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode("ascii"))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError("it does not speak HTTP")
    return int(words[1]), body.decode("utf-8", "replace")


def _options(words: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        name, given, value = rest.pop(0).partition("=")
        if name not in ("--probe", "--port", "--url", "--timeout"):
            raise ValueError(f"no such option: {name}")
        if not given and not rest:
            raise ValueError(f"{name} needs a value")
        found[name] = value if given else rest.pop(0)
    return found


def _address(options: dict[str, str]) -> tuple[str, int, str]:
    probe = options.get("--probe", "live")
    if probe not in PATHS:
        raise ValueError(f"--probe {probe}: one of {', '.join(PATHS)}")
    if url := options.get("--url"):
        scheme, _, rest = url.partition("://")
        place, slash, path = rest.partition("/")
        host, colon, port = place.rpartition(":")
        if scheme != "http" or not place:
            raise ValueError(f"--url {url}: write http://host:port/path")
        return (host if colon else place).strip("[]"), int(port) if colon else 80, slash + path or PATHS[probe]
    port = options.get("--port") or os.environ.get("TIDEMILL_HEALTH_PORT") or _port_in_file()
    if not port.isdigit():
        raise ValueError(f"port {port}: must be a number")
    return "127.0.0.1", int(port), PATHS[probe]


def _port_in_file(path: Path = Path("tidemill.toml")) -> str:
    if not path.exists():
        return str(PORT)
    import tomllib  # only where there is such a file

    try:
        return str(tomllib.loads(path.read_text("utf-8")).get("health_port", PORT))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError):
        return str(PORT)
