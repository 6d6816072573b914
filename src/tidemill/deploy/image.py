"""What goes into the image: decided from the project's files and choices, before anything is built.

Dependencies are a layer of their own, below local packages, below the project: a change of the source rebuilds the
last one only. Pins with hashes (`requirements.txt`) are installed as they stand and completely; without them the lines
of pyproject.toml are, and a note says so.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tidemill.deploy.project import Closure, Project, parse
from tidemill.errors import ConfigurationError
from tidemill.layered import FILE as SETTINGS

PINS = "requirements.txt"
LOCK = "uv.lock"

_FILES = ("-r", "--requirement", "-c", "--constraint")


@dataclass(frozen=True, slots=True)
class Pins:
    """A file that names all dependencies from an index: its lines, and whether each has hashes. `path` is absolute."""

    path: Path
    hashed: bool
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Recipe:
    """All that Dockerfile and .dockerignore are written from. Paths are relative to `context`, the folder that is
    sent to the builder; `project` is `.` where that is the project's own. `pins` is empty without such a file, and
    then `lines` are what pip is told. `beside` are files that a packaged project gets in its working folder."""

    name: str
    target: str
    groups: tuple[str, ...]
    base: str
    context: Path
    project: str
    packaged: bool
    local: tuple[str, ...]
    pins: str
    hashed: bool
    lines: tuple[str, ...]
    beside: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        return self.context / self.project


def recipe(
    project: Project,
    needed: Closure,
    pins: Pins | None,
    *,
    target: str,
    base: str,
    groups: Sequence[str] = (),
    settings: bool = False,
) -> Recipe:
    """What the image is made of; `settings`: there is a tidemill.toml.

    Raises `ConfigurationError` if Tidemill would not be in it, or a dependency would come from the wrong place.
    """
    folders = [path if path.is_dir() else path.parent for path in needed.local]
    context = Path(os.path.commonpath([project.folder, *folders]))
    if context == Path(context.anchor):
        raise ConfigurationError(f"{project.name} and its local dependencies have no folder in common but {context}")
    if "tidemill" not in needed.names and not (pins and any(parse(line).name == "tidemill" for line in pins.lines)):
        raise ConfigurationError(
            f"pyproject.toml: {project.name} does not ask for tidemill; add 'tidemill[cli]' to its dependencies"
        )

    if pins is None and needed.elsewhere:
        raise ConfigurationError(
            *(
                f"pyproject.toml: {line}: pip does not read in [tool.uv.sources] where it comes from; {_export()}"
                for line in needed.elsewhere
            )
        )

    def inside(path: Path) -> str:
        return path.relative_to(context).as_posix()

    return Recipe(
        project.name,
        target,
        tuple(groups),
        base,
        context,
        inside(project.folder),
        project.packaged,
        tuple(map(inside, needed.local)),
        inside(pins.path) if pins else "",
        pins.hashed if pins else False,
        () if pins else needed.lines,
        (SETTINGS,) if settings else (),
        tuple(_notes(project, pins)),
    )


def pins_of(text: str, path: Path) -> Pins:
    """The pins that a requirements file tells. Raises `ConfigurationError` for local lines (a folder has no hash, and
    its layer would change with each change of its source), and for other files: only this one goes into the layer."""
    problems = []
    lines = []
    for line in _joined(text):
        if _is_local(line):
            problems.append(
                f"{path.name}: {line}: what lies beside the project is built with it; take the line out, and name it"
                " in pyproject.toml ([tool.uv.sources], or `name @ file:…`)"
            )
        elif line.startswith(_FILES):
            problems.append(f"{path.name}: {line}: write all pins into {path.name}, without another file: {_compile()}")
        elif not line.startswith("-"):
            lines.append(line)
    if problems:
        raise ConfigurationError(*problems)
    return Pins(path, bool(lines) and all("--hash=" in line for line in lines), tuple(lines))


def locked(folder: Path, extras: Sequence[str]) -> ConfigurationError:
    """That there is a lock which pip cannot read, with the line that writes one it can."""
    return ConfigurationError(
        f"{LOCK} in {folder.name}/ is not read by pip, and the image would not have what it locks; {_export(extras)}"
    )


def _export(extras: Sequence[str] = ()) -> str:
    wanted = "".join(f" --extra {extra}" for extra in extras)
    return f"write {PINS}: uv export --frozen --no-dev --no-emit-project --no-emit-local{wanted} -o {PINS}"


def _notes(project: Project, pins: Pins | None) -> list[str]:
    if pins is None:
        return [
            f"the dependencies are not pinned, so the next build may take others; pin them: {_compile()}",
        ]
    if not pins.hashed:
        return [f"{pins.path.name} has no hashes, so what is downloaded is not checked; write them: {_compile()}"]
    return []


def _compile() -> str:
    return shlex.join(["pip-compile", "--generate-hashes", "--strip-extras", "-o", PINS, "pyproject.toml"])


def _joined(text: str) -> list[str]:
    """Lines with their continuations, without comments."""
    plain = [line if not line.lstrip().startswith("#") else "" for line in text.replace("\\\n", " ").splitlines()]
    return [line.split(" #")[0].strip() for line in plain if line.strip()]


def _is_local(line: str) -> bool:
    return line.startswith(("-e", "--editable", ".", "/", "file:")) or " @ file:" in line
