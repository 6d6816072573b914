"""`run` and `dev`: settings, logs, the user's module, then the replica."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from tidemill import settings as settings_module
from tidemill.cli.target import find
from tidemill.settings import DEV, Settings
from tidemill.signals import Signals
from tidemill.telemetry import logs


def run(target: str | None, options: Mapping[str, object], signals: Signals) -> int:
    """Run until told to stop; the exit code of the replica."""
    return _start(target, settings_module.load(os.environ, folder=Path.cwd(), options=options), signals)


def dev(target: str | None, options: Mapping[str, object], signals: Signals, *, reload: bool, supervised: bool) -> int:
    """Run everything here, with defaults for one machine: in a child that is started anew when a file changes, or
    (`supervised`: we are that child) right here."""
    if supervised:
        from tidemill.cli.reloading import end_with_parent

        end_with_parent()
    elif reload and _can_watch():
        from tidemill.cli.reloading import supervise

        return supervise(_words(target, options), Path.cwd(), signals)
    settings = settings_module.load(os.environ, folder=Path.cwd(), options=options, defaults=DEV)
    sys.stderr.write(f"tidemill dev: probes on http://{settings.health_host}:{settings.health_port}/health\n")
    return _start(target, settings, signals)


def _can_watch() -> bool:
    if find_spec("watchfiles"):
        return True
    sys.stderr.write("tidemill dev: no reload, for watchfiles is not installed: pip install 'tidemill[cli]'\n")
    return False


def _words(target: str | None, options: Mapping[str, object]) -> list[str]:
    """The command line of the same run."""
    said = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if value is not None]
    return [*([target] if target else []), *said]


def _start(target: str | None, settings: Settings, signals: Signals) -> int:
    # Before the user's module: its logging.basicConfig() then changes nothing, and what it logs is readable.
    logs.configure(settings.log_format, settings.log_level, replica=settings.replica)
    app = find(target, Path.cwd())
    settings.fit(app.declared())
    if signals.count:
        return 0
    from tidemill.run import run_app

    return run_app(app, settings, signals)
