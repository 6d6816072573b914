"""What an image is called: a tag that says its version and its commit, and that never comes to mean something else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from tidemill.errors import ConfigurationError

TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
MOVING = ("latest", "stable", "main", "master", "dev", "edge")
"""Tags that say nothing of what they name: a node that has one keeps running what it had."""

_PART = re.compile(r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*")
_HOST = re.compile(r"(\[[0-9a-f:]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?)(:[0-9]+)?")

Standing: TypeAlias = Literal["free", "same", "taken"]


@dataclass(frozen=True, slots=True)
class Source:
    """The state of the source: its commit (None: no repository), a hash of what differs from it (empty: nothing does;
    without a commit: of all files), where it comes from, and when it was committed (ISO 8601)."""

    commit: str | None
    dirt: str
    origin: str = ""
    at: str = ""

    @property
    def revision(self) -> str:
        """As a label tells it."""
        commit = self.commit or ""
        return f"{commit}-dirty.{self.dirt}" if commit and self.dirt else commit


def derive(version: str, source: Source, groups: tuple[str, ...] = ()) -> str:
    """`1.4.0-3f2a9c1d04be`, with `-dirty.…` where files differ from the commit.

    Raises `ConfigurationError` where nothing tells the version.
    """
    if not version:
        raise ConfigurationError(
            "pyproject.toml: nothing tells the project's version; set project.version, or say --tag"
        )
    state = source.commit[:12] if source.commit else "tree"
    dirt = ("-dirty." if source.commit else ".") + source.dirt if source.dirt else ""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", "-".join((version, state))) + dirt + "".join(f"-{name}" for name in groups)


def fit(tag: str) -> None:
    """Raises `ConfigurationError` for what is no tag, and for one that is meant to move."""
    if not TAG.fullmatch(tag):
        raise ConfigurationError(f"--tag {tag}: write letters, digits, '.', '_' and '-', at most 128")
    if tag.lower() in MOVING:
        raise ConfigurationError(
            f"--tag {tag}: such a tag comes to mean other content, and a node that has it goes on running the old one;"
            " leave --tag away, and it is version and commit"
        )


def repository(said: str) -> str:
    """`registry.example.com/team/shop` as it is. Raises `ConfigurationError` for what is none, or has a tag."""
    host, slash, rest = said.partition("/")
    named = slash and ("." in host or ":" in host or host == "localhost")
    path = rest if named else said
    if ":" in path or "@" in path:
        raise ConfigurationError(
            f"deploy.image {said}: write it without a tag: {said[: len(said) - len(path)]}{re.split('[:@]', path)[0]}"
        )
    if (named and not _HOST.fullmatch(host)) or not all(_PART.fullmatch(part) for part in path.split("/")):
        raise ConfigurationError(f"deploy.image {said}: write registry/team/name in lower case")
    return said


def registry(repository: str) -> str:
    """The host of a repository; empty where none is said."""
    host, slash, _ = repository.partition("/")
    return host if slash and ("." in host or ":" in host or host == "localhost") else ""


def loopback(host: str) -> bool:
    """Whether a registry is on this machine, where engines speak to it without TLS."""
    name = host.rpartition(":")[0] or host
    return name in ("localhost", "[::1]") or name.startswith("127.")


def pushable(repository: str, source: Source, *, said: str, allow_dirty: bool) -> None:
    """Raises `ConfigurationError` with one line for each thing that must not be pushed."""
    problems = []
    if not registry(repository):
        problems.append(
            f"--push: {repository} names no registry; set image in [deploy] of tidemill.toml to"
            f" registry.example.com/team/{repository}"
        )
    if source.dirt and source.commit and not allow_dirty:
        problems.append(
            "--push: files differ from the commit, so nobody could say later what is in the image; commit them, or say"
            " --allow-dirty"
        )
    if not source.commit and not said:
        problems.append("--push: no git repository holds all that is built, so a tag cannot tell the commit; say --tag")
    if problems:
        raise ConfigurationError(*problems)


def standing(there: frozenset[str] | None, ours: frozenset[str]) -> Standing:
    """What a tag means in the registry, against the image that was built: digests of manifest and configuration of
    both (None: the registry does not know the tag)."""
    if there is None:
        return "free"
    return "same" if there & ours else "taken"


def taken(reference: str) -> ConfigurationError:
    """That the tag must not be pushed over."""
    return ConfigurationError(
        f"{reference} is in the registry already, with other content; a tag never changes what it means: commit what"
        " changed and build again, say another --tag, or deploy what is there by its digest"
    )
