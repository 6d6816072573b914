"""`feed`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import PLAIN, DatabaseUrl, DryRun, Json, StoreUrl, Target, Yes, examples

Name = Annotated[str, typer.Argument(help="The feed worker.", show_default=False)]


def add(app: typer.Typer) -> None:
    feeds = typer.Typer(help="Feed workers and their cursors.", no_args_is_help=True, **PLAIN)
    _add_ls(feeds)
    _add_pausing(feeds)
    _add_reset(feeds)
    _add_rename(feeds)
    app.add_typer(feeds, name="feed")


def _add_ls(feeds: typer.Typer) -> None:
    @feeds.command("ls", epilog=examples("tidemill feed ls", "tidemill feed ls avalon.app:app --json"))
    def ls(target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None, as_json: Json = False) -> int:
        """List the feed workers, how far behind, what is parked."""
        from tidemill.cli.feeds import list_feeds

        return list_feeds(target, {"database": database, "store": store}, as_json=as_json)


def _add_pausing(feeds: typer.Typer) -> None:
    @feeds.command("pause", epilog=examples("tidemill feed pause bill"))
    def pause(worker: Name, target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Read and start nothing more, in all replicas; what runs goes on."""
        from tidemill.cli.feeds import pause

        return pause(worker, target, {"database": database, "store": store})

    @feeds.command("resume", epilog=examples("tidemill feed resume bill"))
    def resume(worker: Name, target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Go on where it stands; halted partitions try again."""
        from tidemill.cli.feeds import resume

        return resume(worker, target, {"database": database, "store": store})


def _add_reset(feeds: typer.Typer) -> None:
    @feeds.command(
        "reset",
        epilog=examples(
            "tidemill feed reset bill --to beginning --dry-run",
            "tidemill feed reset bill --partition 3 --to 2026-05-01T12:00:00Z --yes",
        ),
    )
    def reset(
        worker: Name,
        to: Annotated[str, typer.Option("--to", help="beginning, now, a time (UTC) or how long ago: 2h.")],
        target: Target = None,
        partition: Annotated[str | None, typer.Option("--partition", "-p", help="Only this one.")] = None,
        dry_run: DryRun = False,
        yes: Yes = False,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
    ) -> int:
        """Read again from another place, or pass over what there is."""
        from tidemill.cli.feeds import reset

        options = {"database": database, "store": store}
        return reset(worker, target, options, partition=partition, to=to, dry_run=dry_run, yes=yes)


def _add_rename(feeds: typer.Typer) -> None:
    @feeds.command("rename", epilog=examples("tidemill feed rename bill invoice --dry-run"))
    def rename(
        old: Annotated[str, typer.Argument(help="The name it had.", show_default=False)],
        new: Annotated[str, typer.Argument(help="The name it has in the app now.", show_default=False)],
        target: Target = None,
        dry_run: DryRun = False,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
    ) -> int:
        """Move cursors, parked keys and dead letters to a worker's new name, while nobody works on either."""
        from tidemill.cli.feeds import rename

        return rename(old, new, target, {"database": database, "store": store}, dry_run=dry_run)
