"""What stands in a message: the body alone, or behind a line that says more (`docs/wire.md` is the contract).

A plain message is the body and nothing else, as Functions and WebJobs write and read it. An envelope is one line of
JSON, which has `tidemill` in it, and then the body as it is: no second encoding takes room from the 64 KiB, and no
number or blank of the body changes. A plain message becomes an envelope when something has to be recorded about it.
Where encoding is base64, all of that is base64 once more, for the service takes only what XML can hold.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tidemill.model import Json

LARGEST = 65_536
"""Bytes of text in a message at most."""

RESERVE = 2_048
"""What a body leaves free for the line before it."""

RECORDS = 160
"""Bytes of text that a send leaves free for what is recorded later: attempts, hand-outs, the moments of a delay."""

DROPPED = ("error", "reason", "dedup", "headers", "key", "sent_at")
"""What is left out of a line that has no room, in this order. Never the body."""

KEPT = ("id", "priority", "attempt", "uncounted", "due", "until", "attempts", "at", "order", *DROPPED)
"""Fields that we know. What others have written into a line goes after those of `DROPPED`."""

CUT = ("error", "reason")
"""Of these as much stays as there is room for."""

CODED = "coding"
SANE = 1 << 53
_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # \r too: XML would make it \n


@dataclass(frozen=True, slots=True)
class Content:
    """The line of an envelope without `tidemill`, empty for a plain message; and the body. Anybody may have written it:
    a field of another kind than is meant is read as if it were missing."""

    body: bytes
    line: Mapping[str, Json] = field(default_factory=dict)

    def text(self, name: str) -> str:
        found = self.line.get(name)
        return found.encode(errors="replace").decode() if isinstance(found, str) else ""

    def number(self, name: str, otherwise: float = 0.0) -> float:
        found = self.line.get(name)
        return float(found) if isinstance(found, int | float) and abs(found) < SANE else otherwise

    def whole(self, name: str) -> int:
        return int(self.number(name))

    @property
    def key(self) -> str | None:
        return self.text("key") if isinstance(self.line.get("key"), str) else None

    def headers(self) -> dict[str, str]:
        found = self.line.get("headers")
        pairs = found.items() if isinstance(found, Mapping) else ()
        return {name: value for name, value in pairs if isinstance(value, str)}


def room(in_base64: bool) -> int:
    """Bytes that line and body may have together."""
    return LARGEST // 4 * 3 if in_base64 else LARGEST


def plain(body: bytes, in_base64: bool) -> str | None:
    """The text of a body alone; None where the text cannot hold it, or would be taken for an envelope."""
    if _enveloped(body) is not None:
        return None
    return base64.b64encode(body).decode() if in_base64 else _readable(body)


def wrapped(content: Content, in_base64: bool) -> str:
    """The text of an envelope, as large as it comes."""
    line, body = {"tidemill": 1, **content.line}, content.body
    if not in_base64 and _readable(body) is None:
        line, body = {**line, CODED: "base64"}, base64.b64encode(body)
    whole = json.dumps(line, separators=(",", ":")).encode() + b"\n" + body
    return base64.b64encode(whole).decode() if in_base64 else whole.decode()


def fitted(content: Content, in_base64: bool) -> str | None:
    """The same, with as much left out of the line as it takes; None where not even the counts have room."""
    line = dict(content.line)
    others = (name for name in content.line if name not in KEPT)
    for name in (*DROPPED, *others, ""):
        text = wrapped(Content(content.body, line), in_base64)
        over = len(text.encode()) - LARGEST
        if over <= 0:
            return text
        said = line.pop(name, None)
        left = len(said) - (over * 3 // 4 + 3 if in_base64 else over) if isinstance(said, str) else 0
        if isinstance(said, str) and name in CUT and left > 0:
            return wrapped(Content(content.body, {**line, name: said[:left]}), in_base64)
    return None


def read(text: str, in_base64: bool) -> Content:
    """What a message holds, whoever wrote it: what is no base64 where that is expected is text as it stands."""
    raw, decoded = text.encode(), _decoded(text)
    found = _enveloped(raw) or (_enveloped(decoded) if decoded is not None else None)
    if found is None:
        return Content(decoded if in_base64 and decoded is not None else raw)
    body = _decoded(found.body.decode(errors="replace")) if found.line.get(CODED) == "base64" else None
    if body is None:
        return found
    return Content(body, {name: value for name, value in found.line.items() if name != CODED})


def _enveloped(raw: bytes) -> Content | None:
    first, end, body = raw.partition(b"\n")
    if not end or not first.startswith(b"{") or b'"tidemill"' not in first:
        return None
    try:
        line = json.loads(first)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or line.pop("tidemill", None) != 1:
        return None
    return Content(body, line)


def _decoded(text: str) -> bytes | None:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None


def _readable(body: bytes) -> str | None:
    """The body as text that XML keeps as it is."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if _XML.search(text) else text
