"""What several commands have in common: their options, and how examples stand in a help text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

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
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Most = Annotated[int | None, typer.Option("--limit", min=1, help="At most so many messages and keys.")]
Since = Annotated[str | None, typer.Option("--since", help="From this time (UTC) on, or how long ago: 2h.")]
Until = Annotated[str | None, typer.Option("--until", help="Before this time (UTC), or how long ago: 10m.")]
Reason = Annotated[str, typer.Option("--reason", help="With this text in the reason or the error, in any case.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]

PLAIN: Mapping[str, Any] = {"rich_markup_mode": None, "pretty_exceptions_enable": False, "add_completion": False}


def examples(*lines: str) -> str:
    """Examples as they stand under a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
