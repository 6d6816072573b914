"""`[[forward]]` of tidemill.toml: what is passed on without a line of Python.

    [[forward]]
    name = "tell-partner"
    from = "orders"                          # a collection, a table or a queue
    webhook = "https://partner.example.com/hook"
    secret = "${PARTNER_SECRET}"

Each is one `app.forward(…)`. Which of them run where, and how they are watched and paused, is as for any worker.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from tidemill.app.app import App
from tidemill.app.command import Command, command
from tidemill.app.forward import Target
from tidemill.app.handles import Collection, Queue, Table
from tidemill.app.webhook import Webhook, webhook
from tidemill.core.backoff import Backoff
from tidemill.core.duration import seconds
from tidemill.errors import ConfigurationError
from tidemill.layered import FILE, FORWARD
from tidemill.model import TableSpec
from tidemill.settings import hint


def _duration(value: object) -> object:
    return seconds(value) if isinstance(value, str) else value


class Forward(BaseModel):
    """One table. Exactly one of `webhook`, `command` and `queue` says where to."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Annotated[str, Field(min_length=1)]
    """The worker's name: its position hangs on it."""
    source: Annotated[str, Field(alias="from")]
    """The collection, table or queue that is passed on."""
    webhook: str | None = None
    """A URL; `${NAME}` in it is a variable."""
    command: tuple[str, ...] | None = None
    """A program and its arguments."""
    queue: str | None = None
    """A queue of the app."""
    secret: str | tuple[str, ...] = ()
    """Signs what goes to the webhook: `whsec_…`, better `${NAME}`."""
    headers: Mapping[str, str] = Field(default_factory=dict)
    """Of each request."""
    time_limit: Annotated[float | None, BeforeValidator(_duration), Field(gt=0)] = None
    """For a request (30 s) or a process (10 min)."""
    start: Literal["beginning", "now"] = "beginning"
    """Where a new worker begins to read."""
    batch: Annotated[int | None, Field(ge=1)] = None
    """Changes in one request or process."""
    concurrency: Annotated[int | None, Field(ge=1)] = None
    """Calls at once in each replica."""
    attempts: Annotated[int, Field(ge=1)] = 10
    """How often each is tried."""
    group: str | None = None
    """The group that it runs in."""

    @model_validator(mode="after")
    def _one_target(self) -> Forward:
        said = [name for name in ("webhook", "command", "queue") if getattr(self, name) is not None]
        if len(said) != 1:
            raise ValueError(f"write one of webhook, command and queue, not {' and '.join(said) or 'none'}")
        if self.webhook is None and (self.secret or self.headers):
            raise ValueError("secret and headers are for a webhook")
        return self


def extended(app: App, folder: Path) -> App:
    """The app with what `tidemill.toml` in this folder says; the one that is given stays as it is. Raises
    `ConfigurationError` with a line for each mistake."""
    tables = _tables(folder / FILE)
    if not tables:
        return app
    made, problems = app.copy(), []
    for number, table in enumerate(tables, 1):
        try:
            _add(made, Forward.model_validate(table))
        except ValidationError as error:
            problems += [_line(number, mistake) for mistake in error.errors(include_url=False)]
        except ConfigurationError as error:
            problems += [f"{FILE}, {FORWARD} {number}: {problem}" for problem in error.problems or (str(error),)]
    if problems:
        raise ConfigurationError(*problems)
    return made


def _tables(path: Path) -> list[Any]:
    try:
        found = tomllib.loads(path.read_text("utf-8")).get(FORWARD, []) if path.is_file() else []
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error}") from None
    if not isinstance(found, list):
        raise ConfigurationError(f"{FORWARD} in {FILE}: write [[{FORWARD}]] over each")
    return found


def _add(app: App, said: Forward) -> None:
    options: dict[str, Any] = {"name": said.name, "retry": Backoff(attempts=said.attempts)}
    options |= {name: value for name in ("group", "concurrency", "batch") if (value := getattr(said, name)) is not None}
    app.forward(_source(app, said.source), to=_target(app, said), start=said.start, **options)


def _source(app: App, name: str) -> Collection[Any] | Table[Any] | Queue[Any]:
    declared = app.declared()
    for spec, type_ in declared.collections:
        if spec.name == name:
            return Table(spec, type_) if isinstance(spec, TableSpec) else Collection(spec, type_, "id", "id")
    for queue, type_ in declared.queues:
        if queue.name == name:
            return Queue(queue, type_)
    names = [spec.name for spec, _ in declared.collections] + [queue.name for queue, _ in declared.queues]
    raise ConfigurationError(f"from = {name!r}: the app has no such collection, table or queue{_near(name, names)}")


def _target(app: App, said: Forward) -> Target:
    if said.webhook is not None:
        return _webhook(said, said.webhook)
    if said.command is not None:
        return _command(said, said.command)
    queues: dict[str, Queue[Any]] = {queue.name: Queue(queue, type_) for queue, type_ in app.declared().queues}
    name = str(said.queue)
    if name not in queues:
        raise ConfigurationError(f"queue = {name!r}: the app has no such queue{_near(name, list(queues))}")
    return queues[name]


def _webhook(said: Forward, url: str) -> Webhook:
    return webhook(url, secret=said.secret, headers=said.headers, time_limit=said.time_limit or 30.0)


def _command(said: Forward, words: tuple[str, ...]) -> Command:
    return command(list(words), time_limit=said.time_limit or 600.0)


def _near(name: str, names: list[str]) -> str:
    return hint(name, names) or (f" (there are: {', '.join(names)})" if names else "")


def _line(number: int, mistake: Any) -> str:
    where = f"{FILE}, {FORWARD} {number}"
    if not mistake["loc"]:
        return f"{where}: {mistake['msg'].removeprefix('Value error, ')}"
    name = str(mistake["loc"][0])
    if mistake["type"] == "extra_forbidden":
        known = ["from" if field == "source" else field for field in Forward.model_fields]
        return f"{where}: {name}: there is no such key{hint(name, known)}"
    if mistake["type"] == "missing":
        return f"{where}: {name} is missing"
    return f"{where}: {name} = {mistake['input']!r}: {mistake['msg'].removeprefix('Value error, ')}"
