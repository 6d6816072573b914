"""The rows that need Azurite."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bad_inputs.storage_queue import STORAGE_QUEUE
from tests.bad_inputs.table import Row
from tests.bad_inputs.test_bad_inputs import told
from tests.servers.azurite import NAME, Account


@pytest.mark.parametrize("row", STORAGE_QUEUE, ids=[row.what.replace(" ", "-") for row in STORAGE_QUEUE])
def test_a_mistake_gets_one_clear_line(row: Row, azurite: Account, tmp_path: Path) -> None:
    (tmp_path / "large.json").write_text(f'"{"x" * 50_000}"')
    found = {
        "queue": azurite.url(),
        "wrong": azurite.url(key="c2VjcmV0IGtleQ=="),
        "shown": f"azure-storage-queue://127.0.0.1:{azurite.server.port}/{NAME}",
        "prefix": azurite.prefix,
        "large": "large.json",
    }
    assert told(row, tmp_path, found) == row.code
