"""The commands and their options. What a command does is imported when it runs, so that help and mistakes are quick.

Exit codes: 0 done, 1 it could not be done, 2 the user's mistake (one line on stderr, no traceback).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

import tidemill
from tidemill.signals import Signals

Target = Annotated[
    str | None, typer.Argument(help="module:app; else `app` in app.py or main.py here.", show_default=False)
]
Groups = Annotated[list[str] | None, typer.Option("--group", "-g", help="Only this group; may be repeated.")]
Workers = Annotated[list[str] | None, typer.Option("--worker", "-w", help="Only this worker; may be repeated.")]
DatabaseUrl = Annotated[str | None, typer.Option("--database", help="Where everything lives: sqlite:///file.db, …")]
StoreUrl = Annotated[str | None, typer.Option("--store", help="Where members, leases and timers live, if elsewhere.")]
Namespace = Annotated[str | None, typer.Option("--namespace", help="Keeps two stages apart in one database.")]
Grace = Annotated[str | None, typer.Option("--grace", help="Time for running handlers at a stop: 25s.")]
LameDuck = Annotated[str | None, typer.Option("--lame-duck", help="Time the API goes on accepting at a stop.")]
HealthHost = Annotated[str | None, typer.Option("--health-host", help="Address of the probes.")]
HealthPort = Annotated[int | None, typer.Option("--health-port", help="Port of the probes: 8081.")]
ApiHost = Annotated[str | None, typer.Option("--api-host", help="Address of the web API.")]
ApiPort = Annotated[int | None, typer.Option("--api-port", help="Port of the web API: 8000.")]
LogFormat = Annotated[str | None, typer.Option("--log-format", help="console or json (json in a pod).")]
LogLevel = Annotated[str | None, typer.Option("--log-level", help="debug, info, warning or error.")]
ProfileName = Annotated[str | None, typer.Option("--profile", help="normal (take-over in 15 s) or fast (6 s).")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Source = Annotated[str, typer.Option("--source", "-s", help="queue/NAME, feed/WORKER or feed/WORKER/PARTITION.")]
Key = Annotated[str | None, typer.Option("--key", "-k", help="Only of this key.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="Only this one; may be repeated.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]
Every = Annotated[bool, typer.Option("--all", help="All there are, without a filter.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]

_PLAIN: Mapping[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}


def examples(*lines: str) -> str:
    """Examples as they stand under a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def build(signals: Signals) -> typer.Typer:
    """All commands; `signals` has been counting since the process began."""
    app = typer.Typer(
        name="tidemill",
        help="Background workers that Kubernetes can trust.",
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog=examples("tidemill dev", "tidemill run avalon.app:app --group queues", "tidemill status --json"),
        **_PLAIN,
    )
    _add_root(app)
    _add_running(app, signals)
    _add_reading(app)
    letters = typer.Typer(help="Dead letters and parked keys.", no_args_is_help=True, **_PLAIN)
    _add_letters_reading(letters)
    _add_letters_acting(letters)
    app.add_typer(letters, name="dead-letter")
    app.add_typer(letters, name="dlq", hidden=True)
    return app


def main(words: Sequence[str], signals: Signals) -> int:
    """Run one command; its exit code."""
    from tidemill.cli.told import exit_code

    command = typer.main.get_command(build(signals))
    return exit_code(lambda: command.main(list(words), prog_name="tidemill", standalone_mode=False), sys.stderr)


# --- commands -----------------------------------------------------------------------------------------------


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tidemill {tidemill.__version__}")
        raise typer.Exit()


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the release.")]


def _add_root(app: typer.Typer) -> None:
    @app.callback()
    def root(version: Version = False) -> None: ...


