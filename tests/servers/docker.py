"""A Docker daemon of our own, without a bridge or a rule of the firewall, and a Debian with Python as base image.

Its images and the base live in the user's cache (`~/.cache/tidemill/image-tests`), so that they are made once: the
base takes two minutes with debootstrap. It runs only as root; `find()` says what is missing.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers.process import wait

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidemill" / "image-tests"
BASE = "local/python:bookworm"
PACKAGES = "python3,python3-venv,python3-pip,ca-certificates,tini"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Debian's own daemon and client belong together; another client elsewhere may want parts that are not here."""


def find() -> str | None:
    """What is missing, in one line; None: nothing."""
    if os.geteuid() != 0:
        return "a Docker daemon of our own needs root"
    for program, package in (("dockerd", "docker.io"), ("debootstrap", "debootstrap"), ("iptables", "iptables")):
        if shutil.which(program, path=PATH) is None and not (
            program == "debootstrap" and (CACHE / "base.tar").exists()
        ):
            return f"{program} is not here: apt-get install {package}"
    return None


class Absent(Exception):
    """There is no daemon to be had here; why, in one line."""


@dataclass(frozen=True)
class Docker:
    """A daemon that runs; `socket` is where it listens."""

    socket: Path

    @property
    def environment(self) -> dict[str, str]:
        """Ours, with what a client needs to find it."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")}
        return ours | {"DOCKER_HOST": f"unix://{self.socket}", "PATH": f"{PATH}:{os.environ['PATH']}"}

    def run(self, *words: str, limit: float = 120, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`docker` with these words."""
        done = subprocess.run(
            ["/usr/bin/docker", *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
        if check and done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(words)} ended with {done.returncode}: {done.stderr}")
        return done

    def out(self, *words: str, limit: float = 120) -> str:
        return self.run(*words, limit=limit).stdout.strip()


@contextmanager
def running() -> Iterator[Docker]:
    """The daemon, with the base image in it. One at a time: two would spoil each other's images."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock, tempfile.TemporaryDirectory(prefix="tidemill-docker-") as folder:
        fcntl.flock(lock, fcntl.LOCK_EX)
        place = Path(folder)
        docker = Docker(place / "docker.sock")
        daemon = _start(docker, place)
        try:
            try:
                wait(daemon, lambda: docker.run("version", check=False).returncode == 0, place / "log")
            except RuntimeError as error:  # as root without what a daemon needs, in most containers
                raise Absent(f"dockerd does not run here: {str(error).strip().splitlines()[-1]}") from None
            _base(docker)
            yield docker
        finally:
            _tidy(docker)
            daemon.terminate()
            daemon.wait(60)
            for mount in (place / "exec/netns").glob("*"):  # which it leaves behind
                subprocess.run(["umount", str(mount)], check=False, timeout=10)


def _start(docker: Docker, place: Path) -> subprocess.Popen[bytes]:
    line = ["setpriv", "--pdeathsig", "TERM", "--", "dockerd", "--data-root", str(CACHE / "data")]
    line += ["--exec-root", str(place / "exec"), "--pidfile", str(place / "pid"), "-H", f"unix://{docker.socket}"]
    line += ["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false", "--bridge=none"]
    with (place / "log").open("wb") as log:
        return subprocess.Popen(
            line, env=docker.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def _tidy(docker: Docker) -> None:
    """What was built goes, and what is kept to build again faster does not grow without end."""
    labelled = "label=org.opencontainers.image.title"
    docker.run("image", "prune", "--all", "--force", "--filter", labelled, check=False)
    docker.run("image", "prune", "--force", check=False)
    docker.run("builder", "prune", "--force", "--keep-storage", "2GB", check=False)


def _base(docker: Docker) -> None:
    if docker.run("image", "inspect", BASE, check=False).returncode == 0:
        return
    tar = CACHE / "base.tar"
    if not tar.exists():
        _debootstrap(tar)
    docker.run("import", str(tar), BASE, limit=300)


def _debootstrap(tar: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="rootfs-", dir=CACHE) as folder:
        line = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", folder]
        subprocess.run(line, env=os.environ | {"PATH": PATH}, check=True, capture_output=True, timeout=900)
        part = tar.with_suffix(".part")
        leave_out = ["--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*"]
        subprocess.run(["tar", "-C", folder, *leave_out, "-cf", str(part), "."], check=True, timeout=300)
        part.rename(tar)
