"""Charts as Helm 3 and Helm 4 read them: what they make of twenty apps, and what their schema refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from tests.servers import helm as helms
from tidemill.deploy.chart import chart, write

from .apps import CASES, Case
from .charts import BY_NAME, DIGEST, Chart, Manifest, of_kind, turned_on, written

TREE = Path(__file__).parent.parent.parent
AVALON = TREE / "examples/avalon/chart"
HELMS = (3, 4)
KUBERNETES = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35")
FOREIGN = ("ScaledObject", "TriggerAuthentication", "PodMonitor")
"""Kinds that Kubernetes itself does not know."""

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(autouse=True)
def _helm() -> None:
    for helm in HELMS:
        if why := helms.missing(helm):
            pytest.skip(why)


@pytest.fixture
def charted(tmp_path: Path, case: Case) -> Chart:
    return written(case, tmp_path)


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


# --- what Helm makes of it ------------------------------------------------------------------------------------


@each_case
@pytest.mark.parametrize("on", [False, True], ids=["as written", "all options"])
def test_both_helms_make_the_same_valid_manifests(charted: Chart, on: bool) -> None:
    values = turned_on(charted.case) if on else {}
    for helm in HELMS:
        code, out, err = charted.helm(helm, "lint", "--strict", values=values)
        assert code == 0, out + err
    third, fourth = (charted.manifests(helm, values=values) for helm in HELMS)
    assert third == fourth
    _is_valid(third)
    _is_restricted(third)
    _is_told_apart(third, charted.case)
    _has_what_a_pod_needs(third, charted.case)


@each_case
def test_keda_scales_by_what_the_plan_says(charted: Chart) -> None:
    plan = charted.case.plan()
    counted = [group for group in plan.groups if group.triggers and not plan.embedded]
    values = {"groups": {group.name: {"autoscaling": {"kind": "keda"}} for group in counted}}
    third, fourth = (charted.manifests(helm, values=values) for helm in HELMS)
    assert third == fourth
    _is_valid(third)
    scaled = {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in of_kind(third, "ScaledObject")}
    assert set(scaled) == {group.name for group in counted}
    services = {one["metadata"]["name"] for one in of_kind(third, "Service")}
    for group in counted:
        spec = scaled[group.name]["spec"]
        assert spec["maxReplicaCount"] == group.most
        assert spec["minReplicaCount"] == group.replicas
        for trigger in spec["triggers"]:
            assert all(isinstance(value, str) for value in trigger["metadata"].values())
            if trigger["type"] == "metrics-api":
                host = trigger["metadata"]["url"].removeprefix("http://").partition(".")[0]
                assert host in services, "it is asked at a Service that is there"
        (deployment,) = (
            one for one in of_kind(third, "Deployment") if one["metadata"]["name"] == spec["scaleTargetRef"]["name"]
        )
        assert "replicas" not in deployment["spec"], "who scales says how many"


@pytest.mark.parametrize("helm", HELMS)
@pytest.mark.parametrize("case", [BY_NAME["all of it"], BY_NAME["a file"]], ids=lambda case: case.name)
def test_it_is_packaged(charted: Chart, helm: int, tmp_path: Path) -> None:
    code, _, err = charted.helm(helm, "package", "--destination", str(tmp_path))
    assert code == 0, err
    assert (tmp_path / "shop-1.2.3.tgz").is_file()


@pytest.mark.parametrize("helm", HELMS)
def test_avalon(helm: int, tmp_path: Path) -> None:
    for words in (("lint", "--strict"), ("template",), ("package", "--destination", str(tmp_path))):
        done = helms.run(helm, words[0], str(AVALON), *words[1:])
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.glob("avalon-*.tgz"))) == 1


@pytest.mark.parametrize("helm", HELMS)
def test_under_an_umbrella(helm: int, tmp_path: Path) -> None:
    """Two apps in one chart: one registry for both, no name twice, and what `enabled` says."""
    umbrella = tmp_path / "umbrella"
    for name in ("shop", "mail"):
        case = Case("", BY_NAME["all of it"].declare, api=True, app=name)
        write(chart(case.plan(), f"other.example.com/{name}"), umbrella / "charts" / name)
    about = "apiVersion: v2\nname: umbrella\nversion: 1.0.0\ndependencies:\n"
    about += "".join(
        f"  - name: {name}\n    version: 1.2.3\n    condition: {name}.enabled\n" for name in ("shop", "mail")
    )
    (umbrella / "Chart.yaml").write_text(about, "utf-8")
    (umbrella / "values.yaml").write_text("global:\n  imageRegistry: mirror.example.com\n", "utf-8")
    both = Chart(CASES[0], umbrella).manifests(helm)
    images = {c["image"] for one in of_kind(both, "Deployment") for c in one["spec"]["template"]["spec"]["containers"]}
    assert images == {"mirror.example.com/shop:1.2.3", "mirror.example.com/mail:1.2.3"}
    names = [(one["kind"], one["metadata"]["name"]) for one in both]
    assert len(set(names)) == len(names)
    _selectors_are_disjoint(both)
    one = Chart(CASES[0], umbrella).manifests(helm, values={"mail": {"enabled": False}})
    assert {m["metadata"]["labels"]["app.kubernetes.io/name"] for m in of_kind(one, "Deployment")} == {"shop"}


@pytest.mark.parametrize("case", [BY_NAME["all of it"]], ids=lambda case: case.name)
def test_a_change_of_settings_or_secrets_starts_new_pods(charted: Chart) -> None:
    def hashes(values: Mapping[str, Any]) -> set[str]:
        found = of_kind(charted.manifests(4, values=values), "Deployment")
        return {json.dumps(one["spec"]["template"]["metadata"]["annotations"], sort_keys=True) for one in found}

    plain = hashes({})
    assert len(plain) == 1
    assert not plain & hashes({"settings": {"TIDEMILL_LOG_LEVEL": "debug"}})
    secret = hashes({"secrets": {"TIDEMILL_DATABASE": {"value": "a"}}})
    assert not plain & secret
    assert not secret & hashes({"secrets": {"TIDEMILL_DATABASE": {"value": "b"}}})


# --- what its schema refuses ----------------------------------------------------------------------------------


def group(name: str = "feeds", **values: Any) -> dict[str, Any]:
    return {"groups": {name: values}}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a key that is not there": ({"imge": {}}, "imge"),
    "a group that is not there": (group("feed"), "feed"),
    "a misspelt key of a group": (group(replica=1), "replica"),
    "more replicas than partitions": (group(replicas=17), "replicas"),
    "more by the autoscaler": (group(autoscaling={"kind": "hpa", "max": 17}), "max"),
    "less time than the drain": (group(terminationGracePeriodSeconds=30), "terminationGracePeriodSeconds"),
    "latest": ({"image": {"tag": "latest"}}, "tag"),
    "no digest": ({"image": {"digest": "sha256:12"}}, "digest"),
    "a repository with a tag": ({"image": {"repository": "shop:1"}}, "repository"),
    "a probe that never asks": (group(probes={"liveness": {"periodSeconds": 0}}), "periodSeconds"),
    "a misspelt probe": (group(probes={"lifeness": {}}), "lifeness"),
    "a number for text": ({"settings": {"TIDEMILL_LOG_LEVEL": 1}}, "TIDEMILL_LOG_LEVEL"),
    "a setting that is derived from": ({"settings": {"TIDEMILL_GRACE": "5"}}, "TIDEMILL_GRACE"),
    "a secret in the open": ({"settings": {"TIDEMILL_DATABASE": "postgresql://a:b@c/d"}}, "TIDEMILL_DATABASE"),
    "a setting that is none": ({"settings": {"LOG_LEVEL": "debug"}}, "LOG_LEVEL"),
    "a pod's own variable": (group(extraEnv=[{"name": "TIDEMILL_POD_UID", "value": "x"}]), "extraEnv"),
    "root": ({"podSecurityContext": {"runAsNonRoot": False}}, "runAsNonRoot"),
    "a root that can be written": ({"securityContext": {"readOnlyRootFilesystem": False}}, "readOnlyRootFilesystem"),
    "more rights": ({"securityContext": {"allowPrivilegeEscalation": True}}, "allowPrivilegeEscalation"),
    "a port out of range": ({"service": {"port": 70000}}, "port"),
    "an ingress without a host": ({"ingress": {"enabled": True}}, "hosts"),
    "an autoscaler of another kind": (group(autoscaling={"kind": "vpa"}), "kind"),
    "keda without a trigger": (group("timers", autoscaling={"kind": "keda", "triggers": []}), "triggers"),
    "a trigger without its number": (
        group("queues", autoscaling={"kind": "keda", "triggers": [{"type": "postgresql", "metadata": {}}]}), "query"),
    "a selector's label": (group(podLabels={"app.kubernetes.io/name": "other"}), "app.kubernetes.io/name"),
    "another app": ({"app": {"target": "other:app"}}, "target"),
    "a size that is none": ({"tmpSize": "64 MB"}, "tmpSize"),
}  # fmt: skip


@pytest.mark.parametrize("helm", HELMS)
def test_what_cannot_work_is_refused(helm: int, tmp_path: Path) -> None:
    charted = written(BY_NAME["all of it"], tmp_path)
    taken, unnamed = [], []
    for what, (values, name) in REFUSED.items():
        code, _, err = charted.helm(helm, "template", values=values)
        if code == 0:
            taken.append(what)
        elif name not in err:
            unnamed.append(f"{what}: {err}")
    assert taken == []
    assert unnamed == []


@pytest.mark.parametrize("helm", HELMS)
def test_a_minimum_above_the_maximum_is_refused(helm: int, tmp_path: Path) -> None:
    charted = written(BY_NAME["all of it"], tmp_path)
    code, _, err = charted.helm(helm, "template", values=group(autoscaling={"kind": "hpa", "min": 4, "max": 2}))
    assert code != 0
    assert "groups.feeds.autoscaling: min is 4 and max 2; min must not be more" in err


@pytest.mark.parametrize("helm", HELMS)
def test_a_file_cannot_be_scaled(helm: int, tmp_path: Path) -> None:
    charted = written(BY_NAME["a file"], tmp_path)
    for values in (group("all", replicas=2), group("all", autoscaling={"kind": "hpa"})):
        code, _, err = charted.helm(helm, "template", values=values)
        assert code != 0, err


# --- what holds of every manifest -----------------------------------------------------------------------------


def _is_valid(manifests: list[Manifest]) -> None:
    """For each Kubernetes, strictly: unknown fields are refused."""
    for one in manifests:
        if one["kind"] not in FOREIGN:
            for version in KUBERNETES:
                kubernetes_validate.validate(dict(one), version, strict=True)


def _is_restricted(manifests: list[Manifest]) -> None:
    """The pod security standard `restricted`, in the words of its table."""
    for one in of_kind(manifests, "Deployment"):
        spec = one["spec"]["template"]["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        assert all(not {"hostPath", "nfs"} & set(volume) for volume in spec["volumes"])
        for container in spec["containers"]:
            rights = container["securityContext"]
            assert rights["allowPrivilegeEscalation"] is False
            assert rights["readOnlyRootFilesystem"] is True
            assert rights["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in rights
            assert all("hostPort" not in port for port in container["ports"])
            assert not container["image"].endswith(":latest")
            assert {"requests", "limits"} <= set(container["resources"])
    assert all(one.get("automountServiceAccountToken") is False for one in of_kind(manifests, "ServiceAccount"))


def _is_told_apart(manifests: list[Manifest], case: Case) -> None:
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 63 for _, name in names)
    _selectors_are_disjoint(manifests)
    assert len(of_kind(manifests, "Deployment")) == len(case.plan().groups)
    served = any(group.api_port is not None for group in case.plan().groups)
    assert bool(of_kind(manifests, "Service")) == served, "a Service for the web API alone"


def _selectors_are_disjoint(manifests: list[Manifest]) -> None:
    """Each selects its own pods, and no other's."""
    deployments = of_kind(manifests, "Deployment")
    selectors = [one["spec"]["selector"]["matchLabels"] for one in deployments]
    for one, selector in zip(deployments, selectors, strict=True):
        assert selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    for left, right in combinations(deployments, 2):
        labels = right["spec"]["template"]["metadata"]["labels"]
        assert not left["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for kind in ("PodDisruptionBudget", "NetworkPolicy"):
        for one in of_kind(manifests, kind):
            spec = one["spec"]
            chosen = (spec.get("selector") or spec["podSelector"])["matchLabels"]
            found = [d for d in deployments if chosen.items() <= d["spec"]["template"]["metadata"]["labels"].items()]
            assert found, f"{kind} {one['metadata']['name']} selects nothing"


def _has_what_a_pod_needs(manifests: list[Manifest], case: Case) -> None:
    plan = case.plan()
    groups = {group.name: group for group in plan.groups}
    for one in of_kind(manifests, "Deployment"):
        group = groups[one["metadata"]["labels"]["app.kubernetes.io/component"]]
        pod = one["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["terminationGracePeriodSeconds"] >= group.termination
        assert "lifecycle" not in container, "the app does the lame duck itself"
        assert container["args"][:2] == ["run", "shop.app:app"]
        assert "command" not in container, "the image's entry point gets the signals"
        variables = {one["name"]: one for one in container["env"]}
        assert variables["TIDEMILL_POD_UID"]["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.uid"
        assert variables["TIDEMILL_CONTAINER"]["value"] == container["name"]
        for name, path in (("startup", "/startupz"), ("readiness", "/readyz"), ("liveness", "/livez")):
            probe = container[f"{name}Probe"]
            assert probe["httpGet"]["path"] == path
            assert probe["timeoutSeconds"] == 5
        assert "checksum/config" in one["spec"]["template"]["metadata"]["annotations"]
        if "replicas" in one["spec"]:
            assert one["spec"]["replicas"] <= group.most


def test_the_digest_is_what_runs(tmp_path: Path) -> None:
    charted = written(BY_NAME["a queue"], tmp_path)
    (one,) = of_kind(charted.manifests(4, values={"image": {"digest": DIGEST, "tag": "1"}}), "Deployment")
    assert one["spec"]["template"]["spec"]["containers"][0]["image"] == f"registry.example.com/team/shop@{DIGEST}"
