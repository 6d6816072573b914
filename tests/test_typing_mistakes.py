"""What type checkers tell of declarations: where a mistake is, an error in words that name it; else nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
MISTAKES = Path("tests", "typing_mistakes", "mistakes.py")


def expected(checker: str) -> dict[int, list[str]]:
    """The lines with a mistake, from 1, and the words that the checker has for each."""
    found: dict[int, list[str]] = {}
    words: list[str] = []
    for number, line in enumerate((ROOT / MISTAKES).read_text("utf-8").splitlines(), start=1):
        if line.startswith(f"# by {checker}: "):
            words = line.removeprefix(f"# by {checker}: ").split("; ")
        elif words and not line.startswith("#"):
            found[number], words = words, []
    return found


def run(*command: str, code: int = 1) -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "MYPYPATH": "src"}
    ran = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    assert ran.returncode == code, ran.stdout + ran.stderr
    return ran.stdout


def test_mypy_names_the_mistake() -> None:
    told: dict[int, str] = {}
    for line in run("mypy", "--strict", str(MISTAKES)).splitlines():
        if match := re.match(r"[^:]+:(\d+): error: (.*)", line):
            told[int(match[1])] = match[2]
    compare(told, expected("mypy"))


def test_pyright_names_the_mistake() -> None:
    told: dict[int, str] = defaultdict(str)
    for found in json.loads(run("pyright", "--outputjson", str(MISTAKES)))["generalDiagnostics"]:
        if found["severity"] == "error":
            told[found["range"]["start"]["line"] + 1] += found["message"].replace("\u00a0", " ") + "\n"
    compare(told, expected("pyright"))


def test_pyright_finds_nothing_wrong_with_what_is_right() -> None:
    """mypy's turn is a gate of its own."""
    assert "0 errors" in run("pyright", "typing_tests", "examples", code=0)


def compare(told: dict[int, str], wanted: dict[int, list[str]]) -> None:
    assert len(wanted) == 11
    assert sorted(told) == sorted(wanted)
    for line, words in wanted.items():
        for word in words:
            assert word in told[line], f"line {line}: {told[line]}"
