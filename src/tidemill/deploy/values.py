"""From the plan to `values.yaml`: text, with a comment beside everything that people decide."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from tidemill.deploy.plan import Embedded, Group, Plan, Probe, Trigger, lame_duck, scheme, setting
from tidemill.settings import Settings

USER = 10001
"""Of the image that `tidemill image` builds."""

DATA = "/data"
"""Where the volume of an embedded database is."""

POLLING, CALM = 15, 300
"""Seconds between two looks of KEDA, and for which less work must last before a replica goes."""

HEAD = """\
# Values of {app}, as `tidemill chart` wrote them: it derives them from the app, and writes them anew after a change.
# Keep what you change in a file of your own (helm upgrade … -f mine.yaml). values.schema.json refuses what cannot work.

# What the app says of itself; not for changing.
app:
  target: {target}
  api: {api} # the group that serves the web API; "" for none
  embedded: {embedded} # the database is a file: one replica, and a volume

# Of everything that is made; else RELEASE-{app}.
fullnameOverride: ""

# What an umbrella chart says for all its charts.
global:
  imageRegistry: "" # instead of image.registry
  imagePullSecrets: []

image:
  registry: {registry}
  repository: {repository}
  digest: "" # sha256:…: what was tested is what runs; goes before the tag
  tag: "" # else the project's version; never latest
  pullPolicy: IfNotPresent
imagePullSecrets: [] # names of Secrets

# Settings of all pods, as variables. Those below were derived from: probes, ports and grace periods follow from them.
# To change one of these, change tidemill.toml and run `tidemill chart` again; others may be added.
settings:
{settings}
# Settings that are secret: from a Secret that is there (existingSecret, key), or with a value here, from which the
# chart makes a Secret. More may be added, by the name of the variable. A pod sees a change of an existing Secret only
# when it is restarted: kubectl rollout restart deployment.
secrets:{secrets}

serviceAccount:
  create: true
  name: "" # else the name of everything
  annotations: {{}}

# A managed identity of Azure for the pods, and for KEDA's triggers of type azure-….
azureWorkloadIdentity:
  enabled: false
  clientId: ""

# The restricted pod standard. The user is the image's.
podSecurityContext:
  runAsNonRoot: true
  runAsUser: {user}
  runAsGroup: {user}
  fsGroup: {user}
  seccompProfile:
    type: RuntimeDefault
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
tmpSize: 64Mi # of /tmp, the one place that can be written
"""

API = """
# The web API.
service:
  type: ClusterIP
  port: 80
  annotations: {}
ingress:
  enabled: false
  className: ""
  annotations: {}
  hosts: [] # - host: shop.example.com
            #   paths: [/]
  tls: [] # - secretName: shop-tls
          #   hosts: [shop.example.com]
"""

PERSISTENCE = """
# The volume of the database file. It stays when the release goes, unless keep is false.
persistence:
  existingClaim: ""
  storageClass: ""
  size: 1Gi
  keep: true
"""

FOOT = """
# Who may connect to the pods; egress is not limited unless it is listed. The rules are those of Kubernetes.
networkPolicy:
  enabled: false
  apiFrom: [] # anybody
  healthFrom: [] # anybody: the kubelet, Prometheus, KEDA
  egress: []

# /metrics of every pod, for the Prometheus operator.
podMonitor:
  enabled: false
  interval: 30s
  labels: {}

extraObjects: [] # manifests of your own, as objects or text; both may use the chart's template functions
"""

GROUP = """\
  {name}: # {what}
    replicas: {replicas}{most}
    terminationGracePeriodSeconds: {termination} # the budget of the drain: more is allowed, less is not
    minReadySeconds: {ready}
    progressDeadlineSeconds: {deadline}
    maxSurge: {surge}
    maxUnavailable: {unavailable}
    probes: # the patience is in the app: /livez fails after 30 s of silence
      startup: {startup}
      readiness: {readiness}
      liveness: {liveness}
    resources: # no limit of CPU: it would throttle, and a throttled loop looks stuck
      requests:
        cpu: 100m
        memory: {memory}Mi
        ephemeral-storage: 64Mi
      limits:
        memory: {memory_limit}Mi
        ephemeral-storage: 1Gi # /tmp and the logs that the node keeps
    autoscaling:
{autoscaling}
    podDisruptionBudget: # where there is more than one replica
      enabled: true
      maxUnavailable: 1
    topologySpread: [topology.kubernetes.io/zone, kubernetes.io/hostname]
    podAnnotations: {{}}
    podLabels: {{}}
    extraEnv: []
    extraVolumes: []
    extraVolumeMounts: []
    nodeSelector: {{}}
    tolerations: []
    affinity: {{}}
    priorityClassName: ""
