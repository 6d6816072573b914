"""`dead-letter`, also as `dlq`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import (
    PLAIN,
    DatabaseUrl,
    DryRun,
    Every,
    Ids,
    Json,
    Key,
    Limit,
    Most,
    Reason,
    Since,
    Source,
    Target,
    Until,
    Yes,
    examples,
)


def add(app: typer.Typer) -> None:
    letters = typer.Typer(help="Dead letters and parked keys.", no_args_is_help=True, **PLAIN)
    _add_ls(letters)
    _add_show(letters)
    _add_replay(letters)
    _add_drop(letters)
    app.add_typer(letters, name="dead-letter")
    app.add_typer(letters, name="dlq", hidden=True)


def _add_ls(letters: typer.Typer) -> None:
    @letters.command("ls", epilog=examples("tidemill dead-letter ls --source queue/invoices", "tidemill dlq ls --json"))
    def ls(
        target: Target = None,
        source: Source = "",
        key: Key = None,
        ids: Ids = None,
        since: Since = None,
        until: Until = None,
        reason: Reason = "",
        limit: Limit = 100,
        database: DatabaseUrl = None,
        as_json: Json = False,
    ) -> int:
        """List dead letters and parked changes."""
        from tidemill.cli.letters import Chosen, list_letters

        chosen = Chosen(target, {"database": database}, source, key, ids or [], since, until, reason)
        return list_letters(chosen, limit, as_json=as_json)


def _add_show(letters: typer.Typer) -> None:
    @letters.command("show", epilog=examples("tidemill dead-letter show 0192f3a4", "tidemill dlq show 7 -s queue/a"))
    def show(
        id: Annotated[str, typer.Argument(help="The id of the dead letter.")],
        target: Target = None,
        source: Source = "",
        database: DatabaseUrl = None,
        as_json: Json = False,
    ) -> int:
        """Show one with its body and the whole error."""
        from tidemill.cli.letters import Chosen, show_letter

        return show_letter(Chosen(target, {"database": database}, source, None, [id]), as_json=as_json)


def _add_replay(letters: typer.Typer) -> None:
    @letters.command(
        "replay",
        epilog=examples(
            "tidemill dead-letter replay --source queue/invoices --since 2h --rate 20",
            'tidemill dlq replay --all --reason "no route" --dry-run',
        ),
    )
    def replay(
        target: Target = None,
        source: Source = "",
        key: Key = None,
        ids: Ids = None,
        since: Since = None,
        until: Until = None,
        reason: Reason = "",
        every: Every = False,
        limit: Most = None,
        rate: Annotated[float | None, typer.Option("--rate", help="At most so many letters a second.")] = None,
        dry_run: DryRun = False,
        database: DatabaseUrl = None,
    ) -> int:
        """Try them again, parked keys in their order."""
        from tidemill.cli.letters import Chosen, replay_letters

        chosen = Chosen(target, {"database": database}, source, key, ids or [], since, until, reason)
        return replay_letters(chosen, every=every, dry_run=dry_run, limit=limit, rate=rate)


def _add_drop(letters: typer.Typer) -> None:
    @letters.command("drop", epilog=examples("tidemill dead-letter drop --source feed/bill --key 4711 --yes"))
    def drop(
        target: Target = None,
        source: Source = "",
        key: Key = None,
        ids: Ids = None,
        since: Since = None,
        until: Until = None,
        reason: Reason = "",
        every: Every = False,
        limit: Most = None,
        dry_run: DryRun = False,
        yes: Yes = False,
        database: DatabaseUrl = None,
    ) -> int:
        """Forget them for good."""
        from tidemill.cli.letters import Chosen, drop_letters

        chosen = Chosen(target, {"database": database}, source, key, ids or [], since, until, reason)
        return drop_letters(chosen, every=every, dry_run=dry_run, yes=yes, limit=limit)
