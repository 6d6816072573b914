"""What state the source is in, as git knows it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from tidemill.deploy.outside import CommandFailed, Said, ask
from tidemill.deploy.tags import Source

_LIMIT = 60.0
_SKIPPED = frozenset({"__pycache__", "node_modules", "venv", "build", "dist"})


def source(context: Path, parts: Sequence[str], without: Iterable[Path]) -> Source:
    """The state of these parts of a folder; files in `without` (we write them ourselves) do not count.

    Raises `CommandFailed` if git knows the folder and cannot say what differs.
    """
    ours = {path.resolve() for path in without}
    commit = _git(context, "rev-parse", "HEAD")
    if commit is None:
        return Source(None, _hashed(context, _walked(context, parts), ours))
    status = ("status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all")
    changed = _git(context, *status, "--", *(f":(literal){part}" for part in parts))
    if changed is None:
        raise CommandFailed(f"git status in {context} failed, so nobody knows whether files differ from the commit")
    top = Path((_git(context, "rev-parse", "--show-toplevel") or "").strip())
    different = [top / entry[3:] for entry in changed.split("\0") if entry]
    origin = _git(context, "config", "--get", "remote.origin.url") or ""
    at = _git(context, "show", "-s", "--format=%cI", "HEAD") or ""
    dirt = _hashed(context, different, ours)
    return Source(commit.strip(), dirt, plain(origin.strip()), "" if dirt else at.strip())


def plain(origin: str) -> str:
    """A remote's URL without user and password."""
    url = urlsplit(origin)
    if not url.scheme or not url.hostname:
        return origin if "@" not in origin else origin.partition("@")[2]
    port = f":{url.port}" if url.port else ""
    return url._replace(netloc=f"{url.hostname}{port}").geturl()


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where there is no git, no repository or no commit."""
    try:
        said: Said = ask(["git", "-C", str(folder), *words], limit=_LIMIT)
    except CommandFailed:
        return None
    return said.out if said.code == 0 else None


def _walked(context: Path, parts: Sequence[str]) -> list[Path]:
    found = []
    for part in parts:
        place = context / part
        if place.is_file():
            found.append(place)
        for folder, below, files in os.walk(place):
            below[:] = [name for name in below if name not in _SKIPPED and not name.startswith(".")]
            found += [Path(folder, name) for name in files]
    return found


def _hashed(context: Path, paths: Iterable[Path], without: set[Path]) -> str:
    """A short hash of names and contents; empty where there is no file."""
    kept = sorted({path for path in paths if path.resolve() not in without})
    digest = hashlib.sha256()
    for path in kept:
        digest.update(f"{path.relative_to(context) if path.is_relative_to(context) else path}\0".encode())
        digest.update(path.read_bytes() if path.is_file() else b"gone")
    return digest.hexdigest()[:8] if kept else ""
