{{- /* As JSON, which is YAML. What each is for stands beside its twin in apiha/manifests. */ -}}

{{- define "apiha.families" -}}
{{- $families := list -}}
{{- range .Values.vips -}}
{{- $families = append $families (ternary "IPv6" "IPv4" (contains ":" .)) -}}
{{- end -}}
{{- if ne (len $families) (len (uniq $families)) -}}
{{- fail (printf "vips: %s: a Service has one address of each family; expected one IPv4 address, one IPv6 address, or one of each" (join ", " .Values.vips)) -}}
{{- end -}}
{{- $families | toJson -}}
{{- end -}}

{{- define "apiha.updaterArguments" -}}
{{- $arguments := list (printf "--namespace=%s" .Release.Namespace) "--service=apiserver" -}}
{{- range .Values.vips -}}
{{- $arguments = append $arguments (printf "--vip=%s" .) -}}
{{- end -}}
{{- append $arguments (printf "--host=%s" .Values.host) | toJson -}}
{{- end -}}

{{- define "apiha.apiServerPorts" -}}
{{- $rules := list (dict "protocol" "TCP" "port" 443) -}}
{{- if ne (int .Values.port) 443 -}}
{{- $rules = append $rules (dict "protocol" "TCP" "port" (int .Values.port)) -}}
{{- end -}}
{{- $rules | toJson -}}
{{- end -}}

{{- define "apiha.installerArguments" -}}
{{- $arguments := list -}}
{{- with .Values -}}
{{- if .installer.remove -}}
{{- $arguments = list "--remove" (printf "--host=%s" .host) -}}
{{- else -}}
{{- $arguments = list (printf "--vip=%s" (first .vips)) (printf "--host=%s" .host) (printf "--port=%d" (int .port)) -}}
{{- if .installer.controlPlane -}}
{{- $arguments = append $arguments (printf "--control-plane=%s" (join "," .installer.controlPlane)) -}}
{{- end -}}
{{- if .installer.kubelet -}}
{{- $arguments = append $arguments "--kubelet" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $arguments | toJson -}}
{{- end -}}
