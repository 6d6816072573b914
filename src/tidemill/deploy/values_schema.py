"""From the plan to `values.schema.json`: what a user's values may say. Draft 7, which Helm 3 and Helm 4 both read.

Strict: a key that is misspelt is refused, and so is what cannot work: more replicas than a feed has partitions, less
time than the drain takes, the tag `latest`, a setting that the probes and ports were derived from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from tidemill.deploy.plan import Group, Plan
from tidemill.deploy.values import secret_settings, settings_of

Schema: TypeAlias = dict[str, Any]

TEXT: Schema = {"type": "string"}
FLAG: Schema = {"type": "boolean"}
MAP: Schema = {"type": "object"}
LIST: Schema = {"type": "array"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
LABEL: Schema = {"type": "string", "pattern": "^([a-z0-9]([a-z0-9.-]*[a-z0-9])?)?$", "maxLength": 63}
PORT: Schema = {"type": "integer", "minimum": 1, "maximum": 65535}
QUANTITY: Schema = {"type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(Ki|Mi|Gi|Ti|k|M|G|T)?$"}
COUNT: Schema = {
    "oneOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": "^(100|[0-9]{1,2})%$"}],
}
REPOSITORY = "^[a-z0-9]+([._/-]+[a-z0-9]+)*$"
DIGEST = "^(sha256:[0-9a-f]{64})?$"
VARIABLE = "^TIDEMILL_[A-Z0-9_]+$"
OWN = ("TIDEMILL_REPLICA", "TIDEMILL_POD_UID", "TIDEMILL_CONTAINER")
"""Variables that each pod gets by what it is."""

NEEDED: Mapping[str, Sequence[str]] = {
    "postgresql": ("query", "targetQueryValue"),
    "azure-queue": ("queueName", "queueLength"),
    "azure-servicebus": ("queueName", "messageCount"),
    "azure-cosmosdb": ("databaseId", "containerId", "leaseDatabaseId", "leaseContainerId", "processorName"),
    "metrics-api": ("targetValue",),
}
"""What KEDA wants to know for a trigger."""


def values_schema(plan: Plan) -> str:
    """The text of the schema of one app."""
    return json.dumps(_root(plan), indent=2) + "\n"


def _root(plan: Plan) -> Schema:
    api = next((group.name for group in plan.groups if group.api_port is not None), "")
    fields: dict[str, Schema] = {
        "enabled": {**FLAG, "description": "read by an umbrella chart alone"},
        "global": {
            "type": "object",
            "properties": {"imageRegistry": TEXT, "imagePullSecrets": LIST},
        },
        "fullnameOverride": LABEL,
        "app": _exactly({"target": plan.target, "api": api, "embedded": plan.embedded}),
        "image": _image(),
        "imagePullSecrets": {"type": "array", "items": {"oneOf": [TEXT, _strict({"name": TEXT}, ["name"])]}},
        "settings": _settings(plan),
        "secrets": _secrets(plan),
        "serviceAccount": _strict({"create": FLAG, "name": LABEL, "annotations": TEXTS}),
        "azureWorkloadIdentity": _strict({"enabled": FLAG, "clientId": TEXT}),
        "podSecurityContext": {**MAP, "properties": {"runAsNonRoot": {"enum": [True]}}},
        "securityContext": {
            **MAP,
            "properties": {"allowPrivilegeEscalation": {"enum": [False]}, "readOnlyRootFilesystem": {"enum": [True]}},
        },
        "tmpSize": QUANTITY,
        "networkPolicy": _strict({"enabled": FLAG, "apiFrom": LIST, "healthFrom": LIST, "egress": LIST}),
        "podMonitor": _strict({"enabled": FLAG, "interval": _matching("^[0-9]+(ms|s|m)$"), "labels": TEXTS}),
        "extraObjects": {"type": "array", "items": {"type": ["object", "string"]}},
        "groups": _strict(
            {group.name: _group(group, embedded=plan.embedded) for group in plan.groups},
            [group.name for group in plan.groups],
        ),
    }
    if api:
        fields |= {"service": _service(), "ingress": _ingress()}
    if plan.embedded:
        claim = {"existingClaim": LABEL, "storageClass": TEXT, "size": QUANTITY, "keep": FLAG}
        fields["persistence"] = _strict(claim)
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": f"Values of {plan.app}",
        **_strict(fields, ["app", "image", "settings", "groups"]),
    }


def _image() -> Schema:
    tag = {
        **_matching("^([A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$"),
        "not": {"enum": ["latest"]},
        "description": "latest is another image tomorrow",
    }
    policy = {"enum": ["Always", "IfNotPresent", "Never"]}
    return _strict(
        {
            "registry": TEXT,
            "repository": _matching(REPOSITORY),
            "digest": _matching(DIGEST),
            "tag": tag,
            "pullPolicy": policy,
        },
        ["repository"],
    )


def _settings(plan: Plan) -> Schema:
    """Those that the plan was derived from stay as they are; what is secret or a pod's own does not belong here."""
    fixed = settings_of(plan)
    return {
        "type": "object",
        "properties": {name: {"enum": [value]} for name, value in fixed.items()},
        "required": list(fixed),
        "propertyNames": {**_matching(VARIABLE), "not": {"enum": [*secret_settings(plan), *OWN]}},
        "additionalProperties": TEXT,
    }


