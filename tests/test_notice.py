"""NOTICE names every package that the extras of today install, with the licence that the package states."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LATER = ("postgres", "azure", "otel", "all")
"""Extras without code yet."""


def names() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for extra, texts in project["optional-dependencies"].items() if extra not in LATER for text in texts]
    return [re.split(r"[\[<>=!~ ]", text)[0] for text in [*project["dependencies"], *extras]]


@pytest.mark.parametrize("name", names())
def test_the_licence_of_what_is_installed_is_in_notice(name: str) -> None:
    line = re.search(rf"^  {re.escape(name)} +(\S+) ", (ROOT / "NOTICE").read_text(), re.M)
    assert line, f"NOTICE does not name {name}"
    told = metadata.metadata(name)
    stated = told.get("License-Expression") or told.get("License") or " ".join(told.get_all("Classifier") or [])
    assert line[1].split("-")[0] in stated
