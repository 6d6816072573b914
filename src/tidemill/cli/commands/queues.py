"""`queue`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import PLAIN, DatabaseUrl, DryRun, Json, Limit, StoreUrl, Target, examples

Name = Annotated[str, typer.Argument(help="The queue.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def add(app: typer.Typer) -> None:
    queues = typer.Typer(help="Queues: look into them, send, pause, empty.", no_args_is_help=True, **PLAIN)
    _add_reading(queues)
    _add_sending(queues)
    _add_pausing(queues)
    _add_purging(queues)
    app.add_typer(queues, name="queue")


def _add_reading(queues: typer.Typer) -> None:
    @queues.command("ls", epilog=examples("tidemill queue ls", "tidemill queue ls avalon.app:app --json"))
    def ls(target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None, as_json: Json = False) -> int:
        """List queues: how much waits, who works them."""
        from tidemill.cli.queues import Chosen, list_queues

        return list_queues(Chosen(target, {"database": database, "store": store}), as_json=as_json)

    @queues.command("peek", epilog=examples("tidemill queue peek invoices", "tidemill queue peek invoices --json"))
    def peek(
        name: Name,
        target: Target = None,
        limit: Limit = 20,
        after: Annotated[str, typer.Option("--after", help="Go on behind this place, as the page before says.")] = "",
        database: DatabaseUrl = None,
        as_json: Json = False,
    ) -> int:
        """Show what waits, without claiming it."""
        from tidemill.cli.queues import Chosen
        from tidemill.cli.queues import peek as show

        return show(Chosen(target, {"database": database}, name), limit, after, as_json=as_json)


def _add_sending(queues: typer.Typer) -> None:
    @queues.command(
        "send",
        epilog=examples(
            """tidemill queue send invoices '{"number": 1, "total": 9}' --delay 1h""",
            "tidemill queue send invoices @invoices.jsonl --dedup import-7",
            "jq -c '.[]' invoices.json | tidemill queue send invoices -",
        ),
    )
    def send(
        name: Name,
        body: Annotated[
            str, typer.Argument(help="JSON; @file.jsonl: one message a line; @file: all of it; -: lines of stdin.")
        ],
        target: Target = None,
        delay: Annotated[str, typer.Option("--delay", help="Due after this: 30s, 1h, 90.")] = "0",
        dedup: Annotated[str | None, typer.Option("--dedup", help="Send it once; of many, each line once.")] = None,
        key: Annotated[str | None, typer.Option("--key", "-k", help="The key that goes along.")] = None,
        priority: Annotated[int, typer.Option("--priority", help="Higher goes first: -1000 to 1000.")] = 0,
        headers: Annotated[list[str] | None, typer.Option("--header", help="name=value; may be repeated.")] = None,
        database: DatabaseUrl = None,
    ) -> int:
        """Send messages; their bodies are checked first."""
        from tidemill.cli.queues import Chosen, Extras
        from tidemill.cli.queues import send as start

        extras = Extras(delay, dedup, key, priority, headers or [])
        return start(Chosen(target, {"database": database}, name), body, extras)


def _add_pausing(queues: typer.Typer) -> None:
    @queues.command("pause", epilog=examples("tidemill queue pause invoices"))
    def pause(name: Name, target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Let its workers take in nothing more; what runs goes on."""
        from tidemill.cli.queues import Chosen
        from tidemill.cli.queues import pause as write

        return write(Chosen(target, {"database": database, "store": store}, name))

    @queues.command("resume", epilog=examples("tidemill queue resume invoices"))
    def resume(name: Name, target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Let them go on."""
        from tidemill.cli.queues import Chosen
        from tidemill.cli.queues import resume as write

        return write(Chosen(target, {"database": database, "store": store}, name))


def _add_purging(queues: typer.Typer) -> None:
    @queues.command(
        "purge", epilog=examples("tidemill queue purge invoices --dry-run", "tidemill queue purge invoices --yes")
    )
    def purge(
        name: Name, target: Target = None, dry_run: DryRun = False, yes: Yes = False, database: DatabaseUrl = None
    ) -> int:
        """Remove what waits, for good; no dead letters."""
        from tidemill.cli.queues import Chosen
        from tidemill.cli.queues import purge as empty

        return empty(Chosen(target, {"database": database}, name), dry_run=dry_run, yes=yes)
