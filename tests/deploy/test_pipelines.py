"""The pipeline files: they can be read, and every command of ours in them is one, with options that there are."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tidemill.cli.main import build
from tidemill.signals import Signals

FOLDER = Path(__file__).parent.parent.parent / "examples/pipelines"
STEPS = ["check", "chart", "image", "deploy"]


def scripts(tree: Any) -> Iterator[str]:
    """All text in a tree that a shell would run."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            if name in ("run", "script", "inlineScript") and isinstance(value, str):
                yield value
            else:
                yield from scripts(value)
    elif isinstance(tree, list):
        for one in tree:
            yield from scripts(one)


def ours(path: Path) -> list[list[str]]:
    """The words of each `tidemill` line, with something in the place of what the platform fills in."""
    found = []
    for script in scripts(yaml.safe_load(path.read_text("utf-8"))):
        for line in script.splitlines():
            if line.strip().startswith("tidemill "):
                plain = re.sub(r"\$\{\{.*?\}\}|\$\([A-Z]+\)|\$[A-Za-z]+", "filled", line.strip())
                found.append(shlex.split(plain.partition(" > ")[0])[1:])
    return found


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.name)
def test_each_command_is_one(path: Path) -> None:
    lines = ours(path)
    assert [words[0] for words in lines] == STEPS
    app = typer.main.get_command(build(Signals()))
    for name, *words in lines:
        app.commands[name].make_context(name, words)  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yml")), ids=lambda path: path.name)
def test_what_is_deployed_is_a_digest(path: Path) -> None:
    (*_, deploy) = ours(path)
    assert deploy[deploy.index("--image") + 1] == "filled@filled"


def test_there_are_two() -> None:
    assert len(list(FOLDER.glob("*.yml"))) == 2
