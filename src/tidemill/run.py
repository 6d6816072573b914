"""The composition root: from declarations and settings to a running replica, and back to nothing.

Order: everything that can be wrong with declarations, settings and ports is found first and told together (exit 2);
then databases, members, handlers, intake; then ready. SIGTERM at any moment leads through the same drain with
whatever was opened by then.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from pathlib import Path
from typing import Any

from tidemill import settings as settings_module
from tidemill.app.app import App
from tidemill.engine.home import tidy
from tidemill.errors import ConfigurationError
from tidemill.forwards import extended
from tidemill.locate import Adapters
from tidemill.replica import Replica
from tidemill.settings import Settings
from tidemill.signals import Signals

SWITCH_INTERVAL = 0.0005
"""Seconds between two offers of the GIL: busy `def` handlers must not make probes and renewals wait (measured:
4 busy handlers, probe p99 236 ms with Python's 5 ms, 33 ms with this)."""


def run(app: App, *, adapters: Adapters | None = None, **options: Any) -> int:
    """Run the app's workers until SIGTERM or Ctrl-C; the exit code (0 clean, 1 fault or overrun, 2 configuration).

    `options` are settings by name (`database="sqlite:///work.db"`, `groups=("queues",)`); what is not given comes
    from the environment, `tidemill.toml` and the defaults, as in `tidemill run`. Call it on the main thread.
    """
    signals = Signals()
    signals.install()
    try:
        folder = Path.cwd()
        loaded = settings_module.load(os.environ, folder=folder, options=options)
        return run_app(extended(app, folder), loaded, signals, adapters)
    except ConfigurationError as error:
        print(f"tidemill: {error}", file=sys.stderr)
        return 2
    finally:
        signals.restore()


def run_app(app: App, settings: Settings, signals: Signals, adapters: Adapters | None = None) -> int:
    """Run the groups that the settings choose; the exit code."""
    settings.fit(app.declared())
    tune()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(_run(app, settings, signals, adapters))
    finally:
        tidy(loop)  # asyncio.run would wait without end for a task that takes no cancellation
        asyncio.set_event_loop(None)


def tune() -> None:
    """Set the interpreter up for many short-lived values on three threads.

    Batches of messages live for milliseconds, but long enough to be taken for survivors: with Python's thresholds the
    collector went over everything again and again (measured: two fifths of the time of a busy feed). What was imported
    stays for good and is looked at no more.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _run(app: App, settings: Settings, signals: Signals, adapters: Adapters | None) -> int:
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    hurry = asyncio.Event()

    def look() -> None:
        if signals.count:
            told.set()
        if signals.count > 1:
            hurry.set()

    signals.notify(lambda: loop.call_soon_threadsafe(look))
    replica = Replica(app.declared(), settings, adapters)
    try:
        return await replica.live(told, hurry)
    finally:
        signals.notify(None)
