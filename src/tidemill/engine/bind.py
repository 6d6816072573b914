"""Listening sockets, bound by us before anything starts, so that a taken port is one clear line."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

from tidemill.errors import ConfigurationError

_LISTENS = "0A"


def bind(host: str, port: int, *, backlog: int = 128) -> socket.socket:
    """A listening, non-blocking TCP socket (port 0: any free one).

    Raises `ConfigurationError`, naming who has the port if that can be seen.
    """
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigurationError(f"host {host!r} cannot be resolved ({error})") from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise ConfigurationError(_explain(error, host, port)) from None
    listener.setblocking(False)
    return listener


def _explain(error: OSError, host: str, port: int) -> str:
    if isinstance(error, PermissionError):
        return f"port {port} on {host} is not allowed for this user (below 1024, or forbidden): choose another"
    if error.errno == 98 or "in use" in str(error):
        return f"port {port} is taken by {taken_by(port)}: stop it or choose another port"
    return f"{host}:{port} cannot be bound ({error.strerror or error})"


def taken_by(port: int, proc: Path = Path("/proc")) -> str:
    """Who listens on a TCP port, as `name (pid 42)`, as far as this user may see; else "another process"."""
    try:
        inodes = set(_listening(port, proc))
        for pid in filter(str.isdigit, os.listdir(proc)):
            if inodes & set(_sockets(proc / pid / "fd")):
                return f"{(proc / pid / 'comm').read_text().strip()} (pid {pid})"
    except OSError:
        pass  # no /proc here, or the process has just ended
    return "another process"


def _listening(port: int, proc: Path) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        path = proc / "net" / table
        for line in path.read_text().splitlines()[1:] if path.exists() else ():
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                yield f"socket:[{fields[9]}]"


def _sockets(folder: Path) -> Iterator[str]:
    try:
        for name in os.listdir(folder):
            yield os.readlink(folder / name)
    except OSError:
        return  # somebody else's process, or a file that was closed meanwhile
