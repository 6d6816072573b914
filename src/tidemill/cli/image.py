"""`image`: write Dockerfile and .dockerignore, build, check what was built, push."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tidemill.cli.show import print_json
from tidemill.cli.target import find, parts, usual
from tidemill.deploy import building, dockerfile, image, project, revision, tags
from tidemill.deploy.choices import Choices, choices
from tidemill.deploy.outside import Said
from tidemill.errors import ConfigurationError
from tidemill.layered import FILE, PREFIX, SECRETS
from tidemill.settings import hint


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was said on the command line."""

    target: str | None
    push: bool = False
    write: bool = False
    force: bool = False
    allow_dirty: bool = False
    tag: str = ""
    groups: tuple[str, ...] = ()
    engine: str | None = None
    network: str = ""
    platform: str = ""
    ca: Path | None = None
    pip_conf: Path | None = None
    environment: tuple[str, ...] = ()
    options: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """An image: `digest` is the registry's (None: not pushed), `id` the machine's own."""

    image: str
    id: str
    digest: str | None
    pushed: bool
    notes: tuple[str, ...]


def image_command(wanted: Wanted, *, as_json: bool) -> int:
    """Do it, and print reference and digest, or with --write the names of the files."""
    if wanted.write:
        written, notes = write(wanted, Path.cwd())
        _note(notes)
        for path in written:
            print(path)
        return 0
    built = make(wanted, Path.cwd())
    _note(built.notes)
    if as_json:
        print_json(built)
    else:
        print(f"{built.image}\n{built.digest or built.id}")
    return 0


