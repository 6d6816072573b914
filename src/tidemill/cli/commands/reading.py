"""`workers`, `status` and `health`."""

from __future__ import annotations

import typer

from tidemill.cli.options import DatabaseUrl, Groups, Json, StoreUrl, Target, examples


def add(app: typer.Typer) -> None:
    @app.command(epilog=examples("tidemill workers", "tidemill workers avalon.app:app --json"))
    def workers(target: Target = None, groups: Groups = None, as_json: Json = False) -> int:
        """List the workers and what starts each."""
        from tidemill.cli.reading import list_workers

        return list_workers(target, groups or [], as_json=as_json)

    @app.command(epilog=examples("tidemill status", "tidemill status --json --database sqlite:///work.db"))
    def status(
        target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None, as_json: Json = False
    ) -> int:
        """Show replicas, partitions, queues and timers."""
        from tidemill.cli.reading import show_status

        return show_status(target, {"database": database, "store": store}, as_json=as_json)

    @app.command(epilog=examples("tidemill health", "tidemill health --probe ready --port 8081"))
    def health() -> int:
        """Ask the probe of a running replica."""
        from tidemill.cli.health import main as ask

        return ask([])  # its options are read before this is imported
