"""`deploy` and `rollback`: image, chart, release; and what became of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tidemill.cli.chart import planned
from tidemill.cli.image import Wanted as Image
from tidemill.cli.image import make
from tidemill.cli.show import print_json
from tidemill.deploy.chart import chart, compare, write
from tidemill.deploy.choices import Choices, choices
from tidemill.deploy.kube import Cluster
from tidemill.deploy.outside import CommandFailed
from tidemill.deploy.plan import Plan
from tidemill.deploy.release import (
    Order,
    Outcome,
    current,
    install,
    manifests,
    roll_back,
    watch,
)
from tidemill.deploy.values import split
from tidemill.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was said on the command line. `image` is one that is there already, with its digest or tag; `limit` in
    seconds."""

    target: str | None
    image: str = ""
    release: str | None = None
    namespace: str | None = None
    context: str = ""
    values: tuple[Path, ...] = ()
    sets: tuple[str, ...] = ()
    limit: float = 600.0
    dry_run: bool = False
    keep: bool = False
    create_namespace: bool = False
    allow_dirty: bool = False
    environment: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """How a deploy or rollback ended. `back`: how the way back ended, if there was one."""

    release: str
    namespace: str
    image: str
    outcome: Outcome
    back: Outcome | None = None


def deploy(wanted: Wanted, *, as_json: bool) -> int:
    """Build and push, unless the image is given; install, watch, and go back if it does not come up."""
    folder = Path.cwd()
    chosen = choices(folder, {"release": wanted.release, "namespace": wanted.namespace})
    _files(wanted.values)
    if wanted.image:
        named(wanted.image)
    plan = planned(wanted.target, folder, {}, None)
    order = _order(wanted, chosen, plan.app)
    if wanted.dry_run:
        with _chart(plan, chosen, folder) as place, _pinned(wanted.image) as pin:
            sys.stdout.write(manifests(_with(order, place, pin)))
        if not wanted.image:
            _say("note: nothing is built in a dry run, so the image has its version for a tag, and no digest")
        return 0
    order = replace(order, cluster=order.cluster.settled())
    before = current(order)
    image = wanted.image or _built(wanted, folder)
    if "@" not in image:
        _say(f"note: {image} may come to mean other content; a digest (NAME@sha256:…) never does")
    with _chart(plan, chosen, folder) as place, _pinned(image) as pin:
        report = _released(_with(order, place, pin), before, image, keep=wanted.keep)
    return _told(report, as_json=as_json)


def rollback(wanted: Wanted, revision: int, *, as_json: bool) -> int:
    """Bring back a revision, or the one before the last, and watch it come up."""
    folder = Path.cwd()
    chosen = choices(folder, {"release": wanted.release, "namespace": wanted.namespace})
    name = chosen.release or planned(wanted.target, folder, {}, None).app
    order = _order(wanted, chosen, name)
    order = replace(order, cluster=order.cluster.settled())
    made = roll_back(order, revision)
    _say(f"release {order.release} in namespace {order.cluster.namespace}: revision {made}")
    outcome = _watched(order, made)
    return _told(Report(order.release, order.cluster.namespace, "", outcome), as_json=as_json)


# --- the steps ------------------------------------------------------------------------------------------------


def _built(wanted: Wanted, folder: Path) -> str:
    """Build and push; its name with the digest."""
    asked = Image(wanted.target, push=True, allow_dirty=wanted.allow_dirty, environment=wanted.environment)
    built = make(asked, folder)
    for note in built.notes:
        _say(f"note: {note}")
    return f"{built.image.rpartition(':')[0]}@{built.digest}"


def _released(order: Order, before: int, image: str, *, keep: bool) -> Report:
    revision = install(order, 0 if keep else before)
    _say(f"release {order.release} in namespace {order.cluster.namespace}: revision {revision}, {image}")
    report = Report(order.release, order.cluster.namespace, image, _watched(order, revision))
    if report.outcome.well or keep or not before:
        return report
    _say(f"it does not come up: going back to revision {before}")
    made = roll_back(order, before)
    return replace(report, back=_watched(order, made))


