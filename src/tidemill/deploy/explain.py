"""Why a rollout does not get on, in plain words: from what a cluster says, without I/O.

Kubernetes tells it in five places (conditions, container states, exit codes, events, probes), each in words of its own.
Here the first of them that accounts for a pod is chosen, in the order in which a pod comes up: made, placed, image,
volumes, settings, start, readiness.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Literal, TypeAlias

from tidemill.core.scrub import scrub
from tidemill.deploy.seen import Pod, Rollout, Seen

Evidence: TypeAlias = Literal["", "log", "previous log", "probe"]

SETTLED = 20.0
"""Seconds after which what a pod lacks will not come by itself: everything of a release is sent together."""

SLOW = 60.0
"""Seconds after which a pod that runs and is not ready is worth a word."""

CRASHES = 3
"""Ends in a row after which another start will end like them."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps groups from coming up: `what` is the case, `likely` why, and what to do. `hopeless`: waiting does not
    mend it. `evidence` tells what else to show of `pod`, which is one of those that have it."""

    group: str
    pod: str
    what: str
    likely: str
    hopeless: bool
    evidence: Evidence = ""


def explain(seen: Seen) -> list[Trouble]:
    """One trouble for all groups and pods that have it, the hopeless ones first; none for what merely needs time."""
    alike: dict[str, list[Trouble]] = {}
    for trouble in _troubles(seen):
        alike.setdefault(trouble.likely, []).append(trouble)
    found = []
    for same in alike.values():
        worst = max(same, key=lambda one: one.hopeless)
        found.append(replace(worst, group=", ".join(sorted({one.group for one in same}))))
    return sorted(found, key=lambda one: (not one.hopeless, one.group))


def _troubles(seen: Seen) -> Iterator[Trouble]:
    for rollout in seen.rollouts:
        yield from _of_rollout(rollout)
    for pod in seen.pods:
        yield from islice(filter(None, (rule(pod, seen) for rule in _RULES)), 1)


# --- pods that are not made -----------------------------------------------------------------------------------

_REFUSED = (
    (r"violates PodSecurity", "the namespace allows less than the values ask for; the chart's own pods fit"
     " `restricted`, so look at what your values changed", True),
    (r"exceeded quota", "the namespace has no room for the pods that a rollout adds: raise the quota, or lower"
     " resources.requests or maxSurge", False),
    (r"serviceaccount", "serviceAccount.name names one that is not there: create it, or set serviceAccount.create",
     True),
    (r"", "the cluster or one of its policies refuses the pod, as it says", True),
)  # fmt: skip


def _of_rollout(rollout: Rollout) -> Iterator[Trouble]:
    if rollout.refused:
        likely, hopeless = _first(_REFUSED, rollout.refused)
        yield Trouble(rollout.group, "", f"no pod can be made: {_short(rollout.refused)}", likely, hopeless)


# --- pods that do not start -----------------------------------------------------------------------------------

_UNPLACED = (
    (r"Insufficient (cpu|memory)", "lower resources.requests of the group, or add nodes", False),
    (r"taint", "give the group tolerations, or another nodeSelector", False),
    (r"node affinity|node selector", "nodeSelector or affinity of the group fits no node", False),
    (r"PersistentVolumeClaim|volume", "the volume cannot be had: look at persistence.storageClass", False),
    (r"", "no node fits what the group asks for", False),
)

_PULLS = (
    (r"unauthorized|denied|401|403|authenti|no basic auth", "the node may not read the registry: set imagePullSecrets;"
     " on AKS: az aks update --attach-acr", True),
    (r"not found|manifest unknown|NAME_UNKNOWN", "it was not pushed, or registry or repository is another: push it"
     " with `tidemill image --push`, and look at image.registry and image.repository", True),
    (r"no match for platform|no matching manifest", "it was built for another kind of processor than the node has",
     True),
    (r"x509|certificate", "the node does not trust the registry's certificate", True),
    (r"no such host|dial tcp|i/o timeout|connection refused|EOF", "the node does not reach the registry: its name,"
     " network or proxy", False),
    (r"", "the registry does not hand it out, as it says", False),
)  # fmt: skip

_CONFIG = (
    (r'secret "?[^ ]+"? not found', "create the Secret that secrets.….existingSecret names, or say another", True),
    (r"couldn't find key", "the Secret or ConfigMap lacks that key: secrets.….key names it", True),
    (r'configmap "?[^ ]+"? not found', "a ConfigMap that extraEnv or extraVolumes names is not there", True),
    (
        r"run as root|non-numeric user",
        "the image wants to run as root; `tidemill image` builds one that does not",
        True,
    ),
    (r"", "a setting of the pod cannot be had", True),
)


def _gone(pod: Pod, seen: Seen) -> Trouble | None:
    if not pod.gone:
        return None
    likely = (
        "the node ran out of memory or disk: raise resources.requests of the group"
        if "Evicted" in pod.gone
        else "the node took the pod away"
    )
    return Trouble(pod.group, pod.name, f"the pod is gone: {_short(pod.gone)}", likely, False, "log")


def _unplaced(pod: Pod, seen: Seen) -> Trouble | None:
    if not pod.unplaced:
        return None
    likely, hopeless = _first(_UNPLACED, pod.unplaced)
    return Trouble(pod.group, pod.name, f"no node takes the pod: {_short(pod.unplaced)}", likely, hopeless)


def _unpulled(pod: Pod, seen: Seen) -> Trouble | None:
    if pod.waiting == "InvalidImageName":
        likely = "write registry, repository and digest apart in the values"
        return Trouble(pod.group, pod.name, f"{pod.image} is no name of an image", likely, True)
    if pod.waiting == "ErrImageNeverPull":
        likely = "image.pullPolicy is Never, and the node does not have it: write IfNotPresent"
        return Trouble(pod.group, pod.name, f"the node may not pull {pod.image}", likely, True)
    if pod.waiting not in ("ErrImagePull", "ImagePullBackOff"):
        return None
    said = " ".join([pod.why, *(event.message for event in seen.about(pod.name, "Failed"))])
    likely, hopeless = _first(_PULLS, said)
    last = next((e.message for e in reversed(seen.about(pod.name, "Failed")) if "pull" in e.message), pod.why)
    what = f"the node cannot pull {pod.image}: {_short(last)}"
    return Trouble(pod.group, pod.name, what, likely, hopeless and pod.waiting == "ImagePullBackOff")


def _unset(pod: Pod, seen: Seen) -> Trouble | None:
    if pod.waiting != "CreateContainerConfigError":
        return None
    likely, hopeless = _first(_CONFIG, pod.why)
    what = f"the container lacks a setting: {_short(pod.why)}"
    return Trouble(pod.group, pod.name, what, likely, hopeless and pod.age > SETTLED)


def _unmounted(pod: Pod, seen: Seen) -> Trouble | None:
    events = seen.about(pod.name, "FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox")
    if pod.waiting != "ContainerCreating" or not events or pod.age < SETTLED:
        return None
    last = events[-1]
    if last.reason == "FailedCreatePodSandBox":
        likely = "the node cannot give the pod a network; the cluster's people have to look"
    elif "not found" in last.message:
        likely = "extraVolumes names a Secret or ConfigMap that is not there"
    else:
        likely = "the volume hangs on another node, or its driver is not there"
    return Trouble(pod.group, pod.name, f"a volume or the network is missing: {_short(last.message)}", likely, False)


# --- pods that start and end ----------------------------------------------------------------------------------

_CODES = {
    0: ("without being told to stop", "what runs is not `tidemill run`: look at the image's entry point and the args"),
    1: ("for a fault", "the log names it: a handler of the lifespan, an import, or a drain that took too long"),
    2: ("because its configuration is refused", "the log names the setting, its value and the fix; settings come from"
        " `settings` and `secrets` of the values"),
    126: ("because its command cannot be run", "the image's entry point is not executable, or for another processor"),
    127: ("because its command is not in the image", "`tidemill` must be on PATH in the image; `tidemill image` sees to"
          " it"),
    134: ("because it aborted", "a library in C found a fault of its own; the log may name it"),
    137: ("because it was killed", "a drain that was longer than terminationGracePeriodSeconds, or a node without"
          " memory"),
    139: ("because it crashed", "a library in C crashed; pin another release of it"),
    143: ("by the signal to stop, without draining", "the entry point is not `tidemill run` itself: a shell in front of"
          " it, or a signal before it had begun"),
}  # fmt: skip

_NO_START = ("RunContainerError", "CreateContainerError", "StartError", "ContainerCannotRun")


def _ending(pod: Pod, seen: Seen) -> Trouble | None:
    ended = pod.ended
    if ended is None or (pod.running and pod.ready):
        return None
    times = f", {pod.restarts} times" if pod.restarts > 1 else ""
    if ended.reason == "OOMKilled":
        what = f"the container was killed because it used more memory than its limit{times}"
        likely = "raise resources.limits.memory of the group; more slots and larger batches need more"
        return Trouble(pod.group, pod.name, what, likely, pod.restarts >= CRASHES - 1, "previous log")
    if silenced := _silenced(pod, seen):
        likely = "a handler blocks the loop or the start takes longer than its probe allows; the log tells the stacks"
        what = f"the kubelet restarted the container{times}: {silenced}"
        return Trouble(pod.group, pod.name, what, likely, pod.restarts >= CRASHES, "previous log")
    if pod.waiting in ("RunContainerError", "CreateContainerError") or ended.reason in (
        "StartError",
        "ContainerCannotRun",
    ):
        said = _short(ended.message or pod.why)
        return Trouble(pod.group, pod.name, f"the container cannot be started: {said}", _CODES[127][1], True)
    how, likely = _CODES.get(ended.code, ("for a reason of the app's own", "the log names it"))
    what = f"the container ends with exit code {ended.code}, {how}{times}"
    hopeless = pod.restarts >= (1 if ended.code == 2 else CRASHES)
    return Trouble(pod.group, pod.name, what, likely, hopeless, "previous log" if pod.restarts else "log")


def _silenced(pod: Pod, seen: Seen) -> str:
    """The probe that had the container killed; empty if none had."""
    if not seen.about(pod.name, "Killing"):
        return ""
    failed = [event.message for event in seen.about(pod.name, "Unhealthy")]
    fatal = [words for words in failed if words.startswith(("Liveness", "Startup"))]
    return _short(fatal[-1]) if fatal else ""


def _unready(pod: Pod, seen: Seen) -> Trouble | None:
    if pod.ready or not pod.running or pod.age < SLOW:
        return None
    likely = "what /readyz says is what it waits for: a database, a broker, or a start that goes on"
    return Trouble(pod.group, pod.name, f"it runs, and is not ready after {pod.age:.0f} s", likely, False, "probe")


_RULES: tuple[Callable[[Pod, Seen], Trouble | None], ...] = (
    _gone, _unplaced, _unpulled, _unset, _unmounted, _ending, _unready,
)  # fmt: skip


def _first(table: Sequence[tuple[str, str, bool]], text: str) -> tuple[str, bool]:
    """What is likely, and whether it is hopeless: of the first pattern that is in the text; the last one always is."""
    return next((likely, hopeless) for words, likely, hopeless in table if re.search(words, text))


def _short(text: str) -> str:
    plain = scrub(" ".join(text.split()))
    return plain if len(plain) <= 300 else plain[:299] + "…"
