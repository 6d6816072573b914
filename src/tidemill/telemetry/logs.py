"""Log lines that people and machines can read, by the standard library alone.

One line per record: time, level, who (worker@replica), message id, text. On a console a traceback follows, indented;
in a pod each record is one JSON object. Line breaks in a text are shown as `\\n`, so that nothing a client sends can
forge a record. Passwords in URLs and keys in connection strings are masked. Bodies are never logged by Tidemill.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, TextIO, TypeAlias

from tidemill.core.scrub import scrub

Format: TypeAlias = Literal["console", "json"]

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "worker", "id", "color_message"}
_QUIET = ("asyncio", "azure", "httpx", "httpcore")
"""Loggers that tell each request, or each step of a loop."""


def configure(
    format: Format = "console", level: str = "INFO", *, replica: str = "", stream: TextIO | None = None
) -> None:
    """Send every log record of the process to `stream` (stderr) in this format. Call it before the user's code is
    imported: a `logging.basicConfig` there then changes nothing, a `dictConfig` still has its way."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines(replica) if format == "json" else Console(replica))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


class Console(logging.Formatter):
    """`2026-11-23 02:16:01.123 INFO    bill@replica-1 [4711] text`, local time."""

    def __init__(self, replica: str = "") -> None:
        super().__init__()
        self._replica = replica

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")[:23]
        who = _text(record, "worker") or record.name
        where = f"@{self._replica}" if self._replica else ""
        id = f" [{_one_line(_text(record, 'id'))}]" if _text(record, "id") else ""
        line = f"{at} {record.levelname:<7} {who}{where}{id} {_one_line(record.getMessage())}"
        fields = "".join(f" {name}={value}" for name, value in _extra(record))
        trace = "".join(f"\n    {part}" for part in self._trace(record).splitlines())
        return scrub(line + _one_line(fields) + trace)

    def _trace(self, record: logging.LogRecord) -> str:
        return self.formatException(record.exc_info) if record.exc_info else record.exc_text or ""


class JsonLines(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, worker, replica, id, text, error, and what was given as
    `extra=`."""

    def __init__(self, replica: str = "") -> None:
        super().__init__()
        self._replica = replica

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, object] = dict(_extra(record))
        fields |= {"time": at.replace("+00:00", "Z"), "level": record.levelname.lower(), "logger": record.name}
        for name, value in (
            ("worker", _text(record, "worker")),
            ("replica", self._replica),
            ("id", _text(record, "id")),
        ):
            if value:
                fields[name] = scrub(value)
        fields["text"] = scrub(record.getMessage())
        if record.exc_info:
            fields["error"] = scrub(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False, default=str)


def _text(record: logging.LogRecord, name: str) -> str:
    value = getattr(record, name, None)
    return "" if value is None else str(value)


def _extra(record: logging.LogRecord) -> Iterator[tuple[str, str | int | float | bool]]:
    """What the caller added: scalars only."""
    for name, value in vars(record).items():
        if name not in _STANDARD and isinstance(value, str | int | float | bool):
            yield name, scrub(value) if isinstance(value, str) else value


def _one_line(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
