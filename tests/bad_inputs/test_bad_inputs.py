"""Each row of the table gets its line, its exit code and no traceback; the page in the docs is the table."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.bad_inputs.page import PAGE, text
from tests.bad_inputs.postgres import POSTGRES
from tests.bad_inputs.table import APP, GOOD, ROWS, Row

SETTINGS = {
    "TIDEMILL_HEALTH_HOST": "127.0.0.1",
    "TIDEMILL_HEALTH_PORT": "0",
    "TIDEMILL_API_HOST": "127.0.0.1",
    "TIDEMILL_API_PORT": "0",
}


def environ(row: Row) -> dict[str, str]:
    plain = {
        name: value for name, value in os.environ.items() if not name.startswith(("TIDEMILL_", "COV", "PORT", "PG"))
    }
    return plain | SETTINGS | dict(row.env)


def told(row: Row, folder: Path, found: Mapping[str, object]) -> int:
    """The exit code of the row's command, which said the row's line and no traceback."""
    for name, content in {"app.py": APP, **row.files}.items():
        (folder / name).write_text(content)
    ran = subprocess.run(
        [sys.executable, "-m", "tidemill", *(word.format(good=GOOD, **found) for word in row.words.split())],
        cwd=folder,
        env=environ(row),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in ran.stdout + ran.stderr
    lines = [line.partition(": ")[2] for line in ran.stderr.splitlines() if line.startswith("tidemill")]
    wanted = row.line.format(folder=folder, **found)
    assert [line for line in lines if line.startswith(wanted)], ran.stderr
    return ran.returncode


@pytest.mark.parametrize("row", ROWS, ids=[row.what.replace(" ", "-") for row in ROWS])
def test_a_mistake_gets_one_clear_line(row: Row, tmp_path: Path) -> None:
    with row.before(tmp_path) as found:
        assert told(row, tmp_path, found) == row.code


def test_there_are_at_least_a_hundred() -> None:
    rows = [*ROWS, *POSTGRES]
    assert len({row.what for row in rows}) == len(rows) >= 100


def test_the_page_in_the_docs_is_the_table() -> None:
    assert PAGE.read_text() == text(), "python -m tests.bad_inputs.page writes it"
