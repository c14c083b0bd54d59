{{/* Names and labels that all objects share. */}}
{{- define "drainscope.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" -}}
{{- end }}

{{/* One release for each namespace, so the chart's name is enough; cluster-wide objects carry the namespace too. */}}
{{- define "drainscope.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "drainscope.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "drainscope.selector" -}}
app.kubernetes.io/name: drainscope
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "drainscope.labels" -}}
{{ include "drainscope.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "drainscope.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "drainscope.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "drainscope.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end }}
