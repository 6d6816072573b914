"""Settings: one frozen value, read once from all places, validated as a whole.

Rising: defaults, `tidemill.toml`, `.env`, files of the secrets directory, `TIDEMILL_*`, the command line. All
mistakes are told together, each with the place it stands in. Environment, folder and host name are arguments; nothing
is read at import.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from tidemill.app.worker import Cron, Declared, Every, OnChange, OnMessage, Worker
from tidemill.core.duration import seconds
from tidemill.core.scrub import scrub
from tidemill.engine.work import FAST, NORMAL, Budget, Profile
from tidemill.errors import ConfigurationError
from tidemill.layered import Layer, Merged, Path_, merge, read_layers
from tidemill.model import StreamSpec

_SECRET = frozenset({"database", "store", "queues", "collections"})
"""What may have a password in it."""

DEV_DATABASE = "sqlite:///tidemill.db"

DEV: Mapping[str, object] = {
    "database": DEV_DATABASE,
    "api_host": "127.0.0.1",
    "health_host": "127.0.0.1",
    "lame_duck": 0.0,
    "log_format": "console",
}
"""What `tidemill dev` takes unless something else is said."""


def _commas(value: object) -> object:
    """`a, b` as people write lists in variables."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return seconds(value)


Seconds: TypeAlias = Annotated[float, BeforeValidator(_duration), Field(ge=0, allow_inf_nan=False)]
Names: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_commas)]
Port: TypeAlias = Annotated[int, Field(ge=0, le=65535)]
_LOWER = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Never a password: what is shown ends up in logs and bug reports."""
        for name, value in super().__repr_args__():
            yield name, scrub(value) if isinstance(value, str) else value


class Part(_Part):
    """One queue or collection that is set apart from the database."""

    url: str


class Settings(_Part):
    """Everything that may differ between two deployments of one app. Durations in seconds."""

    database: str | None = None
    """Where everything lives that is not set apart: `sqlite:///file.db`, `postgresql://host/name`, `memory:`."""
    store: str | None = None
    """Where members, leases and timers live; else with the first collection, else the database."""
    queues: Mapping[str, Part] = Field(default_factory=dict)
    """Queues that live elsewhere, each with its `url`."""
    collections: Mapping[str, Part] = Field(default_factory=dict)
    """Collections and tables that live elsewhere, each with its `url`."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9-]*$", max_length=40)] = ""
    """Not in this release."""
    groups: Names = ()
    """Only the workers of these groups run here."""
    workers: Names = ()
    """Only these workers run here."""
    replica: str = ""
    """The name of this process: the pod's, else the host's."""
    pod_uid: str = ""
    """The uid of the pod: a container that was restarted in it follows itself at once."""
    container: str = ""
    """The name of the container in the pod."""
    weight: Annotated[int, Field(ge=0)] = 1
    """How many partitions it takes, beside others; 0 takes none."""
    grace: Seconds = 25.0
    """How long running handlers may take at a stop."""
    lame_duck: Seconds = 0.0
    """How long the web API goes on accepting at a stop (5 s in a pod)."""
    health_host: str = "0.0.0.0"
    """The address of the probes."""
    health_port: Port = 8081
    """The port of the probes."""
    api_host: str = "0.0.0.0"
    """The address of the web API."""
    api_port: Port = 8000
    """The port of the web API; `PORT` says it too."""
    log_format: Annotated[Literal["console", "json"], _LOWER] = "console"
    """`console` for people or `json` for machines (json in a pod)."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], _LOWER] = "info"
    """From which level on is logged."""
    profile: Annotated[Literal["normal", "fast"], _LOWER] = "normal"
    """The clockwork of members: `normal` (taken over in 15 s) or `fast` (6 s); the same in all replicas."""
    debug: bool = False
    """No time-outs: a debugger's pause loses nothing. One replica only."""

    def budget(self) -> Budget:
        """The time-outs of a drain."""
        return Budget(lame_duck=self.lame_duck, grace=self.grace)

    def clockwork(self) -> Profile:
        """The clockwork of members."""
        return FAST if self.profile == "fast" else NORMAL

    def queue_url(self, name: str) -> str | None:
        """Where a queue lives; None: nobody has said."""
        return _part(self.queues, name) or self.database

    def collection_url(self, name: str) -> str | None:
        """Where a collection or table lives; None: nobody has said."""
        return _part(self.collections, name) or self.database

    def store_url(self, declared: Declared) -> str | None:
        """Where members, leases and timers live: as said, else with the first collection, else the database."""
        if self.store:
            return self.store
        first = next((spec.name for spec, _ in declared.collections), None)
        return self.collection_url(first) if first else self.database

    def chosen(self, declared: Declared) -> tuple[Worker, ...]:
        """The workers that run here: all, or those of `groups` and those in `workers`."""
        if not self.groups and not self.workers:
            return declared.workers
        return tuple(w for w in declared.workers if w.group in self.groups or w.name in self.workers)

    def serves_api(self, declared: Declared) -> bool:
        """Whether the web API runs here."""
        return declared.api is not None and ("api" in self.groups or not (self.groups or self.workers))

    def fit(self, declared: Declared) -> None:
        """Raises `ConfigurationError` with everything that these settings do not say, or say of nothing."""
        problems = [*_unknown(self, declared), *_homeless(self, declared), *_not_yet(self)]
        if problems:
            raise ConfigurationError(*problems)


