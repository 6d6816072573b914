"""`deploy`, `rollback`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import Json, Target, examples

Image = Annotated[
    str, typer.Option("--image", help="One that was pushed, NAME@sha256:…; else it is built.", show_default=False)
]
Release = Annotated[str | None, typer.Option("--release", help="Helm's name for it; else the app's.")]
Space = Annotated[str | None, typer.Option("--namespace", "-n", help="Of Kubernetes; else kubectl's.")]
Context = Annotated[str, typer.Option("--context", help="Of the kubeconfig; else kubectl's.", show_default=False)]
Values = Annotated[list[Path] | None, typer.Option("--values", "-f", help="A file of values; may be repeated.")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="One value, as Helm reads it; may be repeated.")]
Timeout = Annotated[str, typer.Option("--timeout", help="For which it may take to come up.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print the manifests; nothing is built or asked.")]
Keep = Annotated[bool, typer.Option("--no-rollback", help="Leave it as it is if it does not come up.")]
Create = Annotated[bool, typer.Option("--create-namespace", help="Make the namespace if it is not there.")]
AllowDirty = Annotated[bool, typer.Option("--allow-dirty", help="Push though files differ from the commit.")]
Env = Annotated[
    list[str] | None, typer.Option("--env", "-e", help="NAME or NAME=VALUE for the check in the image; repeatable.")
]
Revision = Annotated[
    int | None, typer.Argument(min=1, help="To go back to; else the one before the last.", show_default=False)
]


def add(app: typer.Typer) -> None:
    _add_deploy(app)
    _add_rollback(app)


def _add_deploy(app: typer.Typer) -> None:
    @app.command(
        epilog=examples(
            "tidemill deploy",
            "tidemill deploy --image registry.example.com/team/shop@sha256:… -f production.yaml -n shop",
            "tidemill deploy --dry-run",
        )
    )
    def deploy(
        target: Target = None,
        image: Image = "",
        release: Release = None,
        namespace: Space = None,
        context: Context = "",
        values: Values = None,
        sets: Sets = None,
        timeout: Timeout = "10m",
        dry_run: DryRun = False,
        keep: Keep = False,
        create_namespace: Create = False,
        allow_dirty: AllowDirty = False,
        environment: Env = None,
        as_json: Json = False,
    ) -> int:
        """Build, push, install and watch; says why if it does not come up, and brings back what ran before."""
        from tidemill.cli.asked import span
        from tidemill.cli.deploy import Wanted
        from tidemill.cli.deploy import deploy as run

        wanted = Wanted(
            target, image, release, namespace, context, tuple(values or ()), tuple(sets or ()),
            span("--timeout", timeout), dry_run, keep, create_namespace, allow_dirty, tuple(environment or ()),
        )  # fmt: skip
        return run(wanted, as_json=as_json)


def _add_rollback(app: typer.Typer) -> None:
    @app.command(epilog=examples("tidemill rollback", "tidemill rollback 3 -n shop"))
    def rollback(
        revision: Revision = None,
        release: Release = None,
        namespace: Space = None,
        context: Context = "",
        timeout: Timeout = "10m",
        as_json: Json = False,
    ) -> int:
        """Bring back what ran before, or the revision that is named, and watch it come up."""
        from tidemill.cli.asked import span
        from tidemill.cli.deploy import Wanted
        from tidemill.cli.deploy import rollback as run

        wanted = Wanted(None, "", release, namespace, context, limit=span("--timeout", timeout))
        return run(wanted, revision or 0, as_json=as_json)
