"""An app and its databases, opened for one command that looks or decides."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeVar

from tidemill import settings as settings_module
from tidemill.app.worker import Declared
from tidemill.cli.target import find
from tidemill.engine.clock import SystemClock
from tidemill.engine.places import Places, worked
from tidemill.locate import locate
from tidemill.settings import DEV_DATABASE

T = TypeVar("T")


def with_places(
    target: str | None, options: Mapping[str, object], work: Callable[[Declared, Places], Awaitable[T]]
) -> T:
    """Find the app, open its databases, do the work, close them.

    Without a word about a database, the file of `tidemill dev` is taken if it is there; none is made.
    """
    folder = Path.cwd()
    defaults = {"database": DEV_DATABASE} if (folder / DEV_DATABASE.removeprefix("sqlite:///")).exists() else {}
    settings = settings_module.load(os.environ, folder=folder, options=options, defaults=defaults)
    declared = find(target, folder).declared()
    settings.fit(declared)

    async def opened() -> T:
        places = locate(declared, settings, SystemClock(), None)
        try:
            await places.open()
            return await work(worked(declared, places), places)
        finally:
            await places.close()

    return asyncio.run(opened())
