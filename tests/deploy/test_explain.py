"""Each way in which a rollout does not get on, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tidemill.deploy.explain import Trouble, explain
from tidemill.deploy.seen import Ended, Event, Pod, Rollout, Seen

IMAGE = "registry.example.com/team/shop@sha256:0f"
GROUP = Rollout("shop-feeds", "feeds", wanted=1, updated=1, old=0, ready=0, available=0, observed=True)
POD = Pod("shop-feeds-1", "feeds", IMAGE, age=30.0, ready=False, running=False, restarts=0)
CRASHING = replace(POD, restarts=3, waiting="CrashLoopBackOff", why="back-off 40s restarting failed container")
RUNNING = replace(POD, running=True)


def event(reason: str, message: str, name: str = POD.name) -> Event:
    return Event(name, "Pod", reason, message, 1, 0.0)


def told(pod: Pod, *events: Event) -> list[Trouble]:
    return explain(Seen((GROUP,), (pod,), events))


def crashed(code: int, reason: str = "Error", message: str = "") -> Pod:
    return replace(CRASHING, ended=Ended(code, reason, message))


PULL = "Failed to pull image: rpc error: "
CASES = {
    "well": (replace(RUNNING, ready=True), (), None, False),
    "starting": (RUNNING, (), None, False),
    "placed-a-moment-ago": (replace(POD, waiting="ContainerCreating"), (), None, False),
    "no-node-is-large-enough": (
        replace(POD, unplaced="0/3 nodes are available: 3 Insufficient memory."), (), "lower resources.requests",
        False),
    "no-node-is-tolerated": (
        replace(POD, unplaced="0/3 nodes are available: 3 node(s) had untolerated taint {x: y}."), (), "tolerations",
        False),
    "no-volume": (
        replace(POD, unplaced="pod has unbound immediate PersistentVolumeClaims."), (), "persistence.storageClass",
        False),
    "no-node-at-all": (replace(POD, unplaced="no nodes available to schedule pods"), (), "no node fits", False),
    "image-that-is-not-there": (
        replace(POD, waiting="ImagePullBackOff", why="Back-off pulling image"),
        (event("Failed", PULL + "code = NotFound desc = manifest unknown: not found"),), "was not pushed", True),
    "image-on-its-first-try": (
        replace(POD, waiting="ErrImagePull", why=PULL + "not found"), (), "was not pushed", False),
    "image-that-is-not-allowed": (
        replace(POD, waiting="ImagePullBackOff", why="Back-off"),
        (event("Failed", PULL + "401 Unauthorized: not found"),), "imagePullSecrets", True),
    "registry-out-of-reach": (
        replace(POD, waiting="ImagePullBackOff", why="Back-off"),
        (event("Failed", PULL + "dial tcp: lookup registry: no such host"),), "does not reach the registry", False),
    "image-of-another-processor": (
        replace(POD, waiting="ImagePullBackOff", why=PULL + "no match for platform in manifest"), (),
        "another kind of processor", True),
    "name-that-is-none": (replace(POD, waiting="InvalidImageName"), (), "registry, repository and digest", True),
    "never-pulled": (replace(POD, waiting="ErrImageNeverPull"), (), "pullPolicy is Never", True),
    "secret-that-is-not-there": (
        replace(POD, waiting="CreateContainerConfigError", why='secret "shop" not found'), (), "create the Secret",
        True),
    "secret-that-may-come": (
        replace(POD, waiting="CreateContainerConfigError", why='secret "shop" not found', age=5.0), (),
        "create the Secret", False),
    "key-that-is-not-there": (
        replace(POD, waiting="CreateContainerConfigError", why="couldn't find key URL in Secret default/shop"), (),
        "secrets.….key", True),
    "root": (
        replace(POD, waiting="CreateContainerConfigError", why="container has runAsNonRoot and image will run as root"),
        (), "wants to run as root", True),
    "volume-of-a-secret": (
        replace(POD, waiting="ContainerCreating"),
        (event("FailedMount", 'MountVolume.SetUp failed for volume "x": secret "y" not found'),), "extraVolumes",
        False),
    "no-network": (
        replace(POD, waiting="ContainerCreating"), (event("FailedCreatePodSandBox", "no route"),), "a network", False),
    "configuration": (crashed(2), (), "settings come from `settings` and `secrets`", True),
    "configuration-once": (
        replace(crashed(2), restarts=0, waiting="Error"), (), "settings come from `settings` and `secrets`", False),
    "fault": (crashed(1), (), "the log names it", True),
    "fault-twice": (replace(crashed(1), restarts=2), (), "the log names it", False),
    "over": (crashed(0, "Completed"), (), "is not `tidemill run`", True),
    "not-executable": (crashed(126), (), "not executable", True),
    "not-there": (crashed(127), (), "on PATH in the image", True),
    "killed": (crashed(137), (), "longer than terminationGracePeriodSeconds", True),
    "crashed": (crashed(139), (), "a library in C crashed", True),
    "aborted": (crashed(134), (), "a library in C found", True),
    "undrained": (crashed(143), (), "a shell in front of it", True),
    "code-of-its-own": (crashed(77), (), "the log names it", True),
    "memory": (crashed(137, "OOMKilled"), (), "raise resources.limits.memory", True),
    "blocked": (
        replace(crashed(1), running=True, waiting=""),
        (event("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 503"),
         event("Killing", "Container tidemill failed liveness probe, will be restarted")), "blocks the loop", True),
    "command-that-is-not-there": (
        replace(crashed(128, "StartError", 'exec: "tidemill": executable file not found in $PATH')), (),
        "on PATH in the image", True),
    "unready": (replace(RUNNING, age=61.0), (), "/readyz says", False),
    "evicted": (replace(POD, gone="Evicted The node was low on resource: memory."), (), "ran out of memory", False),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_pod_is_accounted_for(case: str) -> None:
    pod, events, likely, hopeless = CASES[case]
    troubles = told(pod, *events)
    if likely is None:
        assert troubles == []
        return
    (trouble,) = troubles
    assert likely in trouble.likely
    assert trouble.hopeless is hopeless
    assert (trouble.group, trouble.pod) == ("feeds", POD.name)


@pytest.mark.parametrize(
    ("refused", "likely", "hopeless"),
    [
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest": …', "fit `restricted`", True),
        ('pods "x" is forbidden: exceeded quota: q, requested: pods=1', "raise the quota", False),
        ('error looking up service account default/x: serviceaccount "x" not found', "serviceAccount.name", True),
        ('admission webhook "policy" denied the request: no', "one of its policies refuses", True),
    ],
)
def test_a_pod_that_is_not_made_is_accounted_for(refused: str, likely: str, hopeless: bool) -> None:
    (trouble,) = explain(Seen((replace(GROUP, refused=refused),), (), ()))
    assert likely in trouble.likely
    assert trouble.hopeless is hopeless
    assert refused[:20] in trouble.what


def test_pods_with_the_same_trouble_are_told_once_and_the_hopeless_come_first() -> None:
    unready = replace(RUNNING, age=90.0)
    pods = (
        replace(unready, name="a-1", group="api"),
        replace(unready, name="a-2", group="api"),
        replace(unready, name="f-1", group="feeds"),
        replace(crashed(2), name="q-1", group="queues"),
    )
    assert [(one.group, one.pod) for one in explain(Seen((), pods, ()))] == [("queues", "q-1"), ("api, feeds", "a-1")]


def test_pods_that_were_there_before_have_another_chance() -> None:
    lacking = replace(POD, waiting="CreateContainerConfigError", why='secret "shop" not found', age=300.0)
    first = Seen((GROUP,), (lacking, replace(crashed(2), name="b", restarts=5)), ())
    assert [one.hopeless for one in explain(first)] == [True, True]
    assert [one.hopeless for one in explain(first.since(first, 1.0))] == [False, False]
    later = replace(first, pods=(lacking, replace(crashed(2), name="b", restarts=6), replace(lacking, name="c")))
    assert [(pod.age, pod.restarts) for pod in later.since(first, 25.0).pods] == [(25.0, 0), (25.0, 1), (300.0, 0)]


def test_what_ended_is_seen_in_the_log_before() -> None:
    assert [one.evidence for one in told(crashed(2))] == ["previous log"]
    assert [one.evidence for one in told(replace(crashed(2), restarts=0))] == ["log"]
    assert [one.evidence for one in told(replace(RUNNING, age=61.0))] == ["probe"]


def test_how_often_is_told_and_long_words_are_cut() -> None:
    (trouble,) = told(crashed(1))
    assert trouble.what == "the container ends with exit code 1, for a fault, 3 times"
    (trouble,) = told(replace(POD, unplaced="word " * 200))
    assert len(trouble.what) < 340
    assert trouble.what.endswith("…")
