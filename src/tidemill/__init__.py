"""Tidemill: background workers for Python that Kubernetes can trust.

Names are imported when they are first used: a program that only imports `tidemill` loads nothing else, and the
command line can catch SIGTERM before anything heavy is read. What is exported stands in `__init__.pyi`.
"""

from importlib import import_module

_EXPORTS = {
    "App": "tidemill.app.app",
    "Backoff": "tidemill.core.backoff",
    "Change": "tidemill.app.values",
    "Collection": "tidemill.app.handles",
    "Context": "tidemill.app.context",
    "Dead": "tidemill.model",
    "Deletion": "tidemill.app.values",
    "Depends": "tidemill.app.depends",
    "Document": "tidemill.app.values",
    "Done": "tidemill.model",
    "Health": "tidemill.core.health",
    "Later": "tidemill.model",
    "Proceed": "tidemill.app.middleware",
    "Queue": "tidemill.app.handles",
    "Reject": "tidemill.errors",
    "Retry": "tidemill.errors",
    "Router": "tidemill.app.router",
    "Snooze": "tidemill.errors",
    "Table": "tidemill.app.handles",
    "command": "tidemill.app.command",
    "errors": "tidemill.errors",
    "run": "tidemill.run",
    "wait": "tidemill.app.client",
    "webhook": "tidemill.app.webhook",
}

__all__ = list(_EXPORTS)
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'tidemill' has no attribute {name!r}")
    module = import_module(_EXPORTS[name])
    # Kept, because the import has just put the module `tidemill.run` where the function `run` belongs.
    found = globals()[name] = module if name == "errors" else getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
