"""Bring a chart to a cluster and stay until it is clear what became of it.

Helm installs; the watching is ours, because Helm's own waiting ends with a time-out and no reason. A rollout that
cannot succeed is not waited for: it is explained, and what ran before comes back.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidemill.core.scrub import scrub
from tidemill.deploy.explain import Trouble, explain
from tidemill.deploy.kube import Cluster
from tidemill.deploy.outside import CommandFailed, Said, ask, failed
from tidemill.deploy.seen import Seen
from tidemill.errors import ConfigurationError

LOOK = 2.0
"""Seconds between two looks."""

BLIND = 60.0
"""Seconds for which the cluster may not answer."""

HELM = 300.0
"""Seconds that one call of Helm may take; it does not wait for pods."""

LINES = 15
"""Lines of a log that are shown."""

HISTORY = 10
"""Revisions that Helm keeps."""


@dataclass(frozen=True, slots=True)
class Order:
    """What to install where. `values` are files, later ones before earlier ones; `sets` as Helm's `--set`; `limit` in
    seconds."""

    release: str
    chart: Path
    cluster: Cluster
    values: tuple[Path, ...] = ()
    sets: tuple[str, ...] = ()
    limit: float = 600.0
    create_namespace: bool = False


@dataclass(frozen=True, slots=True)
class Past:
    """A revision, and Helm's word for what became of it."""

    revision: int
    status: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A trouble with what else there is to see of it."""

    trouble: Trouble
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: whether all is well, the revision that was made, what was wrong, how many containers had to be
    started again, and how long it took (seconds)."""

    well: bool
    revision: int
    troubles: tuple[Shown, ...]
    restarts: int
    took: float


def manifests(order: Order) -> str:
    """What would be sent, as Helm writes it; no cluster is asked."""
    return _helm(order.cluster, "template", order.release, str(order.chart), *_values(order)).out


def current(order: Order) -> int:
    """The revision that is in place; 0: none. Raises `CommandFailed` where another change of it has not ended."""
    past = _history(order)
    if past and past[-1].status.startswith("pending"):
        away = "tidemill rollback" if len(past) > 1 else f"helm uninstall {order.release}"
        raise CommandFailed(
            f"release {order.release}: revision {past[-1].revision} is {past[-1].status}: another deploy runs, or"
            f" was ended in the middle; if none runs, `{away}`, and deploy again"
        )
    return next((one.revision for one in reversed(past) if one.status == "deployed"), 0)


def install(order: Order, back_to: int = 0) -> int:
    """Install or upgrade; the new revision. Raises `CommandFailed`; what a failed one had changed by then is taken back
    to the revision `back_to` (0: is left)."""
    words = ("upgrade", "--install", order.release, str(order.chart), "--history-max", str(HISTORY), "-o", "json")
    space = ("--create-namespace",) if order.create_namespace else ()
    try:
        said = _helm(order.cluster, *words, *space, *_ours(order.cluster), *_values(order))
    except CommandFailed as error:
        if not back_to or _history(order)[-1].revision == back_to:
            raise  # it was refused before anything was changed
        roll_back(order, back_to)
        raise CommandFailed(f"{error}; what it had changed is as in revision {back_to} again") from None
    return int(json.loads(said.out)["version"])


def roll_back(order: Order, revision: int) -> int:
    """Bring back a revision (0: the one before the last); the new revision. Raises `ConfigurationError` where there is
    none to go back to."""
    past = [one.revision for one in _history(order)]
    if not past:
        raise ConfigurationError(f"release {order.release} is not in this cluster and namespace")
    if revision and revision not in past:
        raise ConfigurationError(
            f"revision {revision}: release {order.release} has {', '.join(map(str, past))}; write one of them"
        )
    if not revision and len(past) < 2:
        raise ConfigurationError(f"release {order.release} has one revision only: there is nothing to go back to")
    to = str(revision or past[-2])
    _helm(order.cluster, "rollback", order.release, to, "--history-max", str(HISTORY), *_ours(order.cluster))
    return past[-1] + 1


