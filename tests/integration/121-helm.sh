#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Helm itself accepts the chart, and renders what the manifests have. Helm is not in Debian: where `helm` is not
# installed, `scripts/helm.sh` builds it by Go's module proxy into build/peers/helm.
. "$(dirname "$0")/../lib/lib.sh"
need go
helm=$(command -v helm || echo "$SOURCE/build/peers/helm/helm")
[ -x "$helm" ] || skip "helm is not installed (scripts/helm.sh builds it)"
kit=$SOURCE/packaging/kubernetes
export HELM_CACHE_HOME=$T/helm HELM_CONFIG_HOME=$T/helm HELM_DATA_HOME=$T/helm
image=(--set image.repository=registry.invalid/imagefs)
"$helm" lint --strict "$kit/chart" "${image[@]}" >"$T/out" 2>&1 || { cat "$T/out"; fail "helm lint"; }
"$helm" template imagefs "$kit/chart" --namespace kube-system "${image[@]}" >"$T/imagefs.yaml"
"$helm" template imagefs "$kit/chart" --namespace kube-system "${image[@]}" --set remove=true >"$T/remove.yaml"
for name in imagefs remove; do
  $PY "$LIB/kubernetes.py" same "$kit/$name.yaml" "$T/$name.yaml" || fail "$name.yaml"
done
"$helm" template imagefs "$kit/chart" "${image[@]}" --set nodeSelector.lazy=yes --set caConfigMap=authorities \
  --set dockerConfigSecret=nodes >"$T/all.yaml"
$PY "$LIB/kubernetes.py" check "$T/all.yaml" || fail "with settings"
