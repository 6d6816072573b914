"""`config` and `check`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import DatabaseUrl, Groups, Json, StoreUrl, Target, Workers, examples


def add(app: typer.Typer) -> None:
    @app.command(epilog=examples("tidemill config", "tidemill config avalon.app:app --json"))
    def config(
        target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None, as_json: Json = False
    ) -> int:
        """Show every setting and where it comes from."""
        from tidemill.cli.config import show_config

        return show_config(target, {"database": database, "store": store}, as_json=as_json)

    @app.command(epilog=examples("tidemill check", "tidemill check --online --database sqlite:///work.db"))
    def check(
        target: Target = None,
        groups: Groups = None,
        workers: Workers = None,
        online: Annotated[bool, typer.Option("--online", help="Open the databases too, as a start does.")] = False,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
        as_json: Json = False,
    ) -> int:
        """Find what is wrong before a replica starts."""
        from tidemill.cli.check import check as look

        options = {"database": database, "store": store, "groups": groups, "workers": workers}
        return look(target, options, look_online=online, as_json=as_json)
