"""A deployed app on the cluster that KUBECONFIG names, from the first install to its end: `make cluster`.

CLUSTER_IMAGE names an image that the cluster's nodes have or can pull, with `tidemill[api,cli,postgres]` in it.
PostgreSQL runs outside the cluster, on this machine; CLUSTER_HOST is the address under which pods reach it, if it is
not the one from which the API server is reached.

The tests are one story and run in their order.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.kube import TALLY, Kube, Load, Project, balanced, is_ready, our_address, page, until
from tests.servers.fixtures import server_folder
from tests.servers.postgres import Postgres

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

GROUPS = ("api", "blocks", "feeds", "queues", "timers")


def why_not() -> str:
    if not os.environ.get("KUBECONFIG"):
        return "KUBECONFIG names no cluster"
    if not os.environ.get("CLUSTER_IMAGE"):
        return "CLUSTER_IMAGE names no image with Tidemill in it"
    lacking = [name for name in ("kubectl", "helm") if shutil.which(name) is None]
    if lacking:
        return f"no {' and no '.join(lacking)} on PATH"
    asked = subprocess.run(["kubectl", "get", "--raw", "/readyz"], capture_output=True, timeout=30, check=False)
    return "" if asked.returncode == 0 else "the cluster that KUBECONFIG names does not answer"


@pytest.fixture(scope="module")
def kube() -> Iterator[Kube]:
    if why := why_not():
        pytest.skip(why)
    kube = Kube(f"tidemill-test-{secrets.token_hex(3)}")
    kube.run("create", "namespace", kube.namespace)
    kube.run("label", "namespace", kube.namespace, "pod-security.kubernetes.io/enforce=restricted")
    kube.run(
        "create", "configmap", "tally-source", *(f"--from-file={TALLY / name}" for name in ("tally.py", "load.py"))
    )
    yield kube
    kube.run("delete", "namespace", kube.namespace, "--timeout=180s", limit=200)


@pytest.fixture(scope="module")
def database(kube: Kube) -> Iterator[str]:
    """A server on this machine, which the cluster's pods reach."""
    host = our_address()
    with server_folder("cluster") as folder:
        server = Postgres.start_in(folder, fsync=True, listen_addresses=f"127.0.0.1,{host}", max_connections=300)
        try:
            server.trust("0.0.0.0/0")  # it listens on the cluster's own network and on loopback only
            server.create("tally")
            yield f"postgresql://postgres@{host}:{server.port}/tally"
        finally:
            server.stop()


