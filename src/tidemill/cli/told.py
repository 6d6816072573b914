"""What users are told when something goes wrong: one line each, on stderr, and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from tidemill.core.scrub import scrub
from tidemill.errors import ConfigurationError, TidemillError


def exit_code(command: Callable[[], Any], stderr: TextIO) -> int:
    """Run the command. A mistake is 2, a failure 1; faults of ours keep their traceback."""
    try:
        code = command()
    except ConfigurationError as error:
        for problem in error.problems or (str(error),):
            _tell(stderr, problem)
        return 2
    except TidemillError as error:
        _tell(stderr, str(error))
        return 1
    except BrokenPipeError:
        # Whoever read our output has enough (`| head`); what Python would still flush has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _usage(error, stderr)
    return code if isinstance(code, int) else 0


def _usage(error: Exception, stderr: TextIO) -> int:
    """Errors of the option parser, known by their shape: typer has its own copy of click since 0.26."""
    message, code = getattr(error, "format_message", None), getattr(error, "exit_code", None)
    if callable(message) and type(error).__name__ == "NoArgsIsHelpError":
        stderr.write(f"{message()}\n")
        return 2
    if callable(message) and code == 2:
        path = getattr(getattr(error, "ctx", None), "command_path", "tidemill")
        _tell(stderr, f"{message()} (see {path} --help)")
        return 2
    if type(error).__name__ in ("Abort", "Exit"):
        return 1 if code is None else int(code)
    raise error


def _tell(stderr: TextIO, line: str) -> None:
    stderr.write(f"tidemill: {scrub(line)}\n")
