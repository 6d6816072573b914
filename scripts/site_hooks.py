"""What the site's pages get when it is built: the reference of the commands, and no links that leave the docs.

Links into the source tree mean something in a clone; on the site their text stands alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from mkdocs.structure.files import File, Files

OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./[^)]*\)")


def on_files(files: Files, *, config: Any) -> Files:
    files.append(File.generated(config, "commands.md", content=commands()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(r"\1", markdown)


def commands() -> str:
    """The help of each command, as `tidemill COMMAND --help` prints it."""
    import click
    import typer

    from tidemill.cli.main import build
    from tidemill.signals import Signals

    root: Any = typer.main.get_command(build(Signals()))
    pages = ["# Commands\n\nAs `--help` prints them.\n"]
    for path, command in _walk(root, "tidemill"):
        context = click.Context(command, info_name=path)  # typer's commands take the plain context too
        pages.append(f"## {path}\n\n```text\n{command.get_help(context).strip()}\n```\n")
    return "\n".join(pages)


def _walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        if not below.hidden:
            yield from _walk(below, f"{path} {name}")
