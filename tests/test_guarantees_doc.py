"""The docs name tests as proof: each of them exists, and is of the tier that the table says."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
TIERS = ("slow", "chaos", "soak")


def pages() -> list[Path]:
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")), ROOT / "examples/avalon/README.md"]


def lines() -> list[tuple[str, str]]:
    return [(page.name, line) for page in pages() for line in page.read_text("utf-8").splitlines()]


@cache
def tiers(path: Path) -> Mapping[str, str]:
    """The tests of a file by name, each with its tier: `test` if nothing else marks it."""
    tree = ast.parse(path.read_text("utf-8"))
    everywhere = [node for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            marks = " ".join(ast.unparse(mark) for mark in [*everywhere, *node.decorator_list])
            found[node.name] = next((tier for tier in TIERS if f"mark.{tier}" in marks), "test")
    return found


def test_every_test_that_the_docs_name_is_there() -> None:
    named = {(page, *found) for page, line in lines() for found in NAMED.findall(line)}
    assert len(named) > 30
    missing = [
        f"{page}: {path}::{test}"
        for page, path, test in sorted(named)
        if not (ROOT / path).is_file() or test not in tiers(ROOT / path)
    ]
    assert missing == []


def test_every_failure_has_a_proof_of_its_tier() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for page, line in lines()
        if page == "guarantees.md" and line.startswith("| ") and not line.startswith("| What fails")
    ]
    assert len(rows) > 15
    for row in rows:
        tier = row[-1].strip("| ")
        proofs = NAMED.findall(row[-2])
        assert bool(proofs) == (tier != "none"), row[0]
        assert {tiers(ROOT / path)[test] for path, test in proofs} <= {tier}, row[0]


def test_every_link_leads_somewhere() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages()
        for target in LINK.findall(page.read_text("utf-8"))
        if not (page.parent / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_begins_with_its_title(page: Path) -> None:
    assert page.read_text("utf-8").startswith("# ")
