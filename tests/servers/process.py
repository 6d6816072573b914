"""A server as a process: as whom it runs, where it listens, and that it does not outlive who started it.

The kernel ends it (`setpriv --pdeathsig`) however pytest ends, killed included. That signal comes when the *thread*
that started the process ends, not when the process does, and a test may well restart a server from
`asyncio.to_thread`: so one thread, which lives until the interpreter ends, starts them all.
"""

from __future__ import annotations

import os
import pwd
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_starter = ThreadPoolExecutor(1, thread_name_prefix="servers")


def account() -> str | None:
    """As whom servers run when we are root, which they refuse to be; None: as whom we are."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def own(folder: Path) -> None:
    """Make the folder, and give it to the account that the servers run as."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = account()
    if name is not None:
        shutil.chown(folder, name, pwd.getpwnam(name).pw_gid)


def command(line: Sequence[str | Path], *, at_our_end: str = "keep") -> list[str]:
    """The same command, run as that account; `at_our_end` is the signal that it gets when we are gone."""
    name, words = account(), [str(word) for word in line]
    if shutil.which("setpriv") is None:
        if name is not None:
            raise RuntimeError("root starts servers as another user, with setpriv (util-linux), which is not here")
        return words
    who = [] if name is None else [f"--reuid={name}", f"--regid={pwd.getpwnam(name).pw_gid}", "--clear-groups"]
    return ["setpriv", *who, "--pdeathsig", at_our_end, "--", *words]


def environment() -> dict[str, str]:
    """Ours, without what would lead a client or a server elsewhere."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def start(line: Sequence[str | Path], log: Path, *, at_our_end: str) -> subprocess.Popen[bytes]:
    """Start it in a session of its own: an interrupt at the terminal is for pytest, which then stops it in order."""

    def launch() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                command(line, at_our_end=at_our_end),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=environment(),
                cwd="/",
                start_new_session=True,
            )

    return _starter.submit(launch).result()


def wait(process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, *, timeout: float = 60) -> None:
    """Until it is ready; if it ends instead or takes too long, what it wrote is the error."""
    end = time.monotonic() + timeout
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            process.wait()
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text(errors='replace')[-4000:]}")
        time.sleep(0.01)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """Below the ports that outgoing connections get: while the server is down, nobody is given its port by chance,
    and a client that tries again cannot come to be connected with itself."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
