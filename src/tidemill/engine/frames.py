"""Whose code a frame is, so that people are shown their own lines."""

from __future__ import annotations

import os
import sysconfig
import traceback
from types import FrameType
from typing import Final

import tidemill

_TIDEMILL: Final = os.path.dirname(tidemill.__file__) + os.sep
_INSTALLED: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("purelib", "platlib"))
_STANDARD: Final = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))

_LINE = 500
_TRACE = 4000
_DEEPEST = 20


def distance(filename: str) -> int:
    """How far a file is from the user: 0 their own, 1 an installed library, 2 the standard library or Tidemill."""
    if filename.startswith((_TIDEMILL, "<frozen ")):
        return 2
    if filename.startswith(_INSTALLED):
        return 1
    return 2 if filename.startswith(_STANDARD) else 0


def innermost(frame: FrameType | None) -> str:
    """`file:line` of the innermost frame that is nearest to the user, from this one outwards; "" without any."""
    best, found = 3, ""
    while frame is not None and best > 0:
        filename = frame.f_code.co_filename
        if (far := distance(filename)) < best:
            best, found = far, f"{filename}:{frame.f_lineno}"
        frame = frame.f_back
    return found


def where(error: BaseException) -> str:
    """`file:line` where the error was raised: of its innermost frame that is nearest to the user."""
    best, found = 3, ""
    for frame, number in traceback.walk_tb(error.__traceback__):
        if (far := distance(frame.f_code.co_filename)) <= best:
            best, found = far, f"{frame.f_code.co_filename}:{number}"
    return found


def alone(error: BaseException) -> BaseException:
    """The one error in a group of one, else the error itself: what a TaskGroup wraps keeps its meaning."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def line(error: BaseException) -> str:
    """An error in one line: "Type: message"."""
    name = type(error).__name__
    try:
        message = " ".join(str(error).split())
    except Exception:  # an error whose own str() fails must still be told
        message = "(its message cannot be shown)"
    return f"{name}: {message}"[:_LINE] if message else name


def trace(error: BaseException) -> str:
    """The traceback without the frames of Tidemill and the standard library, at most 4 kB; causes included."""
    try:
        told = traceback.TracebackException.from_exception(error, compact=True)
        part: traceback.TracebackException | None = told
        while part is not None:
            nearest = min((distance(f.filename) for f in part.stack), default=0)
            kept = [f for f in part.stack if distance(f.filename) <= max(nearest, 1)]
            part.stack = traceback.StackSummary.from_list(kept[-_DEEPEST:])
            part = part.__cause__ or part.__context__
        text = "".join(told.format())
    except Exception:  # a broken __str__ or source file: the line above is all there is
        return line(error)
    raw = text.encode()
    return text if len(raw) <= _TRACE else "…" + raw[-(_TRACE - 8) :].decode(errors="ignore")
