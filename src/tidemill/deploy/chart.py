"""The folder of a chart: Helm's templates as they ship with this package, and what is written for one app.

What was written is noted in the folder, file by file with a hash. So a file that somebody changed is known, and is
never overwritten unless that is said; files of others in the folder are left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from tidemill.deploy.plan import Plan
from tidemill.deploy.values import values
from tidemill.deploy.values_schema import values_schema
from tidemill.errors import ConfigurationError

NOTE = ".tidemill.json"
"""What we wrote: hashes by path. Helm leaves it out of packages."""

SHOWN = 5
"""Files that a message names."""

_VERSION = re.compile(
    r"v?(?:(?P<epoch>[0-9]+)!)?(?P<release>[0-9]+(?:\.[0-9]+)*)"
    r"(?:[-_.]?(?P<pre>a|alpha|b|beta|c|rc|pre|preview)[-_.]?(?P<pre_number>[0-9]*))?"
    r"(?:(?:[-_.]?(?:post|rev|r)[-_.]?|-)(?P<post>[0-9]*))?"
    r"(?:[-_.]?(?P<dev>dev)[-_.]?(?P<dev_number>[0-9]*))?"
    r"(?:\+(?P<local>[a-z0-9]+(?:[-_.][a-z0-9]+)*))?",
    re.IGNORECASE,
)
_SPELT = {"alpha": "a", "beta": "b", "c": "rc", "pre": "rc", "preview": "rc"}
_SEMVER = re.compile(
    r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}(-(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(\.(0|[1-9][0-9]*|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*))*)?(\+[0-9a-zA-Z-]+(\.[0-9a-zA-Z-]+)*)?"
)


@dataclass(frozen=True, slots=True)
class Written:
    """What became of the folder: paths in it. With `check`, what would become of it."""

    folder: str
    written: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not self.written and not self.removed


def chart(plan: Plan, image: str = "") -> Mapping[str, str]:
    """All files of the chart, by path. `image` is registry and repository; else the app's name.

    Raises `ConfigurationError` for a version that is none.
    """
    made = {
        "Chart.yaml": _about(plan),
        "values.yaml": values(plan, image or plan.app),
        "values.schema.json": values_schema(plan),
        **_templates(files("tidemill.deploy") / "templates" / "chart", ""),
    }
    return dict(sorted(made.items()))


def write(made: Mapping[str, str], folder: Path, *, force: bool = False) -> Written:
    """Write the files. What somebody changed since, or put there, stops it before anything is written, unless
    `force`. Raises `ConfigurationError`."""
    try:
        noted = _noted(folder)
        compared = compare(made, folder)
        foreign = [path for path in compared.written if _is_foreign(folder / path, noted.get(path))]
        foreign += [path for path in compared.removed if _is_foreign(folder / path, noted.get(path))]
        if foreign and not force:
            more = f" and {len(foreign) - SHOWN} more" if len(foreign) > SHOWN else ""
            raise ConfigurationError(
                f"{folder} has files that were changed by hand: {', '.join(foreign[:SHOWN])}{more};"
                " keep your values in a file of your own, or overwrite them with --force"
            )
        for path in compared.removed:
            (folder / path).unlink()
        for path in compared.written:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(made[path], "utf-8")
        note = json.dumps({"files": {path: _hash(text) for path, text in made.items()}}, indent=2) + "\n"
        if _text(folder / NOTE) != note:
            (folder / NOTE).write_text(note, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}") from None
    return compared


def compare(made: Mapping[str, str], folder: Path) -> Written:
    """What writing would do; nothing is changed."""
    there = {path: _text(folder / path) for path in made}
    removed = [path for path in _noted(folder) if path not in made and (folder / path).is_file()]
    return Written(
        str(folder),
        tuple(path for path, text in made.items() if there[path] != text),
        tuple(sorted(removed)),
        tuple(path for path, text in made.items() if there[path] == text),
    )


def chart_version(version: str) -> str:
    """The version of the chart for a project's: the same number as Helm writes numbers (SemVer).

    `1.4` → `1.4.0`, `2.0rc1` → `2.0.0-rc.1`, `1.0.dev3+gab12` → `1.0.0-dev.3+gab12`, `1.2.3.post1` → `1.2.3+post.1`.
    Raises `ConfigurationError` for what is no version.
    """
    if _SEMVER.fullmatch(version):
        return version
    found = _VERSION.fullmatch(version.strip())
    if found is None:
        raise ConfigurationError(f"{version!r} is no version, such as 1.2.0; say another with --version")
    first, *rest = (int(part) for part in found["release"].split("."))
    numbers = [first, *rest, 0, 0]
    before = []
    if kind := found["pre"]:
        before += [_SPELT.get(kind.lower(), kind.lower()), str(int(found["pre_number"] or 0))]
    if found["dev"]:
        before += ["dev", str(int(found["dev_number"] or 0))]
    beside = ["epoch", found["epoch"]] if found["epoch"] else []
    beside += [str(part) for part in rest[2:]]
    if found["post"] is not None:
        beside += ["post", str(int(found["post"] or 0))]
    if found["local"]:
        beside.append(re.sub(r"[-_.]", ".", found["local"].lower()))
    made = ".".join(map(str, numbers[:3]))
    made += "-" + ".".join(before) if before else ""
    return made + ("+" + ".".join(beside) if beside else "")


def _about(plan: Plan) -> str:
    return (
        "apiVersion: v2\n"
        f"name: {plan.app}\n"
        f"description: {plan.app}, its groups of workers and its web API, made by tidemill chart\n"
        "type: application\n"
        "# Both follow the project's version.\n"
        f"version: {json.dumps(chart_version(plan.version))}\n"
        f"appVersion: {json.dumps(plan.version)}\n"
        'kubeVersion: ">=1.29.0-0"\n'
    )


def _templates(place: Traversable, above: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in place.iterdir():
        if one.is_dir():
            found |= _templates(one, f"{above}{one.name}/")
        else:
            found[f"{above}{one.name}"] = one.read_text("utf-8")
    return found


def _noted(folder: Path) -> Mapping[str, str]:
    """What we wrote last, and nothing if that is not known. Only paths that stay inside the folder."""
    try:
        tree = json.loads((folder / NOTE).read_text("utf-8"))
        noted = {str(path): str(hash) for path, hash in tree["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}
    return {path: hash for path, hash in noted.items() if not Path(path).is_absolute() and ".." not in Path(path).parts}


def _is_foreign(path: Path, hash: str | None) -> bool:
    """There, and not as we left it."""
    return path.exists() and (hash is None or _hash(_text(path) or "") != hash)


def _text(path: Path) -> str | None:
    """None: not there, or no text."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _hash(text: str) -> str:
    return sha256(text.encode()).hexdigest()
