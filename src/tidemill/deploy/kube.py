"""What we ask a cluster by `kubectl`: whatever it reaches, we reach."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.deploy.outside import CommandFailed, Said, ask, failed
from tidemill.deploy.seen import Seen, seen

LIMIT = 30.0
"""Seconds that one question may take."""

CONTAINER = "tidemill"
"""The name of our container in each pod, as the chart has it."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where to: a context of the kubeconfig and a namespace, each empty for the one that kubectl is set to."""

    context: str = ""
    namespace: str = ""

    def settled(self) -> Cluster:
        """With the namespace written out where kubectl is set to one: Helm and kubectl then mean the same."""
        if self.namespace:
            return self
        asked = ("config", "view", "--minify", "-o", "jsonpath={..namespace}")
        return Cluster(self.context, self._said(*asked).strip() or "default")

    def look(self, release: str) -> Seen:
        """Deployments, pods and events of a release. Raises `CommandFailed`."""
        label = f"app.kubernetes.io/instance={release}"
        objects = self._items("deployments.apps,replicasets.apps,pods", "-l", label)
        return seen(objects, self._items("events"), time.time())

    def log(self, pod: str, *, previous: bool, lines: int) -> list[str]:
        """The last lines that a container wrote; none if there is no log (any more, or yet)."""
        words = ("logs", pod, "-c", CONTAINER, f"--tail={lines}", *(("--previous",) if previous else ()))
        said = self._kubectl(*words)
        if said.code != 0 or said.out.startswith("unable to retrieve container logs"):  # told with exit code 0
            return []
        return said.out.splitlines()

    def probe(self, pod: str, path: str) -> str:
        """What a probe of a running pod answers, asked inside the pod; empty if it cannot be asked."""
        said = self._kubectl("exec", pod, "-c", CONTAINER, "--", "tidemill", "health", "--probe", path)
        return said.out.strip() or said.err.strip().partition("\n")[0]

    def _items(self, what: str, *words: str) -> Sequence[Any]:
        found: Sequence[Any] = json.loads(self._said("get", what, *words, "-o", "json"))["items"]
        return found

    def _said(self, *words: str) -> str:
        said = self._kubectl(*words)
        if said.code != 0:
            raise failed(("kubectl", *words), said.code, said.err.splitlines())
        return said.out

    def _kubectl(self, *words: str) -> Said:
        where = [*(("--context", self.context) if self.context else ())]
        where += ["--namespace", self.namespace] if self.namespace else []
        try:
            return ask(("kubectl", *where, *words), limit=LIMIT)
        except CommandFailed as error:
            hint = "; install it, it watches what a deploy does" if str(error).endswith("is not there") else ""
            raise CommandFailed(f"{error}{hint}") from None