def _secrets(plan: Plan) -> Schema:
    secret = _strict({"existingSecret": TEXT, "key": _matching("^[A-Za-z0-9._-]*$"), "value": TEXT})
    names = {"pattern": "^[A-Z_][A-Z0-9_]*$", "not": {"enum": [*settings_of(plan), *OWN]}}
    return {"type": "object", "propertyNames": names, "additionalProperties": secret}


def _service() -> Schema:
    return _strict(
        {"type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]}, "port": PORT, "annotations": TEXTS},
    )


def _ingress() -> Schema:
    paths = {"type": "array", "items": _matching("^/")}
    host = _strict({"host": {"type": "string", "minLength": 1}, "paths": paths}, ["host"])
    return {
        **_strict(
            {
                "enabled": FLAG,
                "className": TEXT,
                "annotations": TEXTS,
                "hosts": {"type": "array", "items": host},
                "tls": {"type": "array", "items": MAP},
            }
        ),
        "if": {"properties": {"enabled": {"enum": [True]}}, "required": ["enabled"]},
        "then": {"properties": {"hosts": {"minItems": 1}}, "required": ["hosts"]},
    }


def _group(group: Group, *, embedded: bool) -> Schema:
    replicas: Schema = {"type": "integer", "minimum": 0, "maximum": group.most}
    if group.partitions is not None:
        replicas["description"] = f"its largest feed has {group.partitions} partitions; more have nothing to do"
    budget = {**COUNT, "description": "0 would stop every upgrade of a node"}
    seconds = {"type": "integer", "minimum": group.termination, "description": "the budget of the drain, in seconds"}
    return _strict(
        {
            "replicas": replicas,
            "terminationGracePeriodSeconds": seconds,
            "minReadySeconds": {"type": "integer", "minimum": 0},
            "progressDeadlineSeconds": {"type": "integer", "minimum": 60},
            "maxSurge": COUNT,
            "maxUnavailable": COUNT,
            "probes": _strict({name: _probe() for name in ("startup", "readiness", "liveness")}),
            "resources": _strict({"requests": MAP, "limits": MAP, "claims": LIST}),
            "autoscaling": _autoscaling(group, embedded=embedded),
            "podDisruptionBudget": _strict({"enabled": FLAG, "maxUnavailable": budget}),
            "topologySpread": {"type": "array", "items": TEXT},
            "podAnnotations": {**TEXTS, "propertyNames": {"not": {"pattern": "^checksum/"}}},
            "podLabels": {
                **TEXTS,
                "propertyNames": {"not": {"pattern": "^(app.kubernetes.io|azure.workload.identity)/"}},
            },
            "extraEnv": {"type": "array", "items": {**MAP, "required": ["name"], "properties": {"name": _variable()}}},
            "extraVolumes": {"type": "array", "items": {**MAP, "required": ["name"]}},
            "extraVolumeMounts": {"type": "array", "items": {**MAP, "required": ["name", "mountPath"]}},
            "nodeSelector": TEXTS,
            "tolerations": LIST,
            "affinity": MAP,
            "priorityClassName": TEXT,
        }
    )


def _variable() -> Schema:
    return {**TEXT, "not": {"enum": list(OWN)}}


def _probe() -> Schema:
    once: Schema = {"type": "integer", "minimum": 1}
    return _strict({"periodSeconds": once, "timeoutSeconds": once, "failureThreshold": once})


def _autoscaling(group: Group, *, embedded: bool) -> Schema:
    whole: Schema = {"type": "integer", "minimum": 1}
    return {
        **_strict(
            {
                "kind": {"enum": ["none"] if embedded else ["none", "hpa", "keda"]},
                "min": {**whole, "maximum": group.most},
                "max": {**whole, "maximum": group.most},
                "cpu": {**whole, "maximum": 1000},
                "scaleDownSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
                "pollingSeconds": whole,
                "triggers": {"type": "array", "items": _trigger()},
            },
            ["kind"],
        ),
        "if": {"properties": {"kind": {"enum": ["keda"]}}, "required": ["kind"]},
        "then": {"properties": {"triggers": {"minItems": 1}}, "required": ["triggers"]},
    }


def _trigger() -> Schema:
    needs = [
        {
            "if": {"properties": {"type": {"enum": [kind]}}, "required": ["type"]},
            "then": {"properties": {"metadata": {"required": list(names)}}},
        }
        for kind, names in NEEDED.items()
    ]
    reference = _strict({"name": TEXT, "kind": TEXT}, ["name"])
    fields = {"type": TEXT, "name": TEXT, "metadata": TEXTS, "authenticationRef": reference}
    return {**_strict(fields, ["type", "metadata"]), "allOf": needs}


# --- pieces -------------------------------------------------------------------------------------------------


def _strict(fields: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    """An object with these keys and no others."""
    needed = {"required": list(required)} if required else {}
    return {"type": "object", "properties": dict(fields), **needed, "additionalProperties": False}


def _exactly(fields: Mapping[str, Any]) -> Schema:
    return _strict({name: {"enum": [value]} for name, value in fields.items()}, list(fields))


def _matching(pattern: str) -> Schema:
    return {"type": "string", "pattern": pattern}
