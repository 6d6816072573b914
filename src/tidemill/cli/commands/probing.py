"""`probes`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import Json, examples

Urls = Annotated[list[str], typer.Argument(help="Where the probes of running replicas answer: http://host:8081")]


def add_probes(app: typer.Typer) -> None:
    @app.command(
        epilog=examples("tidemill probes http://127.0.0.1:8081", "tidemill probes http://10.0.0.7:8081 --json")
    )
    def probes(urls: Urls, as_json: Json = False) -> int:
        """Recommend probe numbers and time limits from what replicas measured."""
        from tidemill.cli.probes import show

        return show(urls, as_json=as_json)
