"""The examples in README.md and docs/ are tests: `pytest README.md docs`; and the servers, for these and for tests/."""

from pathlib import Path

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

pytest_plugins = ["tests.servers.fixtures"]

pytest_collect_file = Sybil(
    path=str(Path(__file__).parent),
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "docs/*.md", "docs/**/*.md"],
).pytest()
