"""`run` and `dev`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import (
    ApiHost,
    ApiPort,
    DatabaseUrl,
    Grace,
    Groups,
    HealthHost,
    HealthPort,
    LameDuck,
    LogFormat,
    LogLevel,
    Namespace,
    ProfileName,
    StoreUrl,
    Target,
    Workers,
    examples,
)
from tidemill.signals import Signals


def add(app: typer.Typer, signals: Signals) -> None:
    @app.command(
        epilog=examples(
            "tidemill run avalon.app:app",
            "tidemill run --group queues --group timers --database sqlite:///work.db",
            "TIDEMILL_DATABASE=sqlite:///work.db tidemill run",
        )
    )
    def run(
        context: typer.Context,
        target: Target = None,
        groups: Groups = None,
        workers: Workers = None,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
        namespace: Namespace = None,
        grace: Grace = None,
        lame_duck: LameDuck = None,
        health_host: HealthHost = None,
        health_port: HealthPort = None,
        api_host: ApiHost = None,
        api_port: ApiPort = None,
        log_format: LogFormat = None,
        log_level: LogLevel = None,
        profile: ProfileName = None,
    ) -> int:
        """Run workers until SIGTERM or Ctrl-C."""
        from tidemill.cli.running import run as start

        options = {name: value for name, value in context.params.items() if name != "target"}
        return start(target, options, signals)

    @app.command(epilog=examples("tidemill dev", "tidemill dev avalon.app:app --api-port 9000"))
    def dev(
        target: Target = None,
        database: DatabaseUrl = None,
        health_port: HealthPort = None,
        api_port: ApiPort = None,
        log_level: LogLevel = None,
        debug: Annotated[bool, typer.Option("--debug", help="No time-outs: a debugger's pause loses nothing.")] = False,
        reload: Annotated[bool, typer.Option("--reload/--no-reload", help="Start anew when a file changes.")] = True,
        supervised: Annotated[bool, typer.Option("--supervised", hidden=True)] = False,
    ) -> int:
        """Run everything here, on an SQLite file; anew when a file changes."""
        from tidemill.cli.running import dev as start

        options: dict[str, object] = {"database": database, "health_port": health_port, "api_port": api_port}
        options |= {"log_level": log_level, "debug": debug or None}
        return start(target, options, signals, reload=reload and not debug, supervised=supervised)
