{{- define "imagefs.image" -}}
{{ required "image.repository: where you pushed what `make image` made" .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "imagefs.pod" -}}
hostNetwork: true
dnsPolicy: Default
priorityClassName: {{ .Values.priorityClassName }}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
nodeSelector: {{ toJson (merge (dict "kubernetes.io/os" "linux") .Values.nodeSelector) }}
tolerations: {{ toJson .Values.tolerations }}
{{- end }}

{{- define "imagefs.settings" -}}
- {name: CONTAINERD_CONFIG_DIR, value: {{ .Values.containerd.configDir | quote }}}
- {name: CONTAINERD_ROOT, value: {{ .Values.containerd.root | quote }}}
- {name: CONTAINERD_RESTART, value: {{ .Values.containerd.restart | quote }}}
- {name: CONTAINERD_DROP_IN, value: {{ .Values.containerd.dropIn | quote }}}
- {name: DEFAULT_SNAPSHOTTER, value: {{ .Values.containerd.defaultSnapshotter | quote }}}
- {name: RUNTIME_HANDLER, value: {{ .Values.runtimeClass | quote }}}
- {name: RUNTIME_TYPE, value: {{ .Values.containerd.runtimeType | quote }}}
{{- with .Values.containerd.check }}
- {name: CONTAINERD_CHECK, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{/*
Where the daemon mounts: a volume for each directory, which the node sees. The run directory as a whole does not do; it
follows the node, so that the container does not keep mounts that the node has given up.
*/}}
{{- define "imagefs.mounts" -}}
- {name: store, mountPath: /var/lib/imagefs}
- {name: run, mountPath: /run/imagefs, mountPropagation: HostToContainer}
- {name: chains, mountPath: /run/imagefs/chains, mountPropagation: Bidirectional}
- {name: mapped, mountPath: /run/imagefs/mapped, mountPropagation: Bidirectional}
{{- end }}

{{- define "imagefs.volumes" -}}
- {name: store, hostPath: {path: /var/lib/imagefs, type: DirectoryOrCreate}}
- {name: run, hostPath: {path: /run/imagefs, type: DirectoryOrCreate}}
- {name: chains, hostPath: {path: /run/imagefs/chains, type: DirectoryOrCreate}}
- {name: mapped, hostPath: {path: /run/imagefs/mapped, type: DirectoryOrCreate}}
- {name: containerd, hostPath: {path: {{ .Values.containerd.configDir }}, type: DirectoryOrCreate}}
{{- end }}