def _watched(order: Order, revision: int) -> Outcome:
    try:
        return watch(order, revision, lambda line: _say(f"  {line}"))
    except KeyboardInterrupt:
        _say("the cluster goes on with it: `kubectl get pods` shows how far it is, `tidemill rollback` goes back")
        raise


def _order(wanted: Wanted, chosen: Choices, app: str) -> Order:
    return Order(
        chosen.release or app,
        Path(),
        Cluster(wanted.context, chosen.namespace),
        wanted.values,
        wanted.sets,
        wanted.limit,
        wanted.create_namespace,
    )


def _with(order: Order, place: Path, pin: Path | None) -> Order:
    return replace(order, chart=place, values=(*order.values, *((pin,) if pin else ())))


@contextmanager
def _chart(plan: Plan, chosen: Choices, folder: Path) -> Iterator[Path]:
    """The project's chart if it has one, and it is of the app as it is now; else one for the moment."""
    made = chart(plan, chosen.image)
    place = folder / chosen.chart
    if place.is_dir():
        if not compare(made, place).same:
            raise ConfigurationError(
                f"{chosen.chart}/ is not the chart of the app as it is now; see what differs with `tidemill chart"
                " --check`, write it with `tidemill chart`, and deploy again"
            )
        yield place
        return
    with TemporaryDirectory() as name:
        write(made, Path(name))
        yield Path(name)


@contextmanager
def _pinned(image: str) -> Iterator[Path | None]:
    """A file of values that names the image; JSON is YAML."""
    if not image:
        yield None
        return
    with TemporaryDirectory() as name:
        path = Path(name) / "image.json"
        path.write_text(json.dumps({"image": named(image)}), "utf-8")
        yield path


def named(image: str) -> Mapping[str, str]:
    """An image's name in its parts. Raises `ConfigurationError` for one without digest and tag."""
    whole, _, digest = image.partition("@")
    path, colon, last = whole.rpartition(":")
    name, tag = (path, last) if colon and "/" not in last else (whole, "")
    if not name or not (digest or tag):
        raise ConfigurationError(
            f"--image {image}: write NAME@sha256:… as `tidemill image --push` tells it, or NAME:TAG"
        )
    registry, repository = split(name)
    return {"registry": registry, "repository": repository, "digest": digest, "tag": "" if digest else tag}


def _files(paths: tuple[Path, ...]) -> None:
    for path in paths:
        if not path.is_file():
            raise ConfigurationError(f"--values {path}: there is no such file")


# --- what is told ---------------------------------------------------------------------------------------------


def _told(report: Report, *, as_json: bool) -> int:
    for line in lines(report):
        _say(line)
    if as_json:
        print_json(asdict(report))
    if not report.outcome.well:
        raise CommandFailed(f"release {report.release}: {_end(report)}")
    return 0


def lines(report: Report) -> Iterator[str]:
    """The report in words; the last line of a failure is the error itself."""
    made = report.outcome
    if made.well:
        again = f"; {made.restarts} containers had to be started again" if made.restarts else ""
        runs = f" {report.image}" if report.image else ""
        yield f"release {report.release}, revision {made.revision}: all groups run{runs}, {made.took:.0f} s{again}"
        return
    yield f"release {report.release}, revision {made.revision} does not come up:"
    for shown in made.troubles:
        trouble = shown.trouble
        yield f"  {trouble.group}: {trouble.what}" + (f" (pod {trouble.pod})" if trouble.pod else "")
        yield from (f"    | {line}" for line in shown.lines)
        yield f"    likely: {trouble.likely}"


def _end(report: Report) -> str:
    broken = f"revision {report.outcome.revision} does not come up"
    match report.back:
        case None:
            return f"{broken}, and stays as it is: mend it and deploy again"
        case Outcome(well=True, revision=revision):
            return f"{broken}; what ran before is back, as revision {revision}"
        case _:
            return f"{broken}, and what was brought back does not either: `tidemill status`, `kubectl get pods`"


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
