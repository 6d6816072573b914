"""A double of a cluster: `helm` and `kubectl` as programs on PATH that play one release from a file.

Each revision has a fate: `well`, `refused` (exit code 2 again and again), `unready`, `broken` (the upgrade fails). The
real cluster is under tests/cluster; here is what a laptop without one can try.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STATE = "DOUBLE_OF_A_CLUSTER"

PROGRAM = """\
#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.doubles.cluster import {name}
sys.exit({name}(sys.argv[1:]))
"""


@dataclass(frozen=True)
class DoubleOfACluster:
    """The folder with the two programs, and the file with the state."""

    programs: Path
    state: Path

    @classmethod
    def make(cls, folder: Path, *fates: str) -> DoubleOfACluster:
        """`fates`: of the first revision, the second, …"""
        made = cls(folder / "programs", folder / "state.json")
        made.programs.mkdir()
        made.write({"fates": fates, "history": [], "calls": [], "status": "deployed", "helm": "v4.1.4"})
        root = str(Path(__file__).parents[2])
        for name in ("helm", "kubectl"):
            path = made.programs / name
            path.write_text(PROGRAM.format(python=sys.executable, root=root, name=name), "utf-8")
            path.chmod(0o755)
        return made

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.state.read_text("utf-8"))
        return found

    def write(self, state: dict[str, Any]) -> None:
        self.state.write_text(json.dumps(state), "utf-8")

    def calls(self, program: str) -> list[list[str]]:
        return [call[1:] for call in self.read()["calls"] if call[0] == program]


def _state(program: str, words: Sequence[str]) -> tuple[DoubleOfACluster, dict[str, Any]]:
    double = DoubleOfACluster(Path(), Path(os.environ[STATE]))
    state = double.read()
    state["calls"].append([program, *words])
    double.write(state)
    return double, state


def helm(words: Sequence[str]) -> int:
    double, state = _state("helm", words)
    match words[0]:
        case "history" if not state["history"]:
            sys.stderr.write("Error: release: not found\n")
            return 1
        case "history":
            last = len(state["history"])
            past = [
                {"revision": number, "status": state["status"] if number == last else "superseded"}
                for number in state["history"]
            ]
            print(json.dumps(past))
        case "upgrade":
            values = [words[i + 1] for i, word in enumerate(words) if word == "--values"]
            state["values"] = [Path(path).read_text("utf-8") for path in values]
            state["history"].append(len(state["history"]) + 1)
            double.write({**state, "looks": 0})
            if state["fates"][len(state["history"]) - 1] == "broken":
                sys.stderr.write("Error: UPGRADE FAILED: conflict\n")
                return 1
            print(json.dumps({"version": len(state["history"])}))
        case "rollback":
            state["history"].append(len(state["history"]) + 1)
            double.write({**state, "looks": 0})
        case "version":
            print(state["helm"], end="")
        case "template":
            print("kind: Deployment")
    return 0


def kubectl(words: Sequence[str]) -> int:
    double, state = _state("kubectl", words)
    fate = state["fates"][len(state["history"]) - 1] if state["history"] else ""
    if "config" in words:
        print("stage", end="")
    elif "events" in words:
        print(json.dumps({"items": []}))
    elif "logs" in words:
        print("tidemill: TIDEMILL_DATABASE=postgresql://shop:hidden@db/shop: no such database")
    elif "exec" in words:
        print('{"status": "unhealthy", "checks": [{"name": "database", "detail": "no answer for 12 s"}]}')
    else:
        state["looks"] = state.get("looks", 0) + 1
        double.write(state)
        print(json.dumps({"items": objects(fate, state["looks"])}))
    return 0


def objects(fate: str, looks: int) -> list[dict[str, Any]]:
    """A Deployment, its ReplicaSets and pods, as a cluster tells them after so many looks."""
    labels = {"app.kubernetes.io/component": "feeds"}
    status: dict[str, Any] = {"observedGeneration": 2, "replicas": 1, "updatedReplicas": 1}
    if fate == "well" and looks > 1:
        status |= {"readyReplicas": 1, "availableReplicas": 1}
    deployment = {
        "kind": "Deployment",
        "metadata": {
            "name": "shop-feeds", "uid": "d", "generation": 2, "labels": labels,
            "annotations": {"deployment.kubernetes.io/revision": "2"},
        },
        "spec": {"replicas": 1}, "status": status,
    }  # fmt: skip
    sets = [
        {
            "kind": "ReplicaSet",
            "metadata": {
                "name": f"shop-feeds-{hash}", "ownerReferences": [{"uid": "d"}],
                "labels": {**labels, "pod-template-hash": hash},
                "annotations": {"deployment.kubernetes.io/revision": revision},
            },
        }
        for hash, revision in (("old", "1"), ("new", "2"))
    ]  # fmt: skip
    return [deployment, *sets, _pod("old", "refused", 9), _pod("new", fate, looks)]


def _pod(hash: str, fate: str, looks: int) -> dict[str, Any]:
    states: dict[str, dict[str, Any]] = {
        "well": {"state": {"running": {}}, "restartCount": min(looks - 1, 1)},
        "unready": {"state": {"running": {}}, "restartCount": 0},
        "refused": {
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
            "lastState": {"terminated": {"exitCode": 2, "reason": "Error"}},
            "restartCount": min(looks - 1, 2),
        },
    }
    return {
        "kind": "Pod",
        "metadata": {
            "name": f"shop-feeds-{hash}-1", "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app.kubernetes.io/component": "feeds", "pod-template-hash": hash},
        },
        "spec": {"containers": [{"image": "shop"}]},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True" if fate == "well" else "False"}],
            "containerStatuses": [states[fate or "well"]],
        },
    }  # fmt: skip