def _add_running(app: typer.Typer, signals: Signals) -> None:
    @app.command(
        epilog=examples(
            "tidemill run avalon.app:app",
            "tidemill run --group queues --group timers --database sqlite:///work.db",
            "TIDEMILL_DATABASE=sqlite:///work.db tidemill run",
        )
    )
    def run(
        context: typer.Context,
        target: Target = None,
        groups: Groups = None,
        workers: Workers = None,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
        namespace: Namespace = None,
        grace: Grace = None,
        lame_duck: LameDuck = None,
        health_host: HealthHost = None,
        health_port: HealthPort = None,
        api_host: ApiHost = None,
        api_port: ApiPort = None,
        log_format: LogFormat = None,
        log_level: LogLevel = None,
        profile: ProfileName = None,
    ) -> int:
        """Run workers until SIGTERM or Ctrl-C."""
        from tidemill.cli.running import run as start

        options = {name: value for name, value in context.params.items() if name != "target"}
        return start(target, options, signals)

    @app.command(epilog=examples("tidemill dev", "tidemill dev avalon.app:app --api-port 9000"))
    def dev(
        target: Target = None,
        database: DatabaseUrl = None,
        health_port: HealthPort = None,
        api_port: ApiPort = None,
        log_level: LogLevel = None,
        debug: Annotated[bool, typer.Option("--debug", help="No time-outs: a debugger's pause loses nothing.")] = False,
    ) -> int:
        """Run everything here, on an SQLite file."""
        from tidemill.cli.running import dev as start

        options: dict[str, object] = {"database": database, "health_port": health_port, "api_port": api_port}
        return start(target, options | {"log_level": log_level, "debug": debug or None}, signals)


def _add_reading(app: typer.Typer) -> None:
    @app.command(epilog=examples("tidemill workers", "tidemill workers avalon.app:app --json"))
    def workers(target: Target = None, groups: Groups = None, as_json: Json = False) -> int:
        """List the workers and what starts each."""
        from tidemill.cli.reading import list_workers

        return list_workers(target, groups or [], as_json=as_json)

    @app.command(epilog=examples("tidemill status", "tidemill status --json --database sqlite:///work.db"))
    def status(
        target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None, as_json: Json = False
    ) -> int:
        """Show replicas, partitions, queues and timers."""
        from tidemill.cli.reading import show_status

        return show_status(target, {"database": database, "store": store}, as_json=as_json)

    @app.command(epilog=examples("tidemill health", "tidemill health --probe ready --port 8081"))
    def health() -> int:
        """Ask the probe of a running replica."""
        from tidemill.cli.health import main as ask

        return ask([])  # its options are read before this is imported


def _add_letters_reading(letters: typer.Typer) -> None:
    @letters.command("ls", epilog=examples("tidemill dead-letter ls --source queue/invoices", "tidemill dlq ls --json"))
    def ls(
        target: Target = None,
        source: Source = "",
        key: Key = None,
        ids: Ids = None,
        limit: Limit = 100,
        database: DatabaseUrl = None,
        as_json: Json = False,
    ) -> int:
        """List dead letters and parked changes."""
        from tidemill.cli.letters import Chosen, list_letters

        chosen = Chosen(target, {"database": database}, source, key, ids or [])
        return list_letters(chosen, limit, as_json=as_json)

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


def _add_letters_acting(letters: typer.Typer) -> None:
    @letters.command(
        "replay",
        epilog=examples("tidemill dead-letter replay --source queue/invoices", "tidemill dlq replay --key 4711"),
    )
    def replay(
        target: Target = None,
        source: Source = "",
        key: Key = None,
        ids: Ids = None,
        every: Every = False,
        dry_run: DryRun = False,
        database: DatabaseUrl = None,
    ) -> int:
        """Try them again, parked keys in their order."""
        from tidemill.cli.letters import Chosen, replay_letters

        chosen = Chosen(target, {"database": database}, source, key, ids or [])
        return replay_letters(chosen, every=every, dry_run=dry_run)

    @letters.command("drop", epilog=examples("tidemill dead-letter drop --source feed/bill --key 4711 --yes"))
    def drop(
        target: Target = None,
        source: Source = "",
        key: Key = None,
        ids: Ids = None,
        every: Every = False,
        dry_run: DryRun = False,
        yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
        database: DatabaseUrl = None,
    ) -> int:
        """Forget them for good."""
        from tidemill.cli.letters import Chosen, drop_letters

        chosen = Chosen(target, {"database": database}, source, key, ids or [])
        return drop_letters(chosen, every=every, dry_run=dry_run, yes=yes)