def load(
    environ: Mapping[str, str],
    *,
    folder: Path,
    options: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
    hostname: str = "",
) -> Settings:
    """The settings of a process. `options` are those of the command line (None: not given), `defaults` what a
    command takes unless something is said. Raises `ConfigurationError` with one line for each mistake."""
    return read(environ, folder=folder, options=options, defaults=defaults, hostname=hostname).settings


@dataclass(frozen=True, slots=True)
class Read:
    """The settings, and where each value that was said stands (`TIDEMILL_GRACE`, `grace in tidemill.toml`, …)."""

    settings: Settings
    origins: Mapping[Path_, str]


def read(
    environ: Mapping[str, str],
    *,
    folder: Path,
    options: Mapping[str, object] | None = None,
    defaults: Mapping[str, object] | None = None,
    hostname: str = "",
) -> Read:
    """The same with the places."""
    usual: dict[str, object] = {"replica": environ.get("HOSTNAME") or hostname or socket.gethostname()}
    if "KUBERNETES_SERVICE_HOST" in environ:
        usual |= {"lame_duck": 5.0, "log_format": "json"}
    given = {name: value for name, value in (options or {}).items() if value not in (None, (), [])}
    layers, problems = read_layers(environ, folder)
    options_layer = Layer({(name,): (value, f"--{name.replace('_', '-')}") for name, value in given.items()})
    merged = merge([Layer.of(usual | dict(defaults or {}), "the defaults"), *layers, options_layer])
    try:
        settings = Settings.model_validate(merged.tree)
    except ValidationError as error:
        problems = [*problems, *_explain(error, merged)]
    if problems:
        raise ConfigurationError(*problems)
    return Read(settings, merged.origins)


# --- what does not fit --------------------------------------------------------------------------------------


def _explain(error: ValidationError, merged: Merged) -> Iterator[str]:
    """One line for each mistake: where it stands, the value, and what it should be. No value that may be a secret."""
    origins = merged.origins
    for mistake in error.errors(include_url=False):
        path = tuple(str(part) for part in mistake["loc"])
        place = next((origins[path[:n]] for n in range(len(path), 0, -1) if path[:n] in origins), ".".join(path))
        if mistake["type"] == "extra_forbidden":
            yield f"{place}: there is no such setting{hint(path[-1], _fields(path))}"
        elif mistake["type"] == "missing":
            yield f"{place}: {path[-1]} is missing"
        else:
            wanted, shown = _wanted(mistake), f"{mistake['input']!r:.60}"
            name, *where = place.split(" ", 1)
            told = name if len(path) > 1 or path[0] in _SECRET or shown in wanted else f"{name}={shown}"
            yield f"{' '.join([told, *where])}: {wanted}"