"""

SCALING = """\
      kind: none # none, hpa (by CPU) or keda (by work that waits or runs)
      min: {least}
      max: {most}
      cpu: 70 # hpa: per cent of what is requested
      scaleDownSeconds: {calm} # less work must last so long before a replica goes
      pollingSeconds: {polling} # keda: between two looks
      triggers:{triggers}"""


def values(plan: Plan, image: str) -> str:
    """The text. `image` is registry and repository, without a tag."""
    registry, repository = split(image)
    api = next((group.name for group in plan.groups if group.api_port is not None), "")
    parts = [
        HEAD.format(
            app=plan.app,
            target=_said(plan.target),
            api=_said(api),
            embedded=_said(plan.embedded),
            registry=_said(registry),
            repository=_said(repository),
            settings="".join(f"  {name}: {_said(value)}\n" for name, value in settings_of(plan).items()),
            secrets=_secrets(plan),
            user=USER,
        )
    ]
    if api:
        parts.append(API)
    if plan.embedded:
        parts.append(PERSISTENCE)
    parts.append("\n# One Deployment each.\ngroups:\n")
    parts.append("\n".join(_group(group) for group in plan.groups))
    parts.append(FOOT)
    return "".join(parts)


def split(image: str) -> tuple[str, str]:
    """Registry (empty for the usual one) and repository."""
    first, _, rest = image.partition("/")
    return (first, rest) if rest and ("." in first or ":" in first or first == "localhost") else ("", image)


def settings_of(plan: Plan) -> Mapping[str, str]:
    """What the plan was derived from, and the addresses that probes and Services reach: the same in every pod."""
    found = plan.settings
    health_port = plan.groups[0].health_port
    settings = {
        "TIDEMILL_GRACE": f"{found.grace:g}",
        "TIDEMILL_LAME_DUCK": f"{lame_duck(found):g}",
        "TIDEMILL_HEALTH_HOST": "0.0.0.0",
        "TIDEMILL_HEALTH_PORT": str(health_port),
    }
    if any(group.api_port is not None for group in plan.groups):
        settings |= {"TIDEMILL_API_HOST": "0.0.0.0", "TIDEMILL_API_PORT": str(found.api_port)}
    return settings | {name: _in_volume(url) for name, url in _places(found) if scheme(url) in Embedded}


def secret_settings(plan: Plan) -> tuple[str, ...]:
    """The variables with the URLs of databases and brokers, which may have passwords in them. If nobody has said where
    everything lives, the Secret will."""
    found = [name for name, url in _places(plan.settings) if scheme(url) not in Embedded]
    unsaid = not plan.settings.database and not plan.settings.store
    return ("TIDEMILL_DATABASE", *found) if unsaid else tuple(found)


def _places(settings: Settings) -> Iterator[tuple[str, str]]:
    for name, url in (("TIDEMILL_DATABASE", settings.database), ("TIDEMILL_STORE", settings.store)):
        if url:
            yield name, url
    for name, part in settings.queues.items():
        yield setting("queues", name), part.url
    for name, part in settings.collections.items():
        yield setting("collections", name), part.url


def _in_volume(url: str) -> str:
    """The same file name, in the volume."""
    return f"sqlite:///{DATA}/{urlsplit(url).path.rpartition('/')[2]}"


def _secrets(plan: Plan) -> str:
    names = secret_settings(plan)
    return "".join(
        f'\n  {name}:\n    existingSecret: {_said(plan.app)}\n    key: {name}\n    value: ""' for name in names
    ) or (" {}")


def _group(group: Group) -> str:
    return GROUP.format(
        name=group.name,
        what=_what(group),
        replicas=group.replicas,
        most=_most(group),
        termination=group.termination,
        ready=group.rollout.ready_seconds,
        deadline=600 + group.termination,
        surge=group.rollout.surge,
        unavailable=group.rollout.unavailable,
        startup=_probe(group.probes.startup),
        readiness=_probe(group.probes.readiness),
        liveness=_probe(group.probes.liveness),
        memory=group.memory_mb,
        memory_limit=2 * group.memory_mb,
        autoscaling=SCALING.format(
            least=group.replicas, most=group.most, calm=CALM, polling=POLLING, triggers=_triggers(group)
        ),
    )


def _what(group: Group) -> str:
    served = ["the web API"] if group.api_port is not None else []
    return ", ".join([*served, *group.workers])


def _most(group: Group) -> str:
    if group.partitions is None or group.most != group.partitions:
        return f" # at most {group.most}"
    return f" # at most {group.most}: each partition is one replica's, and there are no more"


def _probe(probe: Probe) -> str:
    return f"{{periodSeconds: {probe.period}, timeoutSeconds: {probe.timeout}, failureThreshold: {probe.failures}}}"


def _triggers(group: Group) -> str:
    if not group.triggers:
        return " [] # keda: it has no work that is counted"
    lines: list[str] = []
    for kind, name, metadata in triggers(group):
        lines += [f"        - type: {kind}", f"          name: {_said(name)}", "          metadata:"]
        lines += [f"            {key}: {_said(value)}" for key, value in metadata.items()]
    return "\n" + "\n".join(lines)


def triggers(group: Group) -> list[tuple[str, str, Mapping[str, str]]]:
    """KEDA's triggers: type, name and metadata. Where it can count by itself it does; for all else it asks the group.

    Which one replica is enough for is told for the slowest worker: one too many costs little, and there is a maximum.
    """
    native = [_native(trigger) for trigger in group.triggers]
    found = [one for one in native if one is not None]
    others = [trigger for trigger, one in zip(group.triggers, native, strict=True) if one is None]
    if others:
        target = str(min(trigger.per_replica for trigger in others))
        found.append(("metrics-api", "work", {"targetValue": target}))
    return found


def _native(trigger: Trigger) -> tuple[str, str, Mapping[str, str]] | None:
    if trigger.kind != "queue":
        return None
    much = str(trigger.per_replica)
    match trigger.scheme:
        case "postgresql":
            asked = {"connectionFromEnv": trigger.setting, "query": trigger.query, "targetQueryValue": much}
            return "postgresql", trigger.source, asked
        case "azure-storage-queue":
            asked = {"accountName": trigger.account, "queueName": trigger.source, "queueLength": much}
            return "azure-queue", trigger.source, {**asked, "queueLengthStrategy": "all"}
        case "azure-service-bus":
            namespace = trigger.account.partition(".")[0]
            asked = {"namespace": namespace, "queueName": trigger.source, "messageCount": much}
            return "azure-servicebus", trigger.source, asked
        case _:
            return None


def _said(value: str | bool) -> str:
    """A scalar of YAML: JSON's are."""
    return json.dumps(value, ensure_ascii=False)
