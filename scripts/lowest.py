"""Print each direct requirement of these extras at its lowest allowed version, as constraints for pip.

python scripts/lowest.py api cli postgres > lowest.txt && pip install -c lowest.txt 'tidemill[api,cli,postgres]'
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

REQUIREMENT = re.compile(r"^([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+)$")


def lowest(project: dict[str, object], extras: Sequence[str]) -> Iterator[str]:
    """`name==version` for each; a requirement without a lower bound is a mistake of ours."""
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)
    wanted = [*_texts(project["dependencies"]), *(text for extra in extras for text in _texts(optional[extra]))]
    for text in wanted:
        found = REQUIREMENT.match(text)
        if found is None:
            raise SystemExit(f"pyproject.toml: {text!r} names no lowest version; write name>=version")
        yield f"{found[1]}=={found[2]}"


def _texts(value: object) -> list[str]:
    assert isinstance(value, list)
    return [str(text) for text in value]


if __name__ == "__main__":
    file = Path(__file__).parent.parent / "pyproject.toml"
    print("\n".join(lowest(tomllib.loads(file.read_text())["project"], sys.argv[1:])))
