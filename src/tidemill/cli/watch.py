"""`status --watch`: the same picture, again and again, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tidemill import operations
from tidemill.app.worker import Declared
from tidemill.cli.opened import with_places
from tidemill.cli.reading import pieces_of
from tidemill.cli.show import drawn, instant, print_json, show
from tidemill.engine.clock import SystemClock
from tidemill.engine.places import Places
from tidemill.errors import ConfigurationError
from tidemill.operations import Status

SHORTEST = 0.1


def watch_status(target: str | None, options: Mapping[str, object], *, interval: float, as_json: bool) -> int:
    """Show the system every `interval` seconds. Ctrl-C is how it ends: exit code 0."""
    if not SHORTEST <= interval < float("inf"):
        raise ConfigurationError(f"--interval {interval:g}: write seconds, {SHORTEST:g} or more")

    async def work(declared: Declared, places: Places) -> None:
        with _screen(as_json=as_json) as put:
            while True:
                put(await operations.status(places, declared))
                await asyncio.sleep(interval)

    try:
        with_places(target, options, work)
    except KeyboardInterrupt:
        return 0
    return 0


@contextmanager
def _screen(*, as_json: bool) -> Iterator[Callable[[Status], object]]:
    """A picture in its place on a terminal; else one below the other."""
    if as_json:
        yield print_json
    elif not sys.stdout.isatty():
        yield _print
    else:
        from rich.console import Group
        from rich.live import Live

        with Live(auto_refresh=False, vertical_overflow="crop") as live:
            yield lambda status: live.update(Group(*map(drawn, pieces_of(status)), drawn(_now())), refresh=True)


def _print(status: Status) -> None:
    show([_now(), *pieces_of(status), ""])
    sys.stdout.flush()


def _now() -> str:
    return f"as of {instant(SystemClock().now())}; Ctrl-C ends it"
