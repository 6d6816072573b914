"""Charts of the table's apps on disk, what Helm makes of them, and the manifests in it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.servers import helm as helms
from tidemill.deploy.chart import chart, write

from .apps import CASES, Case

Manifest = Mapping[str, Any]

IMAGE = "registry.example.com/team/shop"
DIGEST = "sha256:" + "0f" * 32
BY_NAME = {case.name: case for case in CASES}


@dataclass(frozen=True)
class Chart:
    """A chart in a folder."""

    case: Case
    folder: Path

    def helm(self, helm: int, verb: str, *words: str, values: Mapping[str, Any] | None = None) -> tuple[int, str, str]:
        """Exit code, output and complaints of one call; `values` are a user's own."""
        said: list[str] = []
        if values is not None:
            path = self.folder.parent / f"values-{helm}.json"
            path.write_text(json.dumps(values), "utf-8")
            said = ["--values", str(path)]
        name = ["shop"] if verb == "template" else []
        done = helms.run(helm, verb, *name, str(self.folder), *words, *said)
        return done.returncode, done.stdout, done.stderr

    def manifests(self, helm: int, *words: str, values: Mapping[str, Any] | None = None) -> list[Manifest]:
        code, out, err = self.helm(helm, "template", "--namespace", "stage", *words, values=values)
        assert code == 0, err
        return [one for one in yaml.load_all(out, _LOADER) if one]


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def written(case: Case, folder: Path) -> Chart:
    write(chart(case.plan(), IMAGE), folder / "chart")
    return Chart(case, folder / "chart")


def of_kind(manifests: Sequence[Manifest], kind: str) -> list[Manifest]:
    return [one for one in manifests if one["kind"] == kind]


def turned_on(case: Case) -> dict[str, Any]:
    """Every option at once, as far as the app has it."""
    plan = case.plan()
    api = any(group.api_port is not None for group in plan.groups)
    secrets = {"TIDEMILL_DATABASE": {"value": "postgresql://shop:secret@db/shop"}}
    values: dict[str, Any] = {
        "image": {"registry": "registry.example.com", "repository": "team/shop", "digest": DIGEST},
        "imagePullSecrets": ["pull", {"name": "pull-too"}],
        "azureWorkloadIdentity": {"enabled": True, "clientId": "11111111-2222-3333-4444-555555555555"},
        "serviceAccount": {"annotations": {"team": "shop"}},
        "networkPolicy": {
            "enabled": True,
            "apiFrom": [{"namespaceSelector": {"matchLabels": {"name": "ingress"}}}],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
        },
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "extraObjects": [
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-own"}, "data": {}},
            "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: text\ndata:\n  a: b\n",
        ],
        "groups": {group.name: _group_on(index, embedded=plan.embedded) for index, group in enumerate(plan.groups)},
    }  # fmt: skip
    if not plan.embedded:
        values["secrets"] = secrets
    if api:
        values["ingress"] = {
            "enabled": True, "className": "nginx", "hosts": [{"host": "shop.example.com", "paths": ["/"]}],
            "tls": [{"secretName": "shop-tls", "hosts": ["shop.example.com"]}],
        }  # fmt: skip
        values["service"] = {"annotations": {"a": "b"}}
    return values


def _group_on(index: int, *, embedded: bool) -> dict[str, Any]:
    group: dict[str, Any] = {
        "podAnnotations": {"a": "b"}, "podLabels": {"tier": "work"}, "priorityClassName": "high",
        "extraEnv": [{"name": "A", "value": "b"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "work", "operator": "Exists"}],
        "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    }  # fmt: skip
    if not embedded:
        group["autoscaling"] = {"kind": "hpa"} if index % 2 else {"kind": "none"}
    return group
