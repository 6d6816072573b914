{{/*
Templates are shared by all charts under one umbrella, and the last one loaded counts. So their names carry a number,
which is raised when what they give changes.
*/}}

{{/* A name of at most so many characters; one that was cut ends with a hash, so that no two become the same. */}}
{{- define "tidemill.v1.cut" -}}
{{- $name := index . 0 -}}
{{- $most := index . 1 | int -}}
{{- if gt (len $name) $most -}}
{{- printf "%s-%s" ($name | trunc (int (sub $most 7)) | trimSuffix "-") ($name | sha256sum | trunc 6) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end -}}

{{/* What everything is called; a release may begin with a digit or have dots, a Service may not. */}}
{{- define "tidemill.v1.fullname" -}}
{{- $name := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- $name = .Values.fullnameOverride | default $name | replace "." "-" -}}
{{- if regexMatch "^[0-9]" $name }}{{ $name = printf "r%s" $name }}{{ end -}}
{{- include "tidemill.v1.cut" (list $name 50) -}}
{{- end -}}

{{/* What the things of one group are called: (list $ group). */}}
{{- define "tidemill.v1.component" -}}
{{- $root := index . 0 -}}
{{- $group := index . 1 -}}
{{- $room := sub 55 (len $group) -}}
{{- printf "%s-%s" (include "tidemill.v1.cut" (list (include "tidemill.v1.fullname" $root) $room)) $group -}}
{{- end -}}

{{/* What pods are found by. It never changes: a Deployment's selector cannot. */}}
{{- define "tidemill.v1.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "tidemill.v1.labels" -}}
{{ include "tidemill.v1.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | replace "+" "-" | trunc 63 | trimAll "-._" | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimAll "-._" }}
{{- end -}}

{{- define "tidemill.v1.image" -}}
{{- $image := .Values.image -}}
{{- $registry := (.Values.global).imageRegistry | default $image.registry -}}
{{- $repository := empty $registry | ternary $image.repository (printf "%s/%s" $registry $image.repository) -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- $tag := $image.tag | default (.Chart.AppVersion | replace "+" "-") -}}
{{- if eq $tag "latest" }}{{ fail "image.tag: latest is another image tomorrow; set image.digest, or a tag of one build" }}{{ end -}}
{{- printf "%s:%s" $repository $tag -}}
{{- end -}}
{{- end -}}

{{- define "tidemill.v1.pullSecrets" -}}
{{- range concat ((.Values.global).imagePullSecrets | default list) .Values.imagePullSecrets }}
- name: {{ kindIs "string" . | ternary . (get (kindIs "map" . | ternary . dict) "name") }}
{{- end }}
{{- end -}}

{{- define "tidemill.v1.account" -}}
{{- .Values.serviceAccount.create | ternary (.Values.serviceAccount.name | default (include "tidemill.v1.fullname" .)) (.Values.serviceAccount.name | default "default") -}}
{{- end -}}

{{/* The secrets whose values stand in the values, as the data of a Secret. */}}
{{- define "tidemill.v1.secrets" -}}
{{- range $name, $secret := .Values.secrets }}
{{- if and $secret $secret.value }}
{{ $name }}: {{ $secret.value | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "tidemill.v1.probe" -}}
httpGet:
  path: {{ index . 0 }}
  port: health
{{- with index . 1 }}
periodSeconds: {{ .periodSeconds }}
timeoutSeconds: {{ .timeoutSeconds }}
failureThreshold: {{ .failureThreshold }}
{{- end }}
{{- end -}}
