"""`new`: a project that runs, with tests."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import tidemill
from tidemill.errors import ConfigurationError

NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")
SUFFIX = ".txt"
"""Of the templates: nothing in this package is taken for a module of ours."""


def new(name: str, folder: Path) -> int:
    """Write the project into `folder`, which is empty or not there yet."""
    if not NAME.fullmatch(name):
        raise ConfigurationError(f"name {name!r}: small letters, digits and '-' only, a letter first, 40 at most")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigurationError(f"{folder} is there and not empty: choose another name, or another place with --dir")
    values = {"name": name, "release": tidemill.__version__}
    try:
        for path, text in _templates(files("tidemill.cli") / "templates", Path()):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(Template(text).substitute(values), "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}") from None
    print(f"{name} is in {folder}\n\n  cd {folder}\n  tidemill check\n  tidemill dev\n  pytest")
    return 0


def _templates(place: Traversable, above: Path) -> list[tuple[Path, str]]:
    found: list[tuple[Path, str]] = []
    for one in sorted(place.iterdir(), key=lambda one: one.name):
        if one.is_dir():
            found += _templates(one, above / one.name)
        elif one.name.endswith(SUFFIX):
            name = one.name.removesuffix(SUFFIX)
            found.append((above / (".gitignore" if name == "gitignore" else name), one.read_text("utf-8")))
    return found
