"""`chart`: the app as a Helm chart."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tidemill import settings as settings_module
from tidemill.cli.show import print_json
from tidemill.cli.target import USUAL, find
from tidemill.deploy.chart import Written, chart, compare, write
from tidemill.deploy.choices import choices
from tidemill.deploy.plan import Plan, plan
from tidemill.errors import ConfigurationError

PROJECT = "pyproject.toml"


def make(
    target: str | None, *, out: str | None, said_version: str | None, check: bool, force: bool, as_json: bool
) -> int:
    """Write the chart, or say what differs: 1 if something does."""
    folder = Path.cwd()
    chosen = choices(folder, {"chart": out})
    place = folder / chosen.chart
    made = chart(planned(target, folder, {}, said_version), chosen.image)
    done = compare(made, place) if check else write(made, place, force=force)
    if as_json:
        print_json({**_told(done), "folder": chosen.chart, "same": done.same})
    else:
        print(_words(done, chosen.chart, check=check))
    return 1 if check and not done.same else 0


def planned(target: str | None, folder: Path, options: Mapping[str, object], said_version: str | None) -> Plan:
    """The plan of the app in this folder, by the settings that stand in it and in the environment."""
    app = find(target, folder)
    settings = settings_module.load(os.environ, folder=folder, options=options)
    return plan(
        app.declared(), settings, target=full_target(target, folder), version=said_version or project_version(folder)
    )


def full_target(target: str | None, folder: Path) -> str:
    """`module:app`, as a pod is told: what was found here may not be found there."""
    module, _, attribute = (target or "").partition(":")
    if not module:
        module = next(
            name for name in USUAL if (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()
        )
    return f"{module}:{attribute or 'app'}"


def project_version(folder: Path) -> str:
    """As pyproject.toml says, or the installed project does if its version is worked out when it is built."""
    try:
        project = tomllib.loads((folder / PROJECT).read_text("utf-8")).get("project", {})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(
            f"{PROJECT} here cannot be read, and the chart needs the project's version: {_why(error)};"
            " say it with --version"
        ) from None
    if isinstance(project.get("version"), str):
        return str(project["version"])
    try:
        return version(str(project.get("name", "")))
    except (PackageNotFoundError, ValueError):
        raise ConfigurationError(f"{PROJECT} has no version under [project]; say it with --version") from None


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _told(done: Written) -> dict[str, object]:
    return {"written": done.written, "removed": done.removed, "unchanged": done.unchanged}


def _words(done: Written, folder: str, *, check: bool) -> str:
    if done.same:
        return f"{folder} is what would be written" if check else f"{folder} is as it was"
    lines = [f"  {path}" for path in done.written] + [f"  {path} (no longer needed)" for path in done.removed]
    head = f"{folder} is not what would be written:" if check else f"{folder}:"
    return "\n".join([head, *lines])
