"""A project as its pyproject.toml tells it: name, version, what it asks for, and which of that lies beside it.

A dependency is local when `[tool.uv.sources]` gives it a path or says that it is a member of the workspace, or when it
is written as `name @ file:…`. Local ones are built with the image; all others come from the package index. One that
uv takes from elsewhere (git, a URL, an index of its own) must be pinned: an index may have another of that name.
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
    each dependency that lies beside it, `elsewhere` the names of those that only uv knows to find. `folder` is
    absolute."""

    folder: Path
    name: str
    version: str
    packaged: bool
    requires: tuple[Requirement, ...]
    extras: Mapping[str, tuple[Requirement, ...]]
    local: Mapping[str, Path]
    elsewhere: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Closure:
    """What a project needs, with what its local dependencies need: lines for pip, and local ones, deepest first.
    `elsewhere` are the lines among them that pip would look for in the wrong place."""

    lines: tuple[str, ...]
    local: tuple[Path, ...]
    names: frozenset[str]
    elsewhere: tuple[str, ...] = ()


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
    local = dict(_local(folder, tree, everything))
    return Project(
        folder,
        normal(table["name"]),
        version if isinstance(version, str) else _installed(table["name"]),
        "build-system" in tree,
        required,
        optional,
        local,
        frozenset(name for name, _, _ in _sources(folder, tree)) - set(local),
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
    elsewhere: dict[str, None] = {}
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
                    if requirement.name in one.elsewhere | project.elsewhere:
                        elsewhere[requirement.line] = None
                    continue
                if not where.exists():
                    raise ConfigurationError(f"{one.name} asks for {requirement.name} in {where}, which is not there")
                if where.is_dir():
                    follow(read(where), requirement.extras)
                local[where] = None

    follow(project, extras)
    return Closure(tuple(sorted(lines)), tuple(local), frozenset(names), tuple(elsewhere))


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
        if requirement.rest.startswith("@") and (url := requirement.rest[1:].strip()).startswith("file:"):
            yield requirement.name, (folder / unquote(urlsplit(url.split(";")[0].strip()).path)).resolve()
    root = workspace(folder)
    for name, source, place in _sources(folder, tree):
        if isinstance(source.get("path"), str):
            yield name, (place / source["path"]).resolve()
        elif source.get("workspace") and root is not None:
            yield name, _member(root, name)


def _sources(folder: Path, tree: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], Path]]:
    """Where uv is told to find a dependency: its name, the place, and the folder that a path starts from. What the
    workspace says holds for its members, but for what they say themselves."""
    root = workspace(folder)
    said = {}
    for place, one in ((root, _tree(root / FILE)), (folder, tree)) if root else ((folder, tree),):
        for name, source in one.get("tool", {}).get("uv", {}).get("sources", {}).items():
            said[normal(name)] = (source, place)
    for name, (source, place) in said.items():
        for choice in source if isinstance(source, list) else [source]:  # a list has one for each marker
            if isinstance(choice, dict):
                yield name, choice, place


def workspace(folder: Path) -> Path | None:
    """The nearest folder upwards that says what a workspace is made of."""
    for above in (folder, *folder.parents):
        if (above / FILE).is_file() and "[tool.uv.workspace" in (above / FILE).read_text("utf-8", "replace"):
            return above
    return None


def _member(root: Path, name: str) -> Path:
    members = _tree(root / FILE).get("tool", {}).get("uv", {}).get("workspace", {}).get("members", ())
    if normal(str(_tree(root / FILE).get("project", {}).get("name", ""))) == name:
        return root
    for pattern in members:
        for path in sorted(root.glob(f"{pattern}/{FILE}")):
            if normal(str(_tree(path).get("project", {}).get("name", ""))) == name:
                return path.parent.resolve()
    raise ConfigurationError(
        f"{name} is said to be of the workspace {root.name}/, and none of its members is called so"
    )
