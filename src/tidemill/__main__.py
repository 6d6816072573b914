"""`python -m tidemill` and the command `tidemill`.

SIGTERM and SIGINT are caught before anything else is imported: a pod may be told to stop while Python still reads
files, and as PID 1 it would not even die of it. Commands that only read leave the signals as they are. `health` is
answered without the command line's libraries: it runs every few seconds in a container.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tidemill.signals import Signals

LONG_RUNNING = ("run", "dev")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    signals = Signals()
    if words[:1] == ["health"]:
        from tidemill.cli import health

        return health.main(words[1:])
    if words[:1] and words[0] in LONG_RUNNING:
        signals.install()
    try:
        from tidemill.cli import main as cli
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        sys.stderr.write("tidemill: the command line needs typer: pip install 'tidemill[cli]'\n")
        return 2
    return 0 if signals.count else cli.main(words, signals)


if __name__ == "__main__":
    sys.exit(main())
