"""Secrets out of texts that people read: passwords in URLs, keys in connection strings and queries."""

from __future__ import annotations

import re

_URL = re.compile(r"([A-Za-z][\w+.-]*://[^\s:/@]*:)[^\s\"'<>]+@")
_PAIR = re.compile(
    r"(?i)((?:password|passwd|pwd|secret|token|api[_-]?key|access[_-]?key|accountkey|sharedaccesskey|sig)\s*=\s*)"
    r"(?:\"[^\"]*\"|'[^']*'|[^\s;&,\"']+)"
)
MASK = "***"


def scrub(text: str) -> str:
    """The text with each password and key replaced by `***`. Rather too much than too little."""
    if "://" in text:
        text = _URL.sub(rf"\1{MASK}@", text)
    if "=" in text:
        text = _PAIR.sub(rf"\1{MASK}", text)
    return text
