"""The servers that the tests start: get what is missing, or say what there is.

python -m scripts.servers install   what `make test` begins with; `found` in its place installs nothing
python -m scripts.servers           what it ends with

Root on Debian or Ubuntu gets the system's packages; whoever else gets PostgreSQL from the package index, into .venv.
Azurite comes from npm into .venv/azurite; root on Debian gets node and npm for it first, if there is none.
Nothing that is installed here starts by itself, now or at the next boot.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.servers import azurite, pgbouncer, postgres

ROOT = Path(__file__).parent.parent
BUNDLE = "requirements/servers.txt"
NEWEST_FOR_BUNDLE = (3, 12)

# Debian's ways to say: make no cluster of your own, and start no service.
NO_CLUSTER = Path("/etc/postgresql-common/createcluster.d/tidemill-tests.conf")
NO_START = Path("/usr/sbin/policy-rc.d")


def missing() -> list[str]:
    """By the names of Debian's packages."""
    found = {"postgresql": postgres.find(), "pgbouncer": pgbouncer.find()}
    return [name for name, place in found.items() if place is None]


def install() -> None:
    failed = _databases() + _azurite()
    if failed:
        print(f"Not installed:\n{failed}")


def _databases() -> str:
    wanted, failed = missing(), ""
    if not wanted:
        return ""
    packaged = os.geteuid() == 0 and shutil.which("apt-get") is not None
    if packaged:
        failed = _packages(wanted)
    if "postgresql" in wanted and (failed or not packaged):
        failed += _bundle()
    return failed


def _azurite() -> str:
    if azurite.find() is not None:
        return ""
    failed = ""
    if shutil.which("npm") is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        failed = _packages(["nodejs", "npm"])
    if shutil.which("npm") is None:
        return f"{failed}Azurite: there is no npm\n"
    print(f"Installing the server of the tests from npm into .venv/azurite: azurite {azurite.VERSION}", flush=True)
    azurite.FOLDER.mkdir(parents=True, exist_ok=True)
    words = ["--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    line = ["npm", "install", "--prefix", str(azurite.FOLDER), *words, f"azurite@{azurite.VERSION}"]
    failed += _said_by(line)
    azurite.find.cache_clear()
    return failed if azurite.find() is None else ""


def _packages(wanted: Sequence[str]) -> str:
    print(f"Installing the servers of the tests from the system's packages: {', '.join(wanted)}", flush=True)
    line = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"]
    with nothing_starts(wanted):
        _said_by([*line, "update"])  # its failure matters only if a package cannot be had, which is told then
        return _said_by([*line, "install", "-y", "--no-install-recommends", *wanted])


def _bundle() -> str:
    if sys.version_info[:2] > NEWEST_FOR_BUNDLE:
        return f"{BUNDLE} has no files for Python {sys.version_info[0]}.{sys.version_info[1]}\n"
    print(f"Installing the server of the tests into .venv: {BUNDLE}", flush=True)
    return _said_by([sys.executable, "-m", "pip", "-q", "install", "--require-hashes", "-r", BUNDLE, "-c", BUNDLE])


@contextmanager
def nothing_starts(packages: Sequence[str]) -> Iterator[None]:
    """While they are installed; what the machine's owner has said about it stays as it is."""
    made = []
    for path, text, mode in (
        (NO_CLUSTER, "create_main_cluster = false\n", 0o644),
        (NO_START, "#!/bin/sh\nexit 101\n", 0o755),
    ):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(mode)
            made.append(path)
    try:
        yield
        if Path("/run/systemd/system").exists():
            subprocess.run(["systemctl", "--quiet", "disable", *packages], check=False)
    finally:
        for path in made:
            path.unlink(missing_ok=True)


def _said_by(line: Sequence[str]) -> str:
    """The last lines of a command that failed; nothing of one that did not."""
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    said = subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return "".join((said.stdout + said.stderr).splitlines(keepends=True)[-5:]) if said.returncode else ""


def report() -> None:
    """Which servers the tests ran with; which were missing."""
    _report_databases()
    if azurite.find() is None:
        print(f"Servers: {azurite.MISSING}. The tests that need it were SKIPPED.")
    else:
        print(f"Servers: Azurite {azurite.VERSION} ({azurite.PACKAGE}).")


def _report_databases() -> None:
    place, program = postgres.find(), pgbouncer.find()
    if place is None:
        print(f"Servers: {postgres.MISSING}. The tests that need one were SKIPPED.")
        return
    print(f"Servers: PostgreSQL {postgres.full_version(place)} ({place})", end="")
    if program is None:
        print(f"; {pgbouncer.MISSING}. The tests that need it were SKIPPED.")
    else:
        print(f", PgBouncer {pgbouncer.full_version(program)} ({program}); nothing was skipped for want of one.")


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            report()
        case ["install"]:
            install()
        case ["found"]:
            pass
        case _:
            raise SystemExit(__doc__)
