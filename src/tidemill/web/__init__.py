"""What a web API needs: the documents of a collection as a router, and the health page on the API's own port.

`documents` and `health` are loaded when they are first named, so that only who uses them loads FastAPI.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = ["documents", "health"]

_HOMES = (("documents", "tidemill.web.router"), ("health", "tidemill.web.health_page"))


def __getattr__(name: str) -> Any:
    for known, module in _HOMES:
        if name == known:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'tidemill.web' has no attribute {name!r}")
