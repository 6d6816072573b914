"""What a journal of `start id n` and `end id n` says of the deliveries: each, twice, in which order."""

from __future__ import annotations

from tests.acceptance.journal import Line


def item(line: Line) -> tuple[str, int]:
    return line.words[1], int(line.words[2])


def doubles(lines: list[Line]) -> list[tuple[Line, Line]]:
    """First and second start of what was started twice."""
    first: dict[tuple[str, int], Line] = {}
    found = []
    for line in lines:
        if line.words[0] == "start":
            if item(line) in first:
                found.append((first[item(line)], line))
            first.setdefault(item(line), line)
    return found


def in_order(lines: list[Line]) -> bool:
    """The first ends of each key come in the order in which they were written."""
    seen: dict[str, int] = {}
    for line in lines:
        if line.words[0] == "end":
            key, n = item(line)
            if n > seen.get(key, -1) + 1:
                return False
            seen[key] = max(n, seen.get(key, -1))
    return True