def _wanted(mistake: ErrorDetails) -> str:
    """What a value should be. Pydantic's words are for programmers who know it."""
    context = mistake.get("ctx", {})
    match mistake["type"]:
        case "int_parsing" | "int_type" | "int_from_float":
            return "write a whole number"
        case "greater_than_equal":
            return f"write {context['ge']} or more"
        case "less_than_equal":
            return f"write {context['le']} or less"
        case "literal_error":
            return f"write {context['expected']}".replace("'", "")
        case "bool_parsing" | "bool_type":
            return "write true or false"
        case "string_pattern_mismatch":
            return "use small letters, digits and - only"
        case _:
            return mistake["msg"].removeprefix("Value error, ").removesuffix(" or a timedelta")


def _fields(path: Path_) -> list[str]:
    return list(Settings.model_fields) if len(path) == 1 else list(Part.model_fields)


def hint(word: str, known: list[str]) -> str:
    """`; did you mean x?`, or nothing."""
    near = get_close_matches(word.lower(), known, 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _part(parts: Mapping[str, Part], name: str) -> str | None:
    """Names in variables are written with `_` for `-` and `.`, in any case."""
    return next((part.url for key, part in parts.items() if _plain(key) == _plain(name)), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _unknown(settings: Settings, declared: Declared) -> Iterator[str]:
    known = {
        "queue": ([spec.name for spec, _ in declared.queues], settings.queues),
        "collection": ([spec.name for spec, _ in declared.collections], settings.collections),
        "group": (list(declared.groups()), settings.groups),
        "worker": ([worker.name for worker in declared.workers], settings.workers),
    }
    for what, (names, said) in known.items():
        plain = {_plain(name) for name in names} if what in ("queue", "collection") else set(names)
        for name in said:
            if (_plain(name) if what in ("queue", "collection") else name) not in plain:
                there = f" (there are: {', '.join(names)})" if names else ""
                yield f"{what} {name!r} is not declared in app {declared.name!r}{hint(name, names) or there}"


def _not_yet(settings: Settings) -> Iterator[str]:
    """What is a name already and does nothing yet is refused: ignoring it would be a lie."""
    if settings.namespace:
        yield f"namespace={settings.namespace!r}: not in this release; use a database of its own for each stage"


def _homeless(settings: Settings, declared: Declared) -> Iterator[str]:
    """What has no database: everything that is declared must, for any handler may use it."""
    if settings.database:
        return
    queues = [spec.name for spec, _ in declared.queues if not settings.queue_url(spec.name)]
    sources = [spec.name for spec, _ in declared.collections if not settings.collection_url(spec.name)]
    needs_store = any(isinstance(w.trigger, OnChange | Cron | Every) for w in settings.chosen(declared))
    homeless = [f"queue {name!r}" for name in queues] + [f"collection {name!r}" for name in sources]
    if needs_store and not settings.store_url(declared):
        homeless.append("timers and leases")
    if homeless:
        yield (f"no database for {', '.join(homeless)}: set TIDEMILL_DATABASE or --database, such as {DEV_DATABASE}")


def kind_of(worker: Worker) -> tuple[str, str]:
    """What a worker is and what starts it, in words."""
    match worker.trigger:
        case OnMessage(queue):
            return "queue", queue.name
        case OnChange(StreamSpec() as stream):
            return "queue", stream.queue
        case OnChange(source):
            return "feed", source.name
        case Every(interval, per_replica):
            return "timer", f"every {interval:g} s" + (" in each replica" if per_replica else "")
        case Cron(expression, tz):
            return "timer", f"{expression} ({tz})"
