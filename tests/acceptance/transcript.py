"""A page of the docs as a transcript: commands and the output they give, run in order.

`console` blocks hold commands (`$ …`, a here-document goes on to its end) and what they print; `dev` blocks what the
command in the background (`… &`) prints meanwhile. In a line `…` stands for anything; a line `…` for any lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

BLOCK = re.compile(r"^```(console|dev)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Step:
    """A command ("" in a `dev` block) and the lines that are expected."""

    command: str
    lines: tuple[str, ...]


def steps(page: str) -> Iterator[Step]:
    for kind, text in BLOCK.findall(page):
        if kind == "dev":
            yield Step("", tuple(text.splitlines()))
        else:
            yield from _commands(text.splitlines())


def _commands(lines: Sequence[str]) -> Iterator[Step]:
    rest = list(lines)
    while rest:
        command = rest.pop(0).removeprefix("$ ")
        if "<<'EOF'" in command:
            end = rest.index("EOF") + 1
            command, rest = "\n".join([command, *rest[:end]]), rest[end:]
        expected = []
        while rest and not rest[0].startswith("$ "):
            expected.append(rest.pop(0))
        yield Step(command, tuple(expected))


def pattern(lines: Sequence[str]) -> re.Pattern[str]:
    """What these lines match: whole lines, in this order."""
    parts = [r"(?:.*\n)*?" if line == "…" else _line(line) + r"\n" for line in lines]
    return re.compile("".join(parts))


def _line(line: str) -> str:
    return ".*".join(re.sub(r"(\\ )+", r"\\s+", re.escape(piece)) for piece in line.split("…"))
