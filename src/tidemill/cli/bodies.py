"""Bodies as they are given on the command line: a word, standard input, or a file; one message or one for each line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tidemill.core.codec import name_of
from tidemill.errors import BadOption, ConfigurationError, NoJson, TidemillError

LINES = (".jsonl", ".ndjson")
"""Files whose every line is a message."""

TOLD = 5
"""So many mistakes are told, more are counted."""


@dataclass(frozen=True, slots=True)
class Bodies:
    """Where bodies come from, to be read more than once. `many`: one for each line, each told by its number."""

    source: str
    read: Callable[[], Iterable[tuple[int, bytes]]]
    many: bool

    def place(self, line: int) -> str:
        return f"{self.source}, line {line}" if self.many else self.source


def bodies(given: str) -> Bodies:
    """`-`: standard input, a message for each line. `@file.jsonl`: its lines. `@file`: all of it. Else the word."""
    if given == "-":
        lines = list(_lines(sys.stdin.read().encode().splitlines()))  # kept: it can be read once
        return Bodies("standard input", lambda: lines, many=True)
    if not given.startswith("@"):
        return Bodies("BODY", lambda: [(1, given.encode())], many=False)
    path = Path(given[1:])
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{given}: {error.strerror or error}") from None
    if path.suffix in LINES:
        return Bodies(given, lambda: _lines_of(path), many=True)
    return Bodies(given, lambda: [(1, path.read_bytes())], many=False)


def checked(found: Bodies, type_: object, check: Callable[[int, bytes], None]) -> int:
    """How many messages there are. Raises `ConfigurationError` with the lines that do not fit; none is sent then."""
    count = wrong = 0
    told: list[str] = []
    for number, body in found.read():
        count += 1
        try:
            check(number, body)
        except BadOption as error:  # the same for every line
            raise ConfigurationError(str(error)) from None
        except TidemillError as error:
            wrong += 1
            if len(told) < TOLD:
                told.append(f"{found.place(number)}: {error}{_advice(error, found, type_)}")
    if not count:
        raise ConfigurationError(f"{found.source} is empty: there is nothing to send")
    if wrong > TOLD:
        told.append(f"{found.source}: and {wrong - TOLD} more of {count} lines do not fit; nothing was sent")
    if told:
        raise ConfigurationError(*told)
    return count


def _advice(error: TidemillError, found: Bodies, type_: object) -> str:
    if isinstance(error, NoJson) and not found.many:
        return """; write JSON, quoted for your shell: '{"n": 1}', or '"text"'"""
    return f" (the queue takes {name_of(type_)})" if not str(error).startswith("queue ") else ""


def _lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from _lines(file)


def _lines(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    for number, line in enumerate(lines, 1):
        text = line.removeprefix(b"\xef\xbb\xbf").strip()
        if text:
            yield number, text