@pytest.fixture(scope="module")
def project(kube: Kube, database: str, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Installed by `tidemill deploy`."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("tally.py", "pyproject.toml"):
        shutil.copy(TALLY / name, folder / name)
    project = Project(folder, kube, os.environ["CLUSTER_IMAGE"])
    project.write_values(database)
    done = project.deploy("--timeout", "3m")
    assert done.code == 0, done.words
    assert done.report["outcome"]["well"] is True
    assert done.report["outcome"]["revision"] == 1
    print(f"\ninstalled in {done.report['outcome']['took']:.1f} s")
    return project


def test_all_groups_are_ready_after_the_install(kube: Kube, project: Project) -> None:
    assert {group: sum(map(is_ready, kube.pods(group))) for group in GROUPS} == {
        "api": 2, "blocks": 1, "feeds": 2, "queues": 2, "timers": 1,
    }  # fmt: skip
    assert all(pod["status"]["containerStatuses"][0]["restartCount"] == 0 for g in GROUPS for pod in kube.pods(g))


@pytest.mark.parametrize("group", GROUPS)
def test_health_is_told_through_a_forwarded_port(kube: Kube, project: Project, group: str) -> None:
    with kube.forwarded(f"deployment/tally-{group}", 8081) as url:
        for path in ("/startupz", "/livez", "/readyz"):
            assert page(url + path)[0] == 200
        code, health = page(f"{url}/health")
        assert code == 200
        assert json.loads(health)["status"] == "Healthy"
        assert "tidemill_info" in page(f"{url}/metrics")[1]


def test_scaled_up_and_down_under_load_with_pods_deleted(kube: Kube, project: Project) -> None:
    kube.scale("feeds", 1)
    kube.scale("queues", 1)
    kube.ready("feeds", 1)
    kube.ready("queues", 1)
    load = Load(kube, project.image, "scale", 30)
    kube.scale("feeds", 4)
    kube.scale("queues", 6)
    kube.ready("feeds", 4)
    kube.ready("queues", 6)
    time.sleep(5)
    for group in ("feeds", "queues"):
        stopped, killed = (pod["metadata"]["name"] for pod in kube.pods(group)[:2])
        kube.run("delete", "pod", stopped, "--wait=false")
        kube.run("delete", "pod", killed, "--grace-period=0", "--force")
    kube.ready("feeds", 4)
    kube.ready("queues", 6)
    time.sleep(5)
    kube.scale("feeds", 2)
    kube.scale("queues", 2)
    kube.ready("feeds", 2)
    time.sleep(5)
    sent = load.stop()
    print(f"\nscaled: {sum(sent.sent.values())} entries, {sent.requests} requests, {sent.failed} failed")
    assert sent.failed == 0, sent.failures
    assert min(sent.sent.values()) >= 10
    balanced(kube, sent.sent)


def test_a_rolling_restart_under_load_fails_no_request_and_loses_nothing(kube: Kube, project: Project) -> None:
    load = Load(kube, project.image, "restart", 30)
    time.sleep(3)
    for _ in range(2):
        kube.run("rollout", "restart", *(f"deployment/tally-{group}" for group in ("api", "feeds", "queues")))
        kube.rolled_out("api", "feeds", "queues")
    time.sleep(3)
    sent = load.stop()
    print(f"\nrestarted: {sum(sent.sent.values())} entries, {sent.requests} requests, {sent.failed} failed")
    assert sent.failed == 0, sent.failures
    assert min(sent.sent.values()) >= 10
    balanced(kube, sent.sent)


def test_a_handler_that_blocks_is_restarted_and_its_log_says_why(kube: Kube, project: Project) -> None:
    begun = time.monotonic()
    kube.post("/blocks/one")

    def restarted() -> str:
        (pod,) = kube.pods("blocks")
        return pod["metadata"]["name"] if pod["status"]["containerStatuses"][0]["restartCount"] else ""

    name = until("the pod is started again", restarted, 240, every=2)
    print(f"\nstarted again {time.monotonic() - begun:.0f} s after the message was sent")
    log = kube.run("logs", name, "--previous")
    assert "in block at /tally/tally.py:" in log, log[-3000:]
    assert "/livez fails; all stacks follow" in log, log[-3000:]
    assert any("Liveness probe failed" in event["message"] for event in kube.get("events")["items"])
    kube.ready("blocks", 1)
    until("the message is done", lambda: kube.proxied("/books") is not None)


def test_a_broken_configuration_is_explained_and_stays_for_a_look(kube: Kube, project: Project) -> None:
    done = project.deploy("--set", "settings.TIDEMILL_GRAECE=five", "--no-rollback")
    assert done.code == 1
    assert "the container ends with exit code 2, because its configuration is refused" in done.words
    assert "| tidemill: TIDEMILL_GRAECE: there is no such setting; did you mean grace?" in done.words
    reasons = {
        (pod["status"]["containerStatuses"][0]["state"].get("waiting") or {}).get("reason")
        for group in GROUPS for pod in kube.pods(group)
    }  # fmt: skip
    assert "CrashLoopBackOff" in reasons
    assert {group: sum(map(is_ready, kube.pods(group))) >= 1 for group in GROUPS} == dict.fromkeys(GROUPS, True)
    back = project.tidemill("rollback", "--release", "tally")
    assert back.code == 0, back.words
    assert back.report["outcome"]["well"] is True


def test_a_failed_upgrade_rolls_back_and_nobody_notices(kube: Kube, project: Project) -> None:
    load = Load(kube, project.image, "upgrade", 10)
    done = project.deploy("--set", "settings.TIDEMILL_GRAECE=five")
    assert done.code == 1
    assert "what ran before is back, as revision" in done.words
    assert done.report["back"]["well"] is True
    print(f"\nfailed after {done.report['outcome']['took']:.1f} s, back after {done.report['back']['took']:.1f} s")
    sent = load.stop()
    assert sent.failed == 0, sent.failures
    balanced(kube, sent.sent)


def test_an_image_that_is_not_there_is_explained(kube: Kube, project: Project) -> None:
    other = Project(project.folder, kube, "registry.invalid/tally:1")
    done = other.deploy("--timeout", "45s")
    assert done.code == 1
    assert "the node cannot pull registry.invalid/tally:1" in done.words
    assert done.report["back"]["well"] is True


def test_nothing_is_left_after_an_uninstall(kube: Kube, project: Project) -> None:
    subprocess.run(["helm", "uninstall", "tally", "-n", kube.namespace, "--wait"], check=True, timeout=180)
    kinds = kube.run("api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]

    def left() -> list[str]:
        found = kube.run(
            "get", ",".join(kinds), "-l", "app.kubernetes.io/instance=tally", "-o", "name", "--ignore-not-found"
        )
        return found.split()

    until("nothing is left", lambda: not left(), 90, every=2)
    others = kube.run("get", ",".join(kinds), "-o", "name", "--ignore-not-found").split()
    assert sorted(others) == ["configmap/kube-root-ca.crt", "configmap/tally-source", "serviceaccount/default"]


def test_the_folder_needs_no_chart(project: Project) -> None:
    assert not Path(project.folder, "chart").exists()
