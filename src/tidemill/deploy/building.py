"""Docker or Podman: build the image, run a command in it, ask the registry for a tag, push."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tidemill.deploy.outside import CommandFailed, Said, ask, failed, follow
from tidemill.deploy.tags import loopback, registry
from tidemill.errors import ConfigurationError

Kind: TypeAlias = Literal["docker", "podman"]

BUILD = 3600.0
CHECK = 120.0
PUSH = 1800.0
ASK = 60.0
"""Seconds that each may take at most."""

_BUILDKIT = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
"""An attestation has the time in it: the same image would be another one each time it is built."""
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_STEP = re.compile(r"#\d+ (\[.*|CACHED|DONE .*|ERROR.*)|STEP \d+/\d+: .*|--> Using cache .*")
_ABSENT = re.compile(r"no such manifest|manifest unknown|not found|name unknown|\b404\b", re.IGNORECASE)
_BARRED = re.compile(r"\bdenied\b|unauthorized|\b40[13]\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Engine:
    """The program that builds; `kind` is whose command line it has."""

    program: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Order:
    """One build. `arguments` are build arguments, `secrets` files that pip may read while it runs; `network` is that
    of the build, `platform` what it is for, as `linux/amd64` (empty: the engine's own)."""

    context: Path
    dockerfile: Path
    ignore: Path
    arguments: Mapping[str, str]
    secrets: Mapping[str, Path]
    network: str = ""
    platform: str = ""


def engine(said: str | None) -> Engine:
    """The one that was said, or whichever is there. Raises `ConfigurationError` if none is."""
    for name in (said,) if said else ("docker", "podman"):
        if shutil.which(name):
            return Engine(name, "podman" if "podman" in Path(name).name else "docker")
    raise ConfigurationError(
        f"--engine {said}: there is no such program on the PATH"
        if said
        else "neither docker nor podman is on the PATH; install one of them, or write the files only: --write"
    )


def build(by: Engine, order: Order, line: Callable[[str], object]) -> str:
    """Build the image; its id. It has no name yet. Raises `CommandFailed` with the last lines of a failed build."""
    with tempfile.TemporaryDirectory(prefix="tidemill-image-") as folder:
        file = Path(folder, "id")
        argv = [by.program, "build", "--file", str(order.dockerfile), "--iidfile", str(file)]
        if by.kind == "docker":
            argv += ["--progress", "plain"]
        else:
            argv += ["--format", "docker", "--ignorefile", str(order.ignore)]  # the other format has no HEALTHCHECK
        argv += ["--network", order.network] if order.network else []
        argv += ["--platform", order.platform] if order.platform else []
        for name, value in order.arguments.items():
            argv += ["--build-arg", f"{name}={value}"]
        for name, path in order.secrets.items():
            argv += ["--secret", f"id={name},src={path}"]
        follow([*argv, str(order.context)], limit=BUILD, line=line, environment=_BUILDKIT)
        return file.read_text("utf-8").strip()


def step(line: str) -> str | None:
    """A line of a build that tells how far it is, without mounts and cut to a line of a terminal; None for the rest."""
    if not _STEP.fullmatch(line):
        return None
    return re.sub(r"--mount=\S+ |if \[ .*?; fi; |(?<= ) +", "", line)[:110]


def name(by: Engine, image: str, reference: str) -> None:
    """Give it this name on this machine."""
    argv = [by.program, "tag", image, reference]
    said = ask(argv, limit=ASK)
    if said.code != 0:
        raise failed(argv, said.code, said.err.splitlines())


def check(
    by: Engine,
    image: str,
    target: str,
    environment: Mapping[str, str | None],
    *,
    platform: str = "",
    limit: float = CHECK,
) -> Said:
    """`tidemill check` in the image, as a pod would run it: read-only, without rights and without a network.

    A variable without a value is taken from our own environment, so that it does not stand on a command line. Raises
    `CommandFailed` if the check cannot be run, or takes more than `limit` seconds.
    """
    called = f"tidemill-check-{secrets.token_hex(6)}"
    argv = [
        by.program,
        "run",
        "--rm",
        "--name",
        called,
        "--no-healthcheck",
        "--read-only",
        "--network",
        "none",
        "--cap-drop",
        "ALL",
    ]
    argv += ["--security-opt", "no-new-privileges", "--entrypoint", "tidemill"]
    argv += ["--platform", platform] if platform else []
    for name, value in environment.items():
        argv += ["--env", name if value is None else f"{name}={value}"]
    argv += [image, "check", target]
    try:
        said = ask(argv, limit=limit)
    except BaseException:
        ask([by.program, "rm", "--force", called], limit=ASK)  # the client is gone, the container need not be
        raise
    if said.code > 2:  # 0 to 2 are our own; the engine's begin at 125, a killed process's at 129
        raise failed(argv, said.code, [*said.out.splitlines(), *said.err.splitlines()])
    return said


def known(by: Engine, reference: str) -> frozenset[str] | None:
    """Digests by which the registry knows this tag: of manifest and configuration; None: it does not know it.

    Raises `CommandFailed` if the registry cannot be asked: a tag of which nothing is known is not pushed over.
    """
    argv = [by.program, "manifest", "inspect"]
    if by.kind == "docker":  # Podman has a list of registries without TLS, and not in each version an option here
        argv += ["--verbose", *(["--insecure"] if loopback(registry(reference)) else [])]
    said = ask([*argv, reference], limit=ASK)
    if said.code == 0:
        return frozenset(_digests(_json(said.out)))
    if _ABSENT.search(said.err):
        return None
    if _BARRED.search(said.err):
        raise CommandFailed(
            f"{registry(reference)} does not let us see {reference} ({said.err.strip().splitlines()[-1]}): log in"
            f" ({by.program} login {registry(reference)}), with the right to pull too, and make the repository if it"
            " is not there yet"
        )
    raise failed(argv, said.code, said.err.splitlines())


def ours(by: Engine, image: str) -> frozenset[str]:
    """Digests by which this machine knows an image: its id, and what it was pushed or pulled as."""
    found = _inspect(by, image)
    names = found.get("RepoDigests") or []
    return frozenset({_bare(found["Id"]), *(name.partition("@")[2] for name in names)})


def push(by: Engine, reference: str, line: Callable[[str], object]) -> str:
    """Push it; the digest that the registry knows it by. Raises `CommandFailed` with the last lines if it fails."""
    with tempfile.TemporaryDirectory(prefix="tidemill-image-") as folder:
        file = Path(folder, "digest")
        argv = [by.program, "push"]
        if by.kind == "podman":
            argv += ["--digestfile", str(file)]
        lines = follow([*argv, reference], limit=PUSH, line=line)
        told = file.read_text("utf-8") if file.exists() else "\n".join(lines[-3:])
    found = _DIGEST.search(told)
    if found is None:
        raise CommandFailed(f"{by.program} push {reference} told no digest: {' | '.join(lines[-3:])}")
    return found.group()


def _inspect(by: Engine, image: str) -> dict[str, Any]:
    argv = [by.program, "image", "inspect", image]
    said = ask(argv, limit=ASK)
    if said.code != 0:
        raise failed(argv, said.code, said.err.splitlines())
    (found, *_) = json.loads(said.out)
    return dict(found)


def _digests(tree: Any) -> set[str]:
    """Of what `manifest inspect` tells: a manifest's digest and its configuration's, not those of layers, which images
    share. An index of several images is known, and by nothing that one image could have: a push would replace it."""
    several = tree if isinstance(tree, list) else tree.get("manifests", [tree])
    if len(several) != 1:
        return set()
    (one,) = several
    manifest = next((one[key] for key in ("SchemaV2Manifest", "OCIManifest") if key in one), one)
    found = (one.get("digest"), one.get("Descriptor", {}).get("digest"), manifest.get("config", {}).get("digest"))
    return {digest for digest in found if digest}


def _json(out: str) -> Any:
    """What is written after lines of warning."""
    lines = out.splitlines()
    first = next((number for number, line in enumerate(lines) if line.startswith(("{", "["))), 0)
    return json.loads("\n".join(lines[first:]))


def _bare(id: str) -> str:
    return id if id.startswith("sha256:") else f"sha256:{id}"
