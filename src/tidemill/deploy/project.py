"""A project as its pyproject.toml tells it: name, version, what it asks for, and which of that lies beside it.

A dependency is local when `[tool.uv.sources]` gives it a path or says that it is a member of the workspace, or when it
is written as `name @ file:…`. Local ones are built with the image; all others come from the package index.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tidemill.errors import ConfigurationError

FILE = "pyproject.toml"

_REQUIREMENT = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:\[([^\]]*)\])?\s*(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One dependency: its normalized name, the extras asked for, and the line as it stands."""

    name: str
    extras: tuple[str, ...]
    line: str
    rest: str


@dataclass(frozen=True, slots=True)
class Project:
    """`packaged`: it can be built into a wheel; else its files are run as they lie. `local` has the folder or file of
    each dependency that is not on an index. `folder` is absolute."""

    folder: Path
    name: str
    version: str
    packaged: bool
    requires: tuple[Requirement, ...]
    extras: Mapping[str, tuple[Requirement, ...]]
    local: Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class Closure:
    """What a project needs, with what its local dependencies need: lines for pip, and local ones, deepest first."""

    lines: tuple[str, ...]
    local: tuple[Path, ...]
    names: frozenset[str]


def read(folder: Path) -> Project:
    """The project in this folder. Raises `ConfigurationError` with what is missing or does not fit."""
    folder = folder.resolve()
    tree = _tree(folder / FILE)
    table = tree.get("project")
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        raise ConfigurationError(f"{folder.name}/{FILE}: there is no name in a table [project]; an image needs one")
    required = tuple(parse(line) for line in table.get("dependencies", ()))
    optional = {
        normal(name): tuple(parse(line) for line in lines)
        for name, lines in table.get("optional-dependencies", {}).items()
    }
    everything = [*required, *(one for lines in optional.values() for one in lines)]
    version = table.get("version")
    return Project(
        folder,
        normal(table["name"]),
        version if isinstance(version, str) else _installed(table["name"]),
        "build-system" in tree,
        required,
        optional,
        dict(_local(folder, tree, everything)),
    )


def closure(project: Project, extras: tuple[str, ...]) -> Closure:
    """All that the project asks for with these extras, through its local dependencies too.

    Raises `ConfigurationError` for an extra that the project does not have, or a local dependency that is not there.
    """
    for extra in extras:
        if normal(extra) not in project.extras:
            there = ", ".join(project.extras) or "none"
            raise ConfigurationError(f"{project.name} has no extra {extra!r} in {FILE} (there are: {there})")
    lines: dict[str, None] = {}
    local: dict[Path, None] = {}
    names: set[str] = set()
    seen: set[tuple[Path, str]] = set()

    def follow(one: Project, wanted: tuple[str, ...]) -> None:
        for part in ("", *map(normal, wanted)):
            if (one.folder, part) in seen:
                continue
            seen.add((one.folder, part))
            for requirement in one.extras.get(part, ()) if part else one.requires:
                names.add(requirement.name)
                if requirement.name == one.name:  # `all = ["name[one,two]"]`
                    follow(one, requirement.extras)
                    continue
                where = one.local.get(requirement.name) or project.local.get(requirement.name)
                if where is None:
                    lines[requirement.line] = None
                    continue
                if not where.exists():
                    raise ConfigurationError(f"{one.name} asks for {requirement.name} in {where}, which is not there")
                if where.is_dir():
                    follow(read(where), requirement.extras)
                local[where] = None

    follow(project, extras)
    return Closure(tuple(sorted(lines)), tuple(local), frozenset(names))


def normal(name: str) -> str:
    """A name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse(line: str) -> Requirement:
    """Raises `ConfigurationError` for what is no requirement."""
    found = _REQUIREMENT.fullmatch(line)
    if found is None:
        raise ConfigurationError(f"{FILE}: {line!r} is no requirement, as `name[extra]>=1`")
    name, extras, rest = found.groups()
    wanted = tuple(normal(extra.strip()) for extra in (extras or "").split(",") if extra.strip())
    return Requirement(normal(name), wanted, line.strip(), rest.strip())


def _tree(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"there is no {FILE} in {path.parent.name}/: an image needs the project's name, version and dependencies"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path.parent.name}/{FILE} cannot be read: {error}") from error


def _installed(name: str) -> str:
    """The version of a project that works it out when it is built."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _local(folder: Path, tree: Mapping[str, Any], required: list[Requirement]) -> Iterator[tuple[str, Path]]:
    for requirement in required:
        if requirement.rest.startswith("@") and (place := requirement.rest[1:].strip()).startswith("file:"):
            yield requirement.name, (folder / unquote(urlsplit(place.split(";")[0].strip()).path)).resolve()
    root, above = _workspace(folder)
    sources = {**above.get("tool", {}).get("uv", {}).get("sources", {})} if root else {}
    places = dict.fromkeys(sources, root)
    for name, source in tree.get("tool", {}).get("uv", {}).get("sources", {}).items():
        sources[name], places[name] = source, folder
    for name, source in sources.items():
        if not isinstance(source, dict):
            continue
        if isinstance(source.get("path"), str):
            yield normal(name), ((places[name] or folder) / source["path"]).resolve()
        elif source.get("workspace") and root is not None:
            yield normal(name), _member(root, above, normal(name))


def _workspace(folder: Path) -> tuple[Path | None, Mapping[str, Any]]:
    """The nearest folder upwards that says what a workspace is made of, and its pyproject.toml."""
    for above in (folder, *folder.parents):
        if (above / FILE).is_file() and "[tool.uv.workspace" in (above / FILE).read_text("utf-8", "replace"):
            return above, _tree(above / FILE)
    return None, {}


def _member(root: Path, tree: Mapping[str, Any], name: str) -> Path:
    members = tree.get("tool", {}).get("uv", {}).get("workspace", {}).get("members", ())
    for pattern in members:
        for path in sorted(root.glob(f"{pattern}/{FILE}")):
            if normal(str(_tree(path).get("project", {}).get("name", ""))) == name:
                return path.parent.resolve()
    raise ConfigurationError(
        f"{name} is said to be of the workspace {root.name}/, and none of its members is called so"
    )
