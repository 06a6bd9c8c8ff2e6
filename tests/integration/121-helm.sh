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
# Without a cluster, helm takes one of the version that whoever built it said; `go install` says none, and it is 1.20.
gives() { "$helm" template imagefs "$kit/chart" --kube-version "${KUBE:-1.25.0}" "${image[@]}" "$@"; }
gives --namespace kube-system >"$T/imagefs.yaml"
gives --namespace kube-system --set remove=true >"$T/remove.yaml"
for name in imagefs remove; do
  $PY "$LIB/kubernetes.py" same "$kit/$name.yaml" "$T/$name.yaml" || fail "$name.yaml"
done
gives --namespace kube-system --set nodeSelector.lazy=yes --set caConfigMap=authorities --set dockerConfigSecret=nodes >"$T/all.yaml"
$PY "$LIB/kubernetes.py" check "$T/all.yaml" || fail "with settings"
# The other tests render it by themselves: to the same objects.
$PY "$LIB/kubernetes.py" render --set image.repository=registry.invalid/imagefs 'nodeSelector={lazy: "yes"}' caConfigMap=authorities \
  dockerConfigSecret=nodes >"$T/ours.yaml"
$PY "$LIB/kubernetes.py" same "$T/ours.yaml" "$T/all.yaml" || fail "helm renders something else"
# What a managed cluster calls its version is accepted; one that is too old is refused with the reason.
KUBE=1.25.3-gke.100 gives >/dev/null || fail "a version with a suffix"
! KUBE=1.24.17 gives >"$T/out" 2>&1 || fail "a cluster that is too old"
grep -q 'requires kubeVersion: >=1.25.0' "$T/out" || { cat "$T/out"; fail "it does not say what is too old"; }
