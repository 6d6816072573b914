"""`chart`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import Json, Target, examples

Out = Annotated[str | None, typer.Option("--out", help="The folder; else `chart` of [deploy], else chart.")]
Check = Annotated[bool, typer.Option("--check", help="Write nothing; 1 if the folder is not what would be written.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what was changed by hand.")]
ChartVersion = Annotated[
    str | None, typer.Option("--version", help="The project's version; else as in pyproject.toml.")
]
ProbesFrom = Annotated[
    list[str] | None,
    typer.Option("--probes-from", help="Write nothing; recommend numbers from what this replica measured. Repeatable."),
]


def add(app: typer.Typer) -> None:
    @app.command(
        epilog=examples(
            "tidemill chart",
            "tidemill chart avalon.app:app --out deploy/chart",
            "tidemill chart --check",
            "tidemill chart --probes-from http://127.0.0.1:8081",
        )
    )
    def chart(
        target: Target = None,
        out: Out = None,
        check: Check = False,
        force: Force = False,
        as_json: Json = False,
        version: ChartVersion = None,
        probes_from: ProbesFrom = None,
    ) -> int:
        """Write the app as a Helm chart: a Deployment for each group, probes, values with a strict schema."""
        if probes_from:
            from tidemill.cli.probes import show

            return show(probes_from, as_json=as_json)
        from tidemill.cli.chart import make

        return make(target, out=out, said_version=version, check=check, force=force, as_json=as_json)
