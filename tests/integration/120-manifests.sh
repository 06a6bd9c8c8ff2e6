#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What clusters are given (packaging/kubernetes): the manifests are what the chart gives, the API takes their objects, and
# the volumes are those with which the node sees the daemon's mounts. The check finds mistakes.
. "$(dirname "$0")/../lib/lib.sh"
need go
kit=$SOURCE/packaging/kubernetes
k8s() { $PY "$LIB/kubernetes.py" "$@"; }
chart() { k8s render --set image.repository=registry.invalid/imagefs "$@"; }

chart >"$T/imagefs.yaml"
chart remove=true >"$T/remove.yaml"
for name in imagefs remove; do
  k8s check "$kit/$name.yaml" || fail "$name.yaml"
  k8s same "$kit/$name.yaml" "$T/$name.yaml" || fail "$name.yaml is not what the chart gives"
done
version=$(sed -nE 's/^project\(imagefs VERSION ([0-9.]+).*/\1/p' "$SOURCE/CMakeLists.txt")
grep -qx "version: $version" "$kit/chart/Chart.yaml" && grep -qx "appVersion: \"$version\"" "$kit/chart/Chart.yaml" ||
  fail "the chart has another version than $version"

# With everything set.
chart 'imagePullSecrets=[{name: pull}]' 'nodeSelector={lazy: "yes"}' dockerConfigSecret=nodes caConfigMap=authorities containerd.socketDir=/run/containerd \
  'env=[{name: HTTPS_PROXY, value: "http://proxy.test:3128"}]' containerd.dropIn=plugin containerd.check='"true"' \
  'extraVolumes=[{name: plugins, hostPath: {path: /opt/plugins, type: Directory}}]' \
  'extraVolumeMounts=[{name: plugins, mountPath: /opt/plugins, readOnly: true}]' >"$T/all.yaml"
k8s check "$T/all.yaml" || fail "with everything set"
grep -q 'nodeSelector: {"lazy":"yes"}' "$T/all.yaml" || fail "the class does not lead to the nodes that have it"
k8s env "$T/all.yaml" imagefs imagefsd >"$T/env"
grep -qx HTTPS_PROXY=http://proxy.test:3128 "$T/env" && grep -qx IMAGEFS_CA_FILE=/etc/imagefs-ca/ca.pem "$T/env" || fail "environment"
chart remove=true purge=true force=true >"$T/purge.yaml"
k8s env "$T/purge.yaml" imagefs-remove remove | grep -cE '^(PURGE|FORCE)=yes$' | grep -qx 2 || fail "purge"
! k8s render 2>"$T/err" || fail "the chart renders without an image"
grep -q 'image.repository: where you pushed' "$T/err" || { cat "$T/err"; fail "it does not say what is missing"; }

# Mistakes: a substitution, and what is said of it.
while IFS='|' read -r change says; do
  sed -E "$change" "$kit/imagefs.yaml" >"$T/wrong.yaml"
  ! cmp -s "$kit/imagefs.yaml" "$T/wrong.yaml" || fail "nothing is changed by $change"
  ! k8s check "$T/wrong.yaml" >"$T/out" || fail "not found: $change"
  grep -qE "$says" "$T/out" || { cat "$T/out"; fail "$change: does not say $says"; }
done <<'MISTAKES'
s/(mountPath: .run.imagefs), mountPropagation: HostToContainer/\1, mountPropagation: Bidirectional/|run/imagefs must be HostToContainer
s/(run.imagefs.chains), mountPropagation: Bidirectional/\1/|chains is not seen by the node
s/- \{name: mapped, mountPath.*//|no volume at /run/imagefs/mapped
s/privileged: true/privileged: false/|Bidirectional is for privileged
s/mountPropagation/mountPropogation/|mountPropogation is not a field
s/path: .run.imagefs.chains/path: \/run\/imagefs2\/chains/|chains is /run/imagefs2/chains on the node
s/hostPID: true//|hostPID
s/matchLabels: \{app.*/matchLabels: {app: other}/|does not select
s/type: DirectoryOrCreate/type: Dir/|does not match DirectoryOrCreate
s/args: \[run\]/args: run/|not a list
s/kind: RuntimeClass/kind: RuntimeClasses/|is not known
s/^handler: .*//|handler is missing
s/type: OnDelete/type: OnDelete, rollingUpdate: {maxUnavailable: 1}/|belongs to RollingUpdate
s/maxUnavailable: 1/maxUnavailable: one/|not of type int
MISTAKES
