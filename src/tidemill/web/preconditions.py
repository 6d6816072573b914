"""`If-Match` and `If-None-Match` (RFC 9110, 13): entity tags in headers, and what they say of a document."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote

from starlette.datastructures import Headers

from tidemill.model import Stored
from tidemill.web.problems import refused

_SAFE = "!#$&()*+,-./:;<=>?@[]^_`{|}~"
_TAG = re.compile(r'(W/)?("[^"]*")')


def tag(stored: Stored) -> str:
    """The etag as it stands in a header: quoted, and what a header cannot hold is percent-encoded."""
    etag = stored.etag
    return f'"{etag}"' if etag.isascii() and etag.isalnum() else f'"{quote(etag, safe=_SAFE)}"'


def unchanged(headers: Headers, current: Stored) -> bool:
    """The reader has this version already: `If-None-Match` names it (weakly compared)."""
    given = headers.getlist("if-none-match")
    return bool(given) and _names(given, current, weak=True)


def demand(headers: Headers, current: Stored | None) -> None:
    """Raises `Refused` with 412 unless the document is as a write's headers want it."""
    match, none_match = headers.getlist("if-match"), headers.getlist("if-none-match")
    if match and (current is None or not _names(match, current, weak=False)):
        there = "there is no such document" if current is None else "the document has changed since it was read"
        raise refused("stale", there, headers={} if current is None else {"ETag": tag(current)})
    if none_match and current is not None and _names(none_match, current, weak=True):
        raise refused("stale", "there is such a document", headers={"ETag": tag(current)})


def _names(given: Sequence[str], current: Stored, *, weak: bool) -> bool:
    text = ", ".join(given)
    if text.strip() == "*":
        return True
    return any(found == tag(current) for mark, found in _TAG.findall(text) if weak or not mark)
