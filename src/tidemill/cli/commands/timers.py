"""`timer`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import PLAIN, DatabaseUrl, Json, StoreUrl, Target, examples

Name = Annotated[str, typer.Argument(help="The timer.", show_default=False)]


def add(app: typer.Typer) -> None:
    timers = typer.Typer(help="Timers and their next runs.", no_args_is_help=True, **PLAIN)
    _add_ls(timers)
    _add_acting(timers)
    _add_rename(timers)
    app.add_typer(timers, name="timer")


def _add_ls(timers: typer.Typer) -> None:
    @timers.command("ls", epilog=examples("tidemill timer ls", "tidemill timer ls avalon.app:app --json"))
    def ls(target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None, as_json: Json = False) -> int:
        """List the timers, their last run and their next."""
        from tidemill.cli.timers import list_timers

        return list_timers(target, {"database": database, "store": store}, as_json=as_json)


def _add_acting(timers: typer.Typer) -> None:
    @timers.command("run", epilog=examples("tidemill timer run nightly_report"))
    def run(timer: Name, target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Run it now, once for all replicas, beside its schedule."""
        from tidemill.cli.timers import run

        return run(timer, target, {"database": database, "store": store})

    @timers.command("pause", epilog=examples("tidemill timer pause nightly_report"))
    def pause(timer: Name, target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Begin no run by schedule any more; what runs goes on."""
        from tidemill.cli.timers import pause

        return pause(timer, target, {"database": database, "store": store})

    @timers.command("resume", epilog=examples("tidemill timer resume nightly_report"))
    def resume(timer: Name, target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Go on from now; what fell into the pause is skipped."""
        from tidemill.cli.timers import resume

        return resume(timer, target, {"database": database, "store": store})


def _add_rename(timers: typer.Typer) -> None:
    @timers.command("rename", epilog=examples("tidemill timer rename nightly nightly_report"))
    def rename(
        old: Annotated[str, typer.Argument(help="The name it had.", show_default=False)],
        new: Annotated[str, typer.Argument(help="The name it has in the app now.", show_default=False)],
        target: Target = None,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
    ) -> int:
        """Move what is known of a timer to its new name, while it does not run."""
        from tidemill.cli.timers import rename

        return rename(old, new, target, {"database": database, "store": store})
