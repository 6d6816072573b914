"""The example of the document API does what it says."""

from __future__ import annotations

import pytest

from examples.documents_api import main


async def test_documents_api(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    said = [line.split(" ", 3) for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in said] == ["201", "409", "412", "200", "200", "200"]
    assert said[-1][3] == '{"name":"shopping","count":3}'
