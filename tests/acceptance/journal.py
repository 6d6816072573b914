"""What handlers write down where a kill cannot reach it: one line each, whole or not at all.

The clock is the machine's monotonic one, the same for all processes, so that lines of several can be put in order.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Line:
    """`at` in monotonic seconds of the machine; `process` is a pid; `words` what was noted."""

    at: float
    process: int
    words: tuple[str, ...]


class Journal:
    """A file that any number of processes append to."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def note(self, *words: object) -> None:
        """One line of these words (no spaces in them)."""
        line = " ".join([f"{time.monotonic():.4f}", str(os.getpid()), *map(str, words)]) + "\n"
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    def lines(self, *first: str) -> list[Line]:
        """All lines so far whose words begin with these."""
        if not self.path.exists():
            return []
        found = []
        for text in self.path.read_text().splitlines():
            at, process, *words = text.split(" ")
            if tuple(words[: len(first)]) == first:
                found.append(Line(float(at), int(process), tuple(words)))
        return found
