"""The rows that need the double of Cosmos DB."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_inputs.cosmos import COSMOS
from tests.bad_inputs.table import Row
from tests.bad_inputs.test_bad_inputs import told


@pytest.mark.parametrize("row", COSMOS, ids=[row.what.replace(" ", "-") for row in COSMOS])
def test_a_mistake_gets_one_clear_line(row: Row, tmp_path: Path) -> None:
    with row.before(tmp_path) as found:
        assert told(row, tmp_path, found) == row.code
