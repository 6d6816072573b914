"""Each row of the table gets its line, its exit code and no traceback; the page in the docs is the table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bad_inputs.page import PAGE, text
from tests.bad_inputs.table import APP, GOOD, ROWS, Row

SETTINGS = {
    "TIDEMILL_HEALTH_HOST": "127.0.0.1",
    "TIDEMILL_HEALTH_PORT": "0",
    "TIDEMILL_API_HOST": "127.0.0.1",
    "TIDEMILL_API_PORT": "0",
}


def environ(row: Row) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("TIDEMILL_", "COV", "PORT"))}
    return plain | SETTINGS | dict(row.env)


@pytest.mark.parametrize("row", ROWS, ids=[row.what.replace(" ", "-") for row in ROWS])
def test_a_mistake_gets_one_clear_line(row: Row, tmp_path: Path) -> None:
    for name, content in {"app.py": APP, **row.files}.items():
        (tmp_path / name).write_text(content)
    with row.before(tmp_path) as found:
        words = [word.format(good=GOOD, **found) for word in row.words.split()]
        ran = subprocess.run(
            [sys.executable, "-m", "tidemill", *words],
            cwd=tmp_path,
            env=environ(row),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert "Traceback" not in ran.stdout + ran.stderr
    told = [line.partition(": ")[2] for line in ran.stderr.splitlines() if line.startswith("tidemill")]
    wanted = row.line.format(folder=tmp_path, **found)
    assert [line for line in told if line.startswith(wanted)], ran.stderr
    assert ran.returncode == row.code


def test_there_are_at_least_sixty() -> None:
    assert len({row.what for row in ROWS}) == len(ROWS) >= 60


def test_the_page_in_the_docs_is_the_table() -> None:
    assert PAGE.read_text() == text(), "python -m tests.bad_inputs.page writes it"
