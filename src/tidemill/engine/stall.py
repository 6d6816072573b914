"""Where a silent loop is: read from another thread, while the loop cannot answer itself."""

from __future__ import annotations

import asyncio
import sys

from tidemill.engine.frames import innermost
from tidemill.engine.runners import TASK


def whereabouts(loop: asyncio.AbstractEventLoop, thread: int) -> tuple[str, str]:
    """The worker whose call the loop is in ("" if it is none), and `file:line` of the innermost frame of the user.

    What is read may change meanwhile: it is a hint for people, never a reason to act.
    """
    task = asyncio.current_task(loop)
    name = task.get_name() if task is not None else ""
    worker = name.removeprefix(TASK) if name.startswith(TASK) else ""
    return worker, innermost(sys._current_frames().get(thread))
