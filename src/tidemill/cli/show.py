"""Tables and JSON: aligned text in a pipe, drawn tables on a terminal, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime
from typing import Any

Row = Sequence[object]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; a table without rows says so."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def cells(self) -> list[list[str]]:
        return [["" if cell is None else _one_line(str(cell)) for cell in row] for row in self.rows]


def table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Print rows under columns, or that there are none."""
    show([Table(title, columns, rows)])


def show(pieces: Iterable[Table | str]) -> None:
    """Print tables and lines: drawn on a terminal, as aligned text in a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console()
        for piece in pieces:
            console.print(drawn(piece))
        return
    for piece in pieces:
        print(piece if isinstance(piece, str) else _aligned(piece))


def drawn(piece: Table | str) -> Any:
    """The same for a terminal, as rich draws it."""
    from rich.table import Table as Drawn
    from rich.text import Text

    if isinstance(piece, str):
        return Text(piece)
    if not piece.rows:
        return Text(f"{piece.title}: none")
    found = Drawn(*piece.columns, title=piece.title, title_justify="left")
    for row in piece.cells():
        found.add_row(*map(Text, row))
    return found


def _aligned(piece: Table) -> str:
    rows = piece.cells()
    if not rows:
        return f"{piece.title}: none"
    widths = [max(map(len, column)) for column in zip(piece.columns, *rows, strict=True)]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [[c.upper() for c in piece.columns], *rows]
    ]
    return "\n".join([f"{piece.title}:", *lines])


def print_json(value: object) -> None:
    """Print a value of ours as JSON."""
    print(json.dumps(value, default=_plain, ensure_ascii=False, indent=2))


def instant(at: float | None) -> str:
    """Seconds since the epoch as people read them, UTC."""
    return "" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def length(seconds: float | None) -> str:
    """Seconds as people read them."""
    if seconds is None:
        return ""
    return (
        f"{seconds:.1f} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.0f} h"
    )


def _plain(value: Any) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _one_line(text: str) -> str:
    shown = text if text.isprintable() else "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= 120 else shown[:119] + "…"