def watch(order: Order, revision: int, say: Callable[[str], object]) -> Outcome:
    """Look until all groups run what was sent, or it is clear that they will not. `say` gets a line for each change.

    Pods that were there before count from the first look on: what they lacked may be there now.
    """
    begun = last = time.monotonic()
    first: Seen | None = None
    told: set[str] = set()
    while True:
        try:
            look = order.cluster.look(order.release)
        except CommandFailed:
            if time.monotonic() - last > BLIND:
                raise
            time.sleep(LOOK)
            continue
        last = time.monotonic()
        first = first or look
        troubles = explain(look.since(first, last - begun))
        for line in (*_progress(look), *(f"{one.group}: {one.what}" for one in troubles)):
            if line not in told:
                told.add(line)
                say(line)
        over = last - begun > order.limit
        if look.done:
            return Outcome(True, revision, (), _restarts(look.since(first, 0)), last - begun)
        if over or any(one.hopeless for one in troubles) or any(one.late for one in look.rollouts):
            shown = tuple(_shown(order.cluster, one) for one in troubles or explain(look) or _late(look, last - begun))
            return Outcome(False, revision, shown, _restarts(look.since(first, 0)), last - begun)
        time.sleep(LOOK)


def _progress(look: Seen) -> list[str]:
    return [
        f"{one.group}: {one.updated} of {one.wanted} new, {one.available} available"
        + (f", {one.old} of the old version" if one.old else "")
        for one in look.rollouts
    ]


def _late(look: Seen, seconds: float) -> list[Trouble]:
    """Time is over and nothing is wrong that has a name."""
    found = []
    for one in look.rollouts:
        if not one.done:
            pod = next((pod.name for pod in look.pods if pod.group == one.group and pod.running and not pod.ready), "")
            what = f"{one.available} of {one.wanted} pods were available after {seconds:.0f} s"
            likely = "it may only need longer: --timeout, and minReadySeconds of the group"
            found.append(Trouble(one.group, pod, what, likely, True, "probe" if pod else ""))
    return found


def _restarts(look: Seen) -> int:
    return sum(pod.restarts for pod in look.pods)


def _shown(cluster: Cluster, trouble: Trouble) -> Shown:
    """With the lines that the trouble calls for. What cannot be had is left out: the cluster may have moved on."""
    match trouble.evidence:
        case "previous log":
            lines = _log(cluster, trouble.pod, (True, False))
        case "log":
            lines = _log(cluster, trouble.pod, (False, True))
        case "probe":
            lines = [*cluster.probe(trouble.pod, "ready").splitlines()][:LINES]
        case _:
            lines = []
    return Shown(trouble, tuple(map(scrub, lines)))


def _history(order: Order) -> list[Past]:
    """The revisions that Helm knows, the newest last; none for a release that is not there."""
    said = _helm(order.cluster, "history", order.release, "-o", "json", allow="not found")
    found: list[dict[str, Any]] = json.loads(said.out) if said.code == 0 else []
    return [Past(int(one["revision"]), one["status"]) for one in found]


def _ours(cluster: Cluster) -> Sequence[str]:
    """Helm 4 applies on the server, where a field that somebody else has changed since is a conflict: a Deployment that
    was scaled by hand could not be deployed any more. What is deployed is what the values say."""
    version = _helm(cluster, "version", "--template", "{{.Version}}").out
    return () if version.startswith("v3.") else ("--force-conflicts",)


def _log(cluster: Cluster, pod: str, kinds: Sequence[bool]) -> list[str]:
    """Of the container before (True) or of the one now, whichever of these has one first. While a container is started
    again there is neither for a moment."""
    for patience in (1.0, 1.0, 0.0):
        for previous in kinds:
            if lines := cluster.log(pod, previous=previous, lines=LINES):
                return lines
        time.sleep(patience)
    return []


def _values(order: Order) -> list[str]:
    files = [word for path in order.values for word in ("--values", str(path))]
    return files + [word for one in order.sets for word in ("--set", one)]


def _helm(cluster: Cluster, *words: str, allow: str = "") -> Said:
    """Raises `CommandFailed` unless it succeeds, or fails with the words that are allowed."""
    where: Sequence[str] = ("--kube-context", cluster.context) if cluster.context else ()
    space: Sequence[str] = ("--namespace", cluster.namespace) if cluster.namespace else ()
    try:
        said = ask(("helm", *words, *where, *space), limit=HELM)
    except CommandFailed as error:
        hint = "; install Helm 3.17 or newer" if str(error).endswith("is not there") else ""
        raise CommandFailed(f"{error}{hint}") from None
    if said.code != 0 and not (allow and allow in said.err):
        raise failed(("helm", *words), said.code, said.err.splitlines())
    return said
