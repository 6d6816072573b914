"""What people decide about image, chart and release: `[deploy]` of tidemill.toml, and the command line above it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tidemill.errors import ConfigurationError
from tidemill.layered import DEPLOY, FILE
from tidemill.settings import hint


class Choices(BaseModel):
    """Where the image goes and what it is made of, and under which name the chart is installed."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    image: str = ""
    """Registry and repository, without a tag: `registry.example.com/team/shop`; else the app's name."""
    base: str = "python:3.13-slim"
    """The image that ours is built on: a Debian with Python 3.11 or newer."""
    extras: tuple[str, ...] = ()
    """Extras of the project to install; else all that its own dependencies ask for."""
    release: str = ""
    """The name of the Helm release; else the app's name."""
    namespace: str = ""
    """The Kubernetes namespace; else the one that kubectl is set to."""
    chart: Annotated[str, Field(min_length=1)] = "chart"
    """The folder that `tidemill chart` writes."""


def choices(folder: Path, options: Mapping[str, Any]) -> Choices:
    """Those of `tidemill.toml` in this folder, and on top of them what was said on the command line (None: not said).

    Raises `ConfigurationError` with one line for each mistake.
    """
    path = folder / FILE
    try:
        said = tomllib.loads(path.read_text("utf-8")).get(DEPLOY, {}) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error}") from error
    if not isinstance(said, dict):
        raise ConfigurationError(f"{DEPLOY} in {FILE}: write a table, [{DEPLOY}]")
    given = {name: value for name, value in options.items() if value not in (None, (), [])}
    try:
        return Choices.model_validate({**said, **given})
    except ValidationError as error:
        raise ConfigurationError(*(_line(mistake) for mistake in error.errors(include_url=False))) from None


def _line(mistake: Any) -> str:
    name = str(mistake["loc"][0])
    if mistake["type"] == "extra_forbidden":
        return f"{DEPLOY}.{name} in {FILE}: there is no such setting{hint(name, list(Choices.model_fields))}"
    return f"{DEPLOY}.{name} in {FILE}: {mistake['msg']}"
