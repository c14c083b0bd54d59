{{/*
After an uninstall: a pod on every node (DaemonSet) waits for the node's agent to end, and removes what it had pinned. Helm waits for Jobs
only; so a Job does the same on one node, stays while the others finish, and then Helm removes both.
*/}}
{{- define "drainscope.cleanup.metadata" -}}
name: {{ include "drainscope.name" . }}-cleanup
namespace: {{ .Release.Namespace }}
labels:
  {{- include "drainscope.labels" . | nindent 2 }}
  app.kubernetes.io/component: cleanup
annotations:
  helm.sh/hook: post-delete
  helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded,hook-failed
{{- end }}

{{/* The pods' spec, but for what a DaemonSet's and a Job's differ in. */}}
{{- define "drainscope.cleanup.pod" -}}
# The service account is gone by now, and no API is needed.
automountServiceAccountToken: false
terminationGracePeriodSeconds: 5
priorityClassName: {{ .Values.priorityClassName }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
volumes:
  - name: bpffs
    hostPath:
      path: {{ .Values.pins.bpffs }}
      type: Directory
{{- end }}

{{- define "drainscope.cleanup.container" -}}
name: cleanup
image: {{ include "drainscope.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
resources:
  requests:
    cpu: 10m
    memory: 16Mi
  limits:
    memory: 64Mi
# Unlinking pins needs no capability.
securityContext:
  privileged: false
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  runAsUser: 0
  runAsGroup: 0
  seccompProfile:
    type: RuntimeDefault
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: bpffs
    mountPath: /host/bpf
{{- end }}
