"""Where settings stand: files, variables and options as layers of one tree, each leaf with its place.

A layer that lies higher replaces single leaves of the lower ones: `TIDEMILL_QUEUES__INVOICES__URL` changes one queue
and leaves the others of `tidemill.toml` as they are.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

PREFIX = "TIDEMILL_"
FILE = "tidemill.toml"
DOTENV = ".env"
SECRETS = "TIDEMILL_SECRETS_DIR"
DEPLOY = "deploy"
"""The table of the file that is for those who deploy; a replica reads past it."""
FORWARD = "forward"
"""The tables of the file that declare workers; they are no settings."""

Path_: TypeAlias = tuple[str, ...]

_SERVICE = re.compile(r"_SERVICE_(HOST|PORT(_.*)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_ADDR|_PORT|_PROTO)?$")
_LINK = re.compile(r"(tcp|udp|sctp)://")


@dataclass(frozen=True, slots=True)
class Layer:
    """Leaves by their path, each with the words for where it stands."""

    leaves: Mapping[Path_, tuple[object, str]]

    @classmethod
    def of(cls, tree: Mapping[str, Any], place: str) -> Layer:
        """A tree of values; `{}` in `place` is the name of the leaf."""
        return cls({path: (value, place.format(".".join(path))) for path, value in _walk(tree, ())})


@dataclass(slots=True)
class Merged:
    """The tree of all layers, and where each leaf of it stands."""

    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Path_, str] = field(default_factory=dict)


def merge(layers: Iterable[Layer]) -> Merged:
    """The layers on top of each other, the last on top."""
    merged = Merged()
    for layer in layers:
        for path, (value, place) in layer.leaves.items():
            node = merged.tree
            for part in path[:-1]:
                below = node.get(part)
                if not isinstance(below, dict):
                    below = node[part] = {}
                node = below
            node[path[-1]] = value
            merged.origins[path] = place
    return merged


def read_layers(environ: Mapping[str, str], folder: Path) -> tuple[list[Layer], list[str]]:
    """The layers between the defaults and the command line, rising; and what could not be read."""
    problems: list[str] = []
    layers = [
        _port(environ),
        _file(folder / FILE, problems),
        _variables(_dotenv(folder / DOTENV, problems), f"in {DOTENV}"),
        _variables(_secrets(environ, problems), "in the secrets directory"),
        _variables({name: value for name, value in environ.items() if name != SECRETS}, ""),
    ]
    return layers, problems


def _port(environ: Mapping[str, str]) -> Layer:
    """`PORT`, by which many platforms say where a web API should listen."""
    return Layer({("api_port",): (environ["PORT"], "PORT")} if environ.get("PORT") else {})


def _file(path: Path, problems: list[str]) -> Layer:
    try:
        tree = tomllib.loads(path.read_text("utf-8")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        tree = {}
    tree.pop(DEPLOY, None)
    tree.pop(FORWARD, None)
    return Layer.of(tree, f"{{}} in {path.name}")


def _dotenv(path: Path, problems: list[str]) -> Mapping[str, str]:
    if path.is_dir():
        problems.append(f"{path.name} cannot be read: it is a folder")
    if not path.is_file():
        return {}
    from dotenv import dotenv_values  # read only where there is such a file

    try:
        values = dotenv_values(path, interpolate=False)
    except (UnicodeDecodeError, OSError) as error:
        problems.append(f"{path.name} cannot be read: {error}")
        return {}
    return {name: value for name, value in values.items() if value is not None}


def _secrets(environ: Mapping[str, str], problems: list[str]) -> Mapping[str, str]:
    """Files named like variables, as Kubernetes and Docker mount secrets."""
    said = environ.get(SECRETS)
    folder = Path(said or "/run/secrets")
    try:
        files = [path for path in folder.iterdir() if path.name.upper().startswith(PREFIX) and path.is_file()]
    except OSError as error:
        if said:  # else it is only where such files would be
            problems.append(f"{SECRETS}={said} cannot be read: {error.strerror}")
        return {}
    try:
        return {path.name.upper(): path.read_text("utf-8").strip() for path in files}
    except (UnicodeDecodeError, OSError) as error:
        problems.append(f"the secrets in {folder} cannot be read: {error}")
        return {}


def _variables(values: Mapping[str, str], where: str) -> Layer:
    leaves: dict[Path_, tuple[object, str]] = {}
    for name, value in values.items():
        upper = name.upper()
        if upper.startswith(PREFIX) and not _is_service_link(upper, value):
            path = tuple(upper.removeprefix(PREFIX).lower().split("__"))
            leaves[path] = (value, f"{name} {where}".rstrip())
    return Layer(leaves)


def _is_service_link(name: str, value: str) -> bool:
    """What Kubernetes sets for a Service that is named like us (`TIDEMILL_API_PORT=tcp://10.0.0.7:80`)."""
    return _SERVICE.search(name) is not None or (name.endswith("_PORT") and _LINK.match(value) is not None)


def _walk(tree: Mapping[str, Any], above: Path_) -> Iterator[tuple[Path_, object]]:
    for name, value in tree.items():
        path = (*above, name)
        if isinstance(value, Mapping):
            yield from _walk(value, path)
        else:
            yield path, value