def write(wanted: Wanted, folder: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Write the two files; their paths, and what there is to say. A file that is not ours is only written over with
    --force."""
    recipe = plan(wanted, folder, _choices(wanted, folder))
    files = _files(recipe)
    foreign = [path for path in files if _foreign(path)]
    if foreign and not wanted.force:
        raise ConfigurationError(
            *(f"{path.name} is not of `tidemill image` and is kept; --force writes over it" for path in foreign)
        )
    for path, text in files.items():
        _put(path, text)
    return [*files], recipe.notes


def make(wanted: Wanted, folder: Path) -> Built:
    """Write what is ours, build, check and push. What does not pass the check gets no name."""
    chosen = _choices(wanted, folder)
    recipe = plan(wanted, folder, chosen)
    repository = tags.repository(chosen.image or recipe.name)
    files = _files(recipe)
    source = revision.source(recipe.context, (recipe.project, *recipe.local), files)
    version = project.read(folder).version
    tag = wanted.tag or tags.derive(version, source, recipe.groups)
    tags.fit(tag)
    if wanted.push:
        tags.pushable(repository, source, said=wanted.tag, allow_dirty=wanted.allow_dirty)
    environment = _environment(wanted.environment)
    by = building.engine(wanted.engine)
    kept = [path for path in files if _foreign(path) and not wanted.force]
    for path, text in files.items():
        if path not in kept:
            _put(path, text)
    notes = (*recipe.notes, *(f"{path.name} is yours and is used as it stands" for path in kept))
    reference = f"{repository}:{tag}"
    labels = {"VERSION": version, "REVISION": source.revision, "SOURCE": source.origin, "CREATED": source.at}
    file, left_out = files
    order = building.Order(
        recipe.context,
        file,
        left_out,
        {"BASE": chosen.base, **labels},
        _secrets(wanted),
        wanted.network,
        wanted.platform,
    )
    id = building.build(by, order, lambda line: _say(building.step(line)))
    _say(f"tidemill check {recipe.target} in {reference}")
    said = building.check(by, id, recipe.target, environment, platform=wanted.platform)
    if said.code != 0:
        raise _unfit(said, push=wanted.push)
    building.name(by, id, reference)
    digest = _pushed(by, reference, id) if wanted.push else None
    return Built(reference, id, digest, digest is not None, notes)


def plan(wanted: Wanted, folder: Path, chosen: Choices) -> image.Recipe:
    """What goes into the image, from what lies in the folder."""
    found = project.read(folder)
    target = wanted.target or usual(folder)
    extras = chosen.extras
    if wanted.groups:
        groups = find(target, folder).declared().groups()
        for name in wanted.groups:
            if name not in groups:
                raise ConfigurationError(f"--group {name}: the app has no such group{hint(name, list(groups))}")
        extras = tuple(extra for extra in extras if extra not in groups or extra in wanted.groups)
    needed = project.closure(found, extras)
    pins = _pins(folder, wanted.groups)
    for place in (found.folder, project.workspace(found.folder)):
        if pins is None and place is not None and (place / image.LOCK).is_file():
            raise image.locked(place, extras)
    return image.recipe(
        found,
        needed,
        pins,
        target=":".join(parts(target)),
        base=_choices(replace(wanted, options={}), folder).base,  # --base is for this build, not for the file
        groups=wanted.groups,
        settings=(folder / FILE).is_file(),
    )


def _choices(wanted: Wanted, folder: Path) -> Choices:
    return choices(folder, wanted.options or {})


def _pins(folder: Path, groups: Sequence[str]) -> image.Pins | None:
    """`requirements.txt`, or for an image of one group its own, `requirements-GROUP.txt`."""
    names = [f"requirements-{group}.txt" for group in groups if len(groups) == 1]
    for path in (folder.resolve() / name for name in (*names, image.PINS)):
        if path.is_file():
            return image.pins_of(_read(path), path)
    return None


def _files(recipe: image.Recipe) -> dict[Path, str]:
    return {
        recipe.folder / dockerfile.DOCKERFILE: dockerfile.dockerfile(recipe),
        recipe.folder / dockerfile.ignore_name(recipe): dockerfile.ignore(recipe),
    }


def _foreign(path: Path) -> bool:
    return path.is_file() and not dockerfile.ours(_read(path))


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path.name} cannot be read: {error}") from error


def _put(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path.name} cannot be written: {error.strerror}") from error


def _environment(said: Sequence[str]) -> dict[str, str | None]:
    """What the check sees: our own TIDEMILL_* by name, but for a folder of this machine, and what was said."""
    ours = (name for name in os.environ if name.upper().startswith(PREFIX) and name != SECRETS)
    found: dict[str, str | None] = dict.fromkeys(ours)
    for word in said:
        name, given, value = word.partition("=")
        if not given and name not in os.environ:
            raise ConfigurationError(f"--env {name}: there is no such variable here; write --env {name}=VALUE")
        found[name] = value if given else None
    return found


def _secrets(wanted: Wanted) -> dict[str, Path]:
    """Files that pip reads during the build and that do not stay in the image: those said, or our own pip's."""
    said = {
        "ca": wanted.ca or _ours("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"),
        "pip": wanted.pip_conf or _ours("PIP_CONFIG_FILE"),
    }
    for option, path in (("--ca", wanted.ca), ("--pip-conf", wanted.pip_conf)):
        if path is not None and not path.is_file():
            raise ConfigurationError(f"{option} {path}: there is no such file")
    return {name: path for name, path in said.items() if path is not None}


def _ours(*names: str) -> Path | None:
    paths = (Path(os.environ[name]) for name in names if os.environ.get(name))
    return next((path for path in paths if path.is_file()), None)


def _unfit(said: Said, *, push: bool) -> ConfigurationError:
    lines = [line.removeprefix("tidemill: ") for line in (said.err.strip() or said.out.strip()).splitlines()]
    end = "; nothing was pushed" if push else ""
    hints = [
        "a setting that comes at run time can be said for the check: --env NAME=VALUE (nothing is connected)"
        for line in lines[:1]
        if any("TIDEMILL_" in line for line in lines)
    ]
    return ConfigurationError(*(f"in the image: {line}{end}" for line in lines), *hints)


def _pushed(by: building.Engine, reference: str, id: str) -> str:
    """Push it if the tag is free; its digest."""
    _say(f"asking the registry for {reference}")
    there = building.known(by, reference)
    if tags.standing(there, building.ours(by, id)) == "taken":
        raise tags.taken(reference)
    return building.push(by, reference, lambda line: _say(line if "digest:" in line else None))


def _say(line: str | None) -> None:
    if line:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()


def _note(notes: Sequence[str]) -> None:
    for note in notes:
        _say(f"note: {note}")
