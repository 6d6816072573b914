"""`tidemill new`: what it writes runs, and passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Run


def _python(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMILL_", "COV"))}
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=plain, capture_output=True, text=True, timeout=100, check=False
    )


def test_a_new_project_checks_and_passes_its_tests(run: Run, folder: Path) -> None:
    ran = run("new", "shop")
    assert ran.code == 0
    assert ran.out.startswith("shop is in shop\n")
    shop = folder / "shop"
    assert {path.name for path in shop.iterdir()} == {
        "app.py", "api.py", "tests", "pyproject.toml", "tidemill.toml", "README.md", ".gitignore",
    }  # fmt: skip
    checked = _python(shop, "-m", "tidemill", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "shop: 3 worker(s), 1 queue(s), 2 collection(s)" in checked.stdout
    tested = _python(shop, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    served = _python(shop, "-c", "from api import api; print(sorted(api.openapi()['paths']))")
    assert "'/orders'" in served.stdout, served.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["new", "My Shop"], "tidemill: name 'My Shop': small letters, digits and '-' only"),
        (["new", "shop", "--dir", "."], "tidemill: . is there and not empty: choose another name"),
        (["new", "shop", "--dir", "app.py/shop"], "tidemill: app.py/shop cannot be written: "),
    ],
)
def test_what_cannot_be_written_is_one_line(run: Run, folder: Path, words: list[str], line: str) -> None:
    ran = run(*words)
    assert ran.code == 2
    assert ran.err.startswith(line)
