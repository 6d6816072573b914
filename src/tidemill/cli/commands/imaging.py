"""`image`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import Json, Target, examples

Push = Annotated[bool, typer.Option("--push", help="Push it when the check inside it has passed.")]
Write = Annotated[bool, typer.Option("--write", help="Only write Dockerfile and .dockerignore.")]
Force = Annotated[bool, typer.Option("--force", help="Write over files that are not ours.")]
AllowDirty = Annotated[bool, typer.Option("--allow-dirty", help="Push though files differ from the commit.")]
Image = Annotated[str | None, typer.Option("--image", help="Registry and name: registry.example.com/team/shop.")]
Tag = Annotated[str, typer.Option("--tag", help="Else version and commit: 1.4.0-3f2a9c1d04be.", show_default=False)]
Groups = Annotated[
    list[str] | None, typer.Option("--group", "-g", help="An image of this group, with its extras; may be repeated.")
]
Base = Annotated[str | None, typer.Option("--base", help="The image to build on: a Debian with Python.")]
Program = Annotated[str | None, typer.Option("--engine", help="docker or podman; else whichever is there.")]
Network = Annotated[str, typer.Option("--network", help="Of the build: host, if builds have none.", show_default=False)]
Platform = Annotated[str, typer.Option("--platform", help="Of the nodes: linux/amd64.", show_default=False)]
Ca = Annotated[Path | None, typer.Option("--ca", help="Certificates that pip trusts during the build.")]
PipConf = Annotated[Path | None, typer.Option("--pip-conf", help="pip's settings during the build: a private index.")]
Env = Annotated[
    list[str] | None, typer.Option("--env", "-e", help="NAME or NAME=VALUE for the check in the image; repeatable.")
]


def add_image(app: typer.Typer) -> None:
    @app.command(
        epilog=examples(
            "tidemill image",
            "tidemill image shop.app:app --push --image registry.example.com/team/shop",
            "tidemill image --env TIDEMILL_DATABASE=postgresql://db/shop",
            "tidemill image --write",
        )
    )
    def image(
        target: Target = None,
        push: Push = False,
        write: Write = False,
        force: Force = False,
        allow_dirty: AllowDirty = False,
        name: Image = None,
        tag: Tag = "",
        groups: Groups = None,
        base: Base = None,
        engine: Program = None,
        network: Network = "",
        platform: Platform = "",
        ca: Ca = None,
        pip_conf: PipConf = None,
        environment: Env = None,
        as_json: Json = False,
    ) -> int:
        """Build the image that every group runs from, check the app inside it, and push it."""
        from tidemill.cli.image import Wanted, image_command

        wanted = Wanted(
            target,
            push=push,
            write=write,
            force=force,
            allow_dirty=allow_dirty,
            tag=tag,
            groups=tuple(groups or ()),
            engine=engine,
            network=network,
            platform=platform,
            ca=ca,
            pip_conf=pip_conf,
            environment=tuple(environment or ()),
            options={"image": name, "base": base},
        )
        return image_command(wanted, as_json=as_json)
