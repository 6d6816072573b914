"""Every line that the product logs about itself stands in `docs/troubleshooting.md`, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from tidemill.telemetry import facts

PAGE = Path(__file__).parent.parent / "docs" / "troubleshooting.md"


def test_each_line_of_the_log_is_explained() -> None:
    table = PAGE.read_text().partition("## Lines in the log")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| `([^`]+)` \|", table, re.M)
    assert sorted(explained) == sorted(facts._SENTENCES.values())
