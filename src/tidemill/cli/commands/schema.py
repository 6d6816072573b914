"""`schema`."""

from __future__ import annotations

from typing import Annotated

import typer

from tidemill.cli.options import PLAIN, DatabaseUrl, Json, StoreUrl, Target, Yes, examples

Role = Annotated[str | None, typer.Option("--role", help="The role that workers are members of.", show_default=False)]


def add(app: typer.Typer) -> None:
    schema = typer.Typer(help="The tables of an app in PostgreSQL.", no_args_is_help=True, **PLAIN)
    _add_sql(schema)
    _add_apply(schema)
    _add_check(schema)
    _add_drop(schema)
    app.add_typer(schema, name="schema")


def _add_sql(schema: typer.Typer) -> None:
    @schema.command(
        "sql",
        epilog=examples(
            "tidemill schema sql > schema.sql",
            "tidemill schema sql shop.app:app --role shop_worker | psql -v ON_ERROR_STOP=1 shop",
        ),
    )
    def sql(target: Target = None, role: Role = None, database: DatabaseUrl = None, store: StoreUrl = None) -> int:
        """Print a script that makes all that the app needs, and a role with the rights of a worker (tidemill_worker).

        Nothing is connected; the URL says only which schema, by ?schema=.
        """
        from tidemill.cli.schema import print_sql

        return print_sql(target, {"database": database, "store": store}, role)


def _add_apply(schema: typer.Typer) -> None:
    @schema.command("apply", epilog=examples("tidemill schema apply", "tidemill schema apply --role tidemill_worker"))
    def apply(
        target: Target = None,
        role: Role = None,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
        as_json: Json = False,
    ) -> int:
        """Make what is missing, all or nothing; with --role, give it the rights of a worker."""
        from tidemill.cli.schema import apply

        return apply(target, {"database": database, "store": store}, role, as_json=as_json)


def _add_check(schema: typer.Typer) -> None:
    @schema.command("check", epilog=examples("tidemill schema check", "tidemill schema check --json"))
    def check(
        target: Target = None, database: DatabaseUrl = None, store: StoreUrl = None, as_json: Json = False
    ) -> int:
        """Say what is missing, differs or is not allowed; change nothing. 1 if there is something."""
        from tidemill.cli.schema import check

        return check(target, {"database": database, "store": store}, as_json=as_json)


def _add_drop(schema: typer.Typer) -> None:
    @schema.command("drop", epilog=examples("tidemill schema drop", "tidemill schema drop --yes"))
    def drop(
        target: Target = None,
        yes: Yes = False,
        database: DatabaseUrl = None,
        store: StoreUrl = None,
        as_json: Json = False,
    ) -> int:
        """Show what would go, and take it away: our schema with all data, and the triggers of captured tables."""
        from tidemill.cli.schema import drop

        return drop(target, {"database": database, "store": store}, yes=yes, as_json=as_json)
