"""`workers`, `status` and `health`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import DatabaseUrl, Groups, Json, StoreUrl, Target, examples


def add(app: typer.Typer) -> None:
    @app.command(epilog=examples("tidemill workers", "tidemill workers avalon.app:app --json"))
    def workers(target: Target = None, groups: Groups = None, as_json: Json = False) -> int:
        """List the workers and what starts each."""
        from tidemill.cli.reading import list_workers

        return list_workers(target, groups or [], as_json=as_json)

    @app.command(epilog=examples("tidemill status", "tidemill status --watch", "tidemill status --json"))
    def status(
        target: Target = None,
        watch: Annotated[bool, typer.Option("--watch", "-w", help="Again and again, until Ctrl-C.")] = False,
        interval: Annotated[float, typer.Option("--interval", help="Seconds between two looks of --watch.")] = 2.0,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
        as_json: Json = False,
    ) -> int:
        """Show replicas, partitions, queues and timers."""
        options = {"database": database, "store": store}
        if watch:
            from tidemill.cli.watch import watch_status

            return watch_status(target, options, interval=interval, as_json=as_json)
        from tidemill.cli.reading import show_status

        return show_status(target, options, as_json=as_json)

    @app.command(epilog=examples("tidemill health", "tidemill health --probe ready --port 8081"))
    def health() -> int:
        """Ask the probe of a running replica."""
        from tidemill.cli.health import main as ask

        return ask([])  # its options are read before this is imported
