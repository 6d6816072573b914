"""What a cluster says of one release: Deployments, pods and events, read from its JSON into values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeAlias

Tree: TypeAlias = Mapping[str, Any]

COMPONENT = "app.kubernetes.io/component"
REVISION = "deployment.kubernetes.io/revision"
HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far one Deployment is: pods `wanted`, of the new version (`updated`), still of old ones (`old`), `ready`
    and `available` (ready for long enough). `observed`: the cluster has seen what was last said. `refused`: why no
    pod could be made; `late`: its own deadline has passed."""

    name: str
    group: str
    wanted: int
    updated: int
    old: int
    ready: int
    available: int
    observed: bool
    refused: str = ""
    late: bool = False

    @property
    def done(self) -> bool:
        return self.observed and not self.old and self.updated == self.wanted == self.available


@dataclass(frozen=True, slots=True)
class Ended:
    """How a container ended: its exit code, Kubernetes' word for it (`Error`, `OOMKilled`, …) and its message."""

    code: int
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of the newest version. `waiting` and `why` are Kubernetes' words for a container that does not run;
    `unplaced` says why no node takes it; `gone` why the pod itself is over (`Evicted`, …)."""

    name: str
    group: str
    image: str
    age: float
    ready: bool
    running: bool
    restarts: int
    waiting: str = ""
    why: str = ""
    ended: Ended | None = None
    unplaced: str = ""
    gone: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the object called `name`; how often, and the last time (seconds since the epoch)."""

    name: str
    kind: str
    reason: str
    message: str
    count: int
    at: float


@dataclass(frozen=True, slots=True)
class Seen:
    """One look. Pods of versions that are being replaced are left out; events are in the order of time."""

    rollouts: tuple[Rollout, ...]
    pods: tuple[Pod, ...]
    events: tuple[Event, ...]

    @property
    def done(self) -> bool:
        return all(rollout.done for rollout in self.rollouts)

    def about(self, name: str, *reasons: str) -> list[Event]:
        """What happened to one object, of these kinds if any are named."""
        return [event for event in self.events if event.name == name and (not reasons or event.reason in reasons)]

    def since(self, first: Seen, seconds: float) -> Seen:
        """As if the pods of the first look, `seconds` ago, had been made then."""
        before = {pod.name: pod.restarts for pod in first.pods}
        return replace(
            self,
            pods=tuple(
                replace(pod, age=min(pod.age, seconds), restarts=max(0, pod.restarts - before[pod.name]))
                if pod.name in before
                else pod
                for pod in self.pods
            ),
        )


def seen(objects: Sequence[Tree], events: Sequence[Tree], now: float) -> Seen:
    """From the items of `kubectl get deployments,replicasets,pods` and of `kubectl get events`; `now` in seconds since
    the epoch."""
    by_kind: dict[str, list[Tree]] = {"Deployment": [], "ReplicaSet": [], "Pod": []}
    for one in objects:
        by_kind.get(one.get("kind", ""), []).append(one)
    newest = set(_newest(by_kind["Deployment"], by_kind["ReplicaSet"]))
    pods = (
        _pod(pod, now)
        for pod in by_kind["Pod"]
        if _labels(pod).get(HASH) in newest and "deletionTimestamp" not in pod["metadata"]
    )
    return Seen(
        tuple(sorted(map(_rollout, by_kind["Deployment"]), key=lambda one: one.name)),
        tuple(sorted(pods, key=lambda one: one.name)),
        tuple(sorted(map(_event, events), key=lambda one: one.at)),
    )


def instant(text: str | None) -> float:
    """Seconds since the epoch; 0 for none."""
    if not text:
        return 0.0
    return datetime.fromisoformat(text.replace("Z", "+00:00")).astimezone(UTC).timestamp()


def _newest(deployments: Iterable[Tree], sets: Iterable[Tree]) -> Iterable[str]:
    """The hashes of the ReplicaSets that the Deployments now want."""
    wanted = {one["metadata"]["uid"]: _notes(one).get(REVISION) for one in deployments}
    for one in sets:
        owners = (owner.get("uid") for owner in one["metadata"].get("ownerReferences", ()))
        if any(owner in wanted and _notes(one).get(REVISION) == wanted[owner] for owner in owners):
            yield _labels(one).get(HASH, "")


def _rollout(one: Tree) -> Rollout:
    status = one.get("status", {})
    wanted, updated = one["spec"].get("replicas", 1), status.get("updatedReplicas", 0)
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    failure, progress = conditions.get("ReplicaFailure", {}), conditions.get("Progressing", {})
    return Rollout(
        one["metadata"]["name"],
        _labels(one).get(COMPONENT, ""),
        wanted,
        updated,
        max(0, status.get("replicas", 0) - updated),
        status.get("readyReplicas", 0),
        status.get("availableReplicas", 0),
        status.get("observedGeneration", 0) >= one["metadata"].get("generation", 0),
        failure.get("message", "") if failure.get("status") == "True" else "",
        progress.get("reason") == "ProgressDeadlineExceeded",
    )


def _pod(one: Tree, now: float) -> Pod:
    status = one.get("status", {})
    container: Tree = next(iter(status.get("containerStatuses", ())), {})
    state, last = container.get("state", {}), container.get("lastState", {})
    waiting = state.get("waiting", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    placed = conditions.get("PodScheduled", {})
    return Pod(
        one["metadata"]["name"],
        _labels(one).get(COMPONENT, ""),
        one["spec"]["containers"][0]["image"],
        max(0.0, now - instant(one["metadata"].get("creationTimestamp"))),
        conditions.get("Ready", {}).get("status") == "True",
        "running" in state,
        container.get("restartCount", 0),
        waiting.get("reason", ""),
        waiting.get("message", ""),
        _ended(state.get("terminated") or last.get("terminated")),
        placed.get("message", "") if placed.get("status") == "False" else "",
        f"{status.get('reason', '')} {status.get('message', '')}".strip() if status.get("phase") == "Failed" else "",
    )


def _ended(found: Tree | None) -> Ended | None:
    if not found:
        return None
    return Ended(found.get("exitCode", 0), found.get("reason", ""), found.get("message", ""))


def _event(one: Tree) -> Event:
    about = one.get("involvedObject") or one.get("regarding") or {}
    series = one.get("series") or {}
    at = series.get("lastObservedTime") or one.get("lastTimestamp") or one.get("eventTime")
    return Event(
        about.get("name", ""),
        about.get("kind", ""),
        one.get("reason", ""),
        one.get("message") or one.get("note") or "",
        series.get("count") or one.get("count") or 1,
        instant(at or one["metadata"].get("creationTimestamp")),
    )


def _labels(one: Tree) -> Mapping[str, str]:
    found: Mapping[str, str] = one["metadata"].get("labels") or {}
    return found


def _notes(one: Tree) -> Mapping[str, str]:
    found: Mapping[str, str] = one["metadata"].get("annotations") or {}
    return found
