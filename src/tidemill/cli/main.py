"""The commands and their options. What a command does is imported when it runs, so that help and mistakes are quick.

Exit codes: 0 done, 1 it could not be done, 2 the user's mistake (one line on stderr, no traceback).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

import tidemill
from tidemill.cli.commands import (
    checking,
    creating,
    deploying,
    feeds,
    imaging,
    letters,
    probing,
    queues,
    reading,
    releasing,
    running,
    schema,
    timers,
)
from tidemill.cli.options import PLAIN, examples
from tidemill.signals import Signals


def build(signals: Signals) -> typer.Typer:
    """All commands; `signals` has been counting since the process began."""
    app = typer.Typer(
        name="tidemill",
        help="Background workers that Kubernetes can trust.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=examples("tidemill dev", "tidemill run avalon.app:app --group queues", "tidemill status --json"),
        **{**PLAIN, "add_completion": True},
    )
    _add_root(app)
    creating.add(app)
    running.add(app, signals)
    reading.add(app)
    checking.add(app)
    feeds.add(app)
    timers.add(app)
    letters.add(app)
    queues.add(app)
    schema.add(app)
    imaging.add_image(app)
    deploying.add(app)
    releasing.add(app)
    probing.add_probes(app)
    return app


def main(words: Sequence[str], signals: Signals) -> int:
    """Run one command; its exit code."""
    from tidemill.cli.told import exit_code

    command = typer.main.get_command(build(signals))
    return exit_code(lambda: command.main(list(words), prog_name="tidemill", standalone_mode=False), sys.stderr)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidemill {tidemill.__version__}")
        raise typer.Exit()


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the release.")]


def _add_root(app: typer.Typer) -> None:
    @app.callback()
    def root(version: Version = False) -> None: ...
