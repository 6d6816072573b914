"""A cluster as the tests use it: `kubectl` in a namespace of their own, a project to deploy, load, and the books."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import urlopen

TALLY = Path(__file__).parent / "tally"
T = TypeVar("T")


def until(what: str, look: Callable[[], T], limit: float = 60.0, every: float = 0.5) -> T:
    """Look until it is so (true in the eyes of Python); what was seen."""
    end = time.monotonic() + limit
    while not (found := look()):
        assert time.monotonic() < end, f"not within {limit:g} s: {what}"
        time.sleep(every)
    return found


@dataclass(frozen=True)
class Kube:
    """One namespace."""

    namespace: str

    def run(self, *words: str, given: str | None = None, limit: float = 120) -> str:
        done = subprocess.run(
            ["kubectl", "-n", self.namespace, *words],
            input=given, capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"kubectl {' '.join(words[:4])}: {done.stderr}"
        return done.stdout

    def get(self, what: str, *words: str) -> Any:
        return json.loads(self.run("get", what, *words, "-o", "json"))

    def pods(self, group: str) -> list[dict[str, Any]]:
        """Those that are not on their way out."""
        found = self.get("pods", "-l", f"app.kubernetes.io/component={group}")["items"]
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def scale(self, group: str, replicas: int) -> None:
        self.run("scale", f"deployment/tally-{group}", f"--replicas={replicas}")

    def ready(self, group: str, replicas: int, limit: float = 90.0) -> None:
        """Wait until so many pods are ready, and no more are there."""

        def look() -> bool:
            pods = self.pods(group)
            return len(pods) == replicas == sum(map(is_ready, pods))

        until(f"{replicas} ready pods of {group}", look, limit)

    def rolled_out(self, *groups: str, limit: float = 180) -> None:
        for group in groups:
            self.run("rollout", "status", f"deployment/tally-{group}", f"--timeout={limit:.0f}s", limit=limit + 10)

    def url(self, service: str) -> str:
        """As other pods reach it; there may be no DNS."""
        return f"http://{self.get('service', service)['spec']['clusterIP']}"

    def proxied(self, path: str) -> Any:
        """GET through the API server and the Service."""
        said = self.run("get", "--raw", f"/api/v1/namespaces/{self.namespace}/services/tally:http/proxy{path}")
        return json.loads(said)

    def post(self, path: str) -> None:
        self.run(
            "create",
            "--raw",
            f"/api/v1/namespaces/{self.namespace}/services/tally:http/proxy{path}",
            "-f",
            "-",
            given="",
        )

    @contextmanager
    def forwarded(self, what: str, port: int) -> Iterator[str]:
        """`kubectl port-forward`; the address on this machine."""
        forward = subprocess.Popen(
            ["kubectl", "-n", self.namespace, "port-forward", what, f":{port}"], stdout=subprocess.PIPE, text=True
        )
        try:
            assert forward.stdout is not None
            found = re.search(r"127\.0\.0\.1:\d+", forward.stdout.readline())
            assert found is not None
            yield f"http://{found[0]}"
        finally:
            forward.terminate()
            forward.communicate(timeout=10)


def is_ready(pod: Mapping[str, Any]) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions", ()))


def page(url: str) -> tuple[int, str]:
    with urlopen(url, timeout=10) as reply:
        return reply.status, reply.read().decode()


def our_address() -> str:
    """Under which pods reach this machine: CLUSTER_HOST, or that from which we reach the API server."""
    if said := os.environ.get("CLUSTER_HOST"):
        return said
    server = subprocess.check_output(
        ["kubectl", "config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}"], text=True
    )
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((urlsplit(server).hostname, 9))
        return str(probe.getsockname()[0])


# --- the project ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deployed:
    """What `tidemill deploy` said: its exit code, its report, and the words for people."""

    code: int
    report: dict[str, Any]
    words: str


@dataclass(frozen=True)
class Project:
    """The tests' app in a folder of its own, and what is said of it in values. The image is any with Tidemill in it:
    the app itself comes to the pods as a ConfigMap."""

    folder: Path
    kube: Kube
    image: str

    def write_values(self, database: str) -> None:
        source = {
            "extraEnv": [{"name": "PYTHONPATH", "value": "/tally"}],
            "extraVolumes": [{"name": "tally", "configMap": {"name": "tally-source"}}],
            "extraVolumeMounts": [{"name": "tally", "mountPath": "/tally", "readOnly": True}],
            "resources": {"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "256Mi"}},
        }
        values = {
            "secrets": {"TIDEMILL_DATABASE": {"value": database}},
            "groups": {
                **dict.fromkeys(("api", "feeds", "queues", "timers"), source),
                "blocks": {**source, "replicas": 1},
            },
        }
        (self.folder / "values.json").write_text(json.dumps(values), "utf-8")

    def tidemill(self, *words: str, limit: float = 400) -> Deployed:
        space = ("--namespace", self.kube.namespace)
        done = subprocess.run(
            [sys.executable, "-m", "tidemill", *words, *space, "--json"],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("TIDEMILL_")}
            | {"TIDEMILL_DATABASE": "postgresql://database/tally"},
            capture_output=True, text=True, timeout=limit, check=False,
        )  # fmt: skip
        return Deployed(done.returncode, json.loads(done.stdout or "{}"), done.stderr)

    def deploy(self, *words: str) -> Deployed:
        return self.tidemill("deploy", "tally:app", "--image", self.image, "-f", "values.json", *words)


# --- load -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sent:
    """Entries that were acknowledged, by account; and what became of the requests."""

    sent: Mapping[str, int]
    requests: int
    failed: int
    failures: Sequence[str]


class Load:
    """A pod that posts entries until it is stopped."""

    def __init__(self, kube: Kube, image: str, run: str, accounts: int) -> None:
        self.kube, self.name = kube, f"load-{run}"
        words = ["python", "/tally/load.py", kube.url("tally"), run, str(accounts)]
        kube.run("apply", "-f", "-", given=json.dumps(_pod(self.name, image, words)))
        until("the load runs", lambda: kube.get("pod", self.name)["status"]["phase"] == "Running")

    def stop(self) -> Sent:
        self.kube.run("exec", self.name, "--", "touch", "/tmp/stop")
        until("the load has ended", lambda: self.kube.get("pod", self.name)["status"]["phase"] == "Succeeded")
        told = json.loads(self.kube.run("logs", self.name).splitlines()[-1])
        self.kube.run("delete", "pod", self.name)
        return Sent(**told)


def _pod(name: str, image: str, words: Sequence[str]) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "load", "image": image, "command": list(words),
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": "tally", "mountPath": "/tally"}],
            }],
            "volumes": [{"name": "tally", "configMap": {"name": "tally-source"}}],
        },
    }  # fmt: skip


def balanced(kube: Kube, sent: Mapping[str, int], limit: float = 120.0) -> None:
    """Wait until every entry has arrived; then nothing is lost, doubled or out of turn."""

    def look() -> dict[str, Any] | None:
        books: dict[str, Any] = kube.proxied("/books")
        there = all(
            books["counted"].get(name, [0])[0] >= count and len(books["booked"].get(name, ())) >= count
            for name, count in sent.items()
        )
        return books if there else None

    books = until("every entry is in the books", look, limit, every=2.0)
    for name, count in sent.items():
        assert books["counted"][name] == [count, 0], f"{name}: last number, and how many were out of turn"
        assert books["booked"][name] == [1] * count, f"{name}: how often each entry was booked"
