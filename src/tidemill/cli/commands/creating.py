"""`new`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.options import examples


def add(app: typer.Typer) -> None:
    @app.command(epilog=examples("tidemill new shop", "tidemill new shop --dir ~/src/shop"))
    def new(
        name: Annotated[str, typer.Argument(help="What the app is called.")],
        folder: Annotated[Path | None, typer.Option("--dir", help="Where it goes; else a folder of its name.")] = None,
    ) -> int:
        """Write a project that runs, with tests."""
        from tidemill.cli.new import new as write

        return write(name, folder or Path(name))
