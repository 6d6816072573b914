"""Tables and JSON: aligned text in a pipe, drawn tables on a terminal, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any

Row = Sequence[object]


def table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Print rows under columns, or that there are none."""
    texts = [["" if cell is None else _one_line(str(cell)) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _draw(title, columns, texts)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    print(f"{title}:" if texts else f"{title}: none")
    for row in [[c.upper() for c in columns], *texts] if texts else []:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _draw(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*columns, title=title, title_justify="left")
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console().print(drawn if rows else f"{title}: none")


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
