"""The test vectors of `docs/wire.md`: what is stored is read, and written again as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tidemill.adapters.storage_queue import envelope
from tidemill.core import lease, member, park, timer

FOLDER = Path(__file__).parent.parent / "docs" / "wire"

THERE_AND_BACK: Mapping[str, Callable[[Any], Any]] = {
    "lease": lambda value: lease.from_value(value).to_value(),
    "member": lambda value: member.from_value(value).to_value(),
    "member-behind": lambda value: member.from_value(value).to_value(),
    "gravestone": lambda value: member.from_value(value).to_value(),
    "timer": lambda value: timer.from_value(value).to_value(),
    "park": lambda value: park.to_value(park.from_value(value), value["write"]),
    "storage-message": lambda value: storage(value),
    "storage-letter": lambda value: storage(value),
}


def storage(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A message of Azure Storage Queue, read and written."""
    found = envelope.read(value["text"], True)
    text = envelope.wrapped(envelope.Content(found.body, found.line), True)
    return {"text": text, "line": found.line, "body": found.body.decode()}


def test_each_vector_is_tried() -> None:
    assert {path.stem for path in FOLDER.glob("*.json")} == set(THERE_AND_BACK)


@pytest.mark.parametrize("name", THERE_AND_BACK)
def test_a_record_is_read_and_written_as_it_stands(name: str) -> None:
    stored = json.loads((FOLDER / f"{name}.json").read_text())
    assert json.loads(json.dumps(THERE_AND_BACK[name](stored["value"]), default=list)) == stored["value"]
